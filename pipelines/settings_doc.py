"""docs/settings.md from the models of config.py: every setting with its type, range, default and the comment beside it.

Write it anew after a change of the settings: python -m pipelines.settings_doc
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipelines.config import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
COMMAND = "python -m pipelines.settings_doc"
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any setting"}
BOUNDS = {"ge": ">= {:g}", "gt": "> {:g}", "le": "<= {:g}", "lt": "< {:g}"}  # as an error tells them (explain.py)
INTRO = f"""# Settings

Every setting that `params.yaml` may hold, by its dotted path. A section is named after its stage; its parts `image`,
`series` and `row` are needed where a data set of that modality is in use. A setting without a default must be given.

Made from `pipelines/config.py`, do not edit: `{COMMAND}`
"""


@dataclass(frozen=True)
class Setting:
    """One line of the page; default: as in params.yaml, None where the setting must be given."""

    path: str
    type: str
    range: str
    default: str | None
    comment: str


def settings(model: type[BaseModel], path: str = "", given: BaseModel | None = None) -> Iterator[Setting]:
    """Every leaf below a model. given: an instance that stands as the default of the model's own field."""
    told = comments(model)
    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}".lstrip(".")
        value = getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        inner, named = nested(field.annotation)
        if inner:
            yield from settings(inner, f"{here}.<name>" if named else here, value if isinstance(value, inner) else None)
            continue
        default = None if value is PydanticUndefined else json.dumps(value)
        comment = told.get(name) or field.description or ""
        yield Setting(here, words(field.annotation), limits(field.annotation, field.metadata), default, comment)


def nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """(model that a setting holds or None, whether it holds several by name)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is dict:
        return nested(parts[1])[0], True
    found = [nested(part) for part in parts] if get_origin(annotation) is not Literal else []
    return next((one for one in found if one[0]), (None, False))


def words(annotation: Any) -> str:
    """A type in words a user knows."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return words(parts[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(part) if not isinstance(part, str) else part}`" for part in parts)
    if origin in (list, tuple, set):
        return f"list of {words(parts[0])}"
    if origin is dict:
        return f"{words(parts[1])} by name"
    if parts:
        return " or ".join(words(part) for part in parts if part is not NoneType)
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def limits(annotation: Any, marks: list) -> str:
    """The bounds of a value, or of the number of a list's items and of each item: "2 items, each >= 0, <= 1"."""
    told = [text.format(getattr(mark, name)) for mark in marks for name, text in BOUNDS.items() if hasattr(mark, name)]
    least = next((mark.min_length for mark in marks if hasattr(mark, "min_length")), 0)
    most = next((mark.max_length for mark in marks if hasattr(mark, "max_length")), None)
    several = get_origin(annotation) in (list, dict)
    if several and (least or most):
        told.append(f"{least} items" if least == most else f"{least} to {most} items" if most else f">= {least} items")
    elif least:
        told.append("not empty")
    for part in get_args(annotation):
        if hasattr(part, "__metadata__"):
            held = [info.metadata if isinstance(info, FieldInfo) else [info] for info in part.__metadata__]
            if inner := limits(get_args(part)[0], list(chain.from_iterable(held))):
                told.append(f"each {inner}" if several else inner)
    return ", ".join(told)


# the source


@cache
def source(path: str) -> tuple[ast.Module, dict[int, str]]:
    """(tree, {line: comment}) of a file."""
    text = Path(path).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return ast.parse(text), found


def comments(model: type[BaseModel]) -> dict[str, str]:
    """{field: the comment behind it} of a model and of those it inherits from."""
    told: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls.__module__.startswith("pydantic"):
            continue
        tree, found = source(inspect.getsourcefile(cls))
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
        for node in next(node.body for node in classes if node.name == cls.__name__):
            if isinstance(node, ast.AnnAssign) and node.end_lineno in found:
                told[node.target.id] = found[node.end_lineno]
    return told


def headings() -> dict[str, str]:
    """{section: what the line "# section: what" of the settings' source says of it}."""
    told = {}
    for comment in source(inspect.getsourcefile(Settings))[1].values():
        names, _, text = comment.partition(": ")
        if text and all(name in Settings.model_fields for name in names.split(", ")):
            told |= dict.fromkeys(names.split(", "), text)
    return told


# the page


def render() -> str:
    """The page as Markdown: a table a section."""
    sections: dict[str, list[Setting]] = {}
    for setting in settings(Settings):
        sections.setdefault(setting.path.split(".")[0], []).append(setting)
    told, lines = headings(), [INTRO]
    for name, found in sections.items():
        lines += [f"## {name}", "", *([told[name], ""] if name in told else [])]
        lines += ["| setting | type | range | default | what it is |", "|---|---|---|---|---|"]
        lines += [line(setting) for setting in found]
        lines.append("")
    return "\n".join(lines)


def line(setting: Setting) -> str:
    """A row of a table; what would end a cell or be taken for HTML is escaped in the comment."""
    comment = re.sub(r"[|<]", r"\\\g<0>", setting.comment)
    default = f"`{setting.default}`" if setting.default is not None else ""
    return "| " + " | ".join([f"`{setting.path}`", setting.type, setting.range, default, comment]) + " |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE}: written")
