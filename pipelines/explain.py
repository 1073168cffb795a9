"""A YAML file held against strict models: one line says where it is wrong, the rule broken, and what was meant."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import SettingsError, closest


class Model(BaseModel):
    """Unknown keys, silent conversions, NaN and infinity are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


CORE = {  # the core schema of YAML 1.2.2, section 10.3.2
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d+", "-+0123456789"),
    "float": (r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
}


class Loader(yaml.SafeLoader):
    """YAML 1.2 as DVC reads it: 1e-4 is a number, `no` and dates are text; a key given twice is a mistake."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [pair for pair in pairs if pair[0].split(":")[-1] not in (*CORE, "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for name, (pattern, first) in CORE.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{name}", re.compile(f"({pattern})$"), list(first))
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 010 is ten


def read_yaml(path: Path) -> Any:
    """The parsed file; SettingsError with the line where it is torn, or where it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        rule = "must be a readable file; run from the repository's root"
        raise SettingsError(f"{path}: {rule}, got {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}: line {line}: must be UTF-8 text") from error
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise SettingsError(f"{path}: {where}not valid YAML, {' '.join(what.split())}") from error


def validate(model: type[Model], raw: Any, *, where: str) -> Any:
    """A `model` of `raw`; SettingsError of one line that starts with `where`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # a typo is both an unknown key and a missing one: the first explains the second
        first, *more = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        tail = f" (and {len(more)} more)" if more else ""
        raise SettingsError(where + explain(model, first) + tail) from None


def explain(model: type[Model], error: dict) -> str:
    """`dotted.path: rule, value` of one pydantic error."""
    location = [str(part) for part in error["loc"] if part != "[key]"]
    path, kind, context = ".".join(plain(part) for part in location), error["type"], error.get("ctx", {})
    got = show(error["input"])
    if kind == "extra_forbidden":
        valid = fields_at(model, location[:-1])
        return f"{path}: unknown key; {closest(location[-1], valid) if valid else 'nothing can be set here'}"
    if kind == "missing":
        near = difflib.get_close_matches(location[-1], map(str, error["input"]), n=1, cutoff=0.5)
        return f"{path}: is required" + (f"; '{near[0]}' was found instead" if near else "")
    if kind == "literal_error":
        return f"{path}: must be {context['expected']}, got {got}"
    rules = {
        "int_type": "must be a whole number", "int_from_float": "must be a whole number",
        "float_type": "must be a number", "bool_type": "must be true or false", "string_type": "must be text",
        "list_type": "must be a list", "dict_type": "must hold keys and values",
        "model_type": "must hold keys and values", "finite_number": "must be a finite number",
        "greater_than_equal": f"must be >= {bound(context, 'ge')}", "greater_than": f"must be > {bound(context, 'gt')}",
        "less_than_equal": f"must be <= {bound(context, 'le')}", "less_than": f"must be < {bound(context, 'lt')}",
        "too_short": f"must have at least {context.get('min_length')} items",
        "too_long": f"must have at most {context.get('max_length')} items",
        "string_too_short": "must not be empty",
    }
    own = str(context["error"]) if kind == "value_error" else error["msg"]  # of a validator of ours
    return f"{path}: {rules.get(kind, own)}, got {got}"


def bound(context: dict, name: str) -> str:
    """A limit as it is written in settings."""
    return f"{context[name]:g}" if name in context else ""


def fields_at(model: type[Model], location: list[str]) -> list[str]:
    """Keys that the model at a location knows; dictionaries of models are stepped through."""
    for part in location:
        fields = getattr(model, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else model
        model = next((a for a in walk(annotation) if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def walk(annotation: Any):
    """An annotation and all it is made of."""
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from walk(part)


def plain(part: str) -> str:
    """A key fit for one line of a message."""
    return part if part.isprintable() and len(part) <= 60 else show(part)


def show(value: Any) -> str:
    """A value fit for one line of a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
