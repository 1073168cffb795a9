"""docs/settings.md: current, complete, and true to the models and the comments in their source."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field
from test_config import ROOT

from data.errors import SettingsError
from pipelines.explain import Model
from pipelines.settings import load_settings
from pipelines.settings_doc import COMMAND, PAGE, comments, headings, line, render, settings


class Inner(Model):
    low: Annotated[float, Field(gt=0, le=2.5)]  # of the
    # not this, it stands elsewhere
    high: float = 3.0  # upper end


class Base(Model):
    kept: int  # inherited
    changed: int  # of the base


class Whole(Base):
    changed: int = 4  # a | b <c>
    inner: Inner
    defaulted: Inner = Inner(low=1.0, high=2.0)
    several: dict[str, Inner]
    either: Inner | None = None
    mode: Literal["a", "b", 3]
    span: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    free: dict[str, Any] | None = None
    word: Annotated[str, Field(min_length=1, description="said in the field")]
    many: Annotated[list[int], Field(min_length=1)] = Field(default=[1, 2])
    copy_: bool = Field(default=True, alias="copy")


def found() -> dict[str, tuple]:
    return {s.path: (s.type, s.range, s.default, s.comment) for s in settings(Whole)}


def test_every_leaf_is_told_with_type_range_default_and_comment():
    assert found() == {
        "kept": ("whole number", "", None, "inherited"),
        "changed": ("whole number", "", "4", "a | b <c>"),
        "inner.low": ("number", "> 0, <= 2.5", None, "of the"),
        "inner.high": ("number", "", "3.0", "upper end"),
        "defaulted.low": ("number", "> 0, <= 2.5", "1.0", "of the"),
        "defaulted.high": ("number", "", "2.0", "upper end"),
        "several.<name>.low": ("number", "> 0, <= 2.5", None, "of the"),
        "several.<name>.high": ("number", "", "3.0", "upper end"),
        "either.low": ("number", "> 0, <= 2.5", None, "of the"),
        "either.high": ("number", "", "3.0", "upper end"),
        "mode": ("`a` or `b` or `3`", "", None, ""),
        "span": ("list of number", "2 items, each >= 0, < 1", None, ""),
        "free": ("any setting by name", "", "null", ""),
        "word": ("text", "not empty", None, "said in the field"),
        "many": ("list of whole number", ">= 1 items", "[1, 2]", ""),
        "copy": ("true or false", "", "true", ""),
    }
    assert list(found())[:2] == ["kept", "changed"]


def test_a_comment_can_neither_end_a_cell_nor_be_html():
    told = next(s for s in settings(Whole) if s.path == "changed")
    assert line(told) == r"| `changed` | whole number |  | `4` | a \| b \<c> |"


def test_the_committed_page_is_current():
    assert PAGE == ROOT / "docs" / "settings.md" and PAGE.read_text() == render(), f"run {COMMAND}"


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """{dotted path: value}; an empty mapping is none."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, part in value.items() for k, v in leaves(part, f"{path}.{name}".lstrip(".")).items()}


IN_USE = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


@pytest.mark.parametrize("path", IN_USE, ids=lambda path: path.name)
def test_every_setting_in_use_stands_on_the_page(path):
    """Options of a reader and what a round changes stand there as one line each: their names are others' matter."""
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    on_page = {row.split("`")[1] for row in rows}
    free = (*(f"{row.split('`')[1]}." for row in rows if "| any setting by name |" in row), "datasets.<name>.source.",
            "publish.licence.")
    raw = yaml.safe_load(path.read_text())
    used = {f"datasets.<name>.{rest}" for rest in leaves(next(iter(raw.pop("datasets").values())))} | set(leaves(raw))
    assert len(on_page) > 100 and [name for name in used - on_page if not name.startswith(free)] == []


def without(value: Any, names: dict, path: str = "") -> Any:
    """A mapping without the leaves of these dotted paths."""
    if not isinstance(value, dict):
        return value
    below = {name: f"{path}.{name}".lstrip(".") for name in value}
    return {name: without(part, names, below[name]) for name, part in value.items() if below[name] not in names}


def test_a_default_on_the_page_is_the_value_that_leaving_it_out_gives(tmp_path):
    rows = [row.split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    rows = [row for row in rows if row[3] and row[1] != "any setting by name"]  # those must be there while in use
    defaults = {name.strip("| `"): json.loads(default.strip("`")) for name, _, _, default, *_ in rows}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(without(yaml.safe_load((ROOT / "params.yaml").read_text()), defaults)))
    loaded = leaves(load_settings(path).model_dump(by_alias=True))
    compared = defaults.keys() & loaded.keys()
    assert len(compared) > 10 and [name for name in compared if loaded[name] != defaults[name]] == []


def test_a_range_on_the_page_is_the_one_that_is_enforced(tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    row = next(row for row in PAGE.read_text().splitlines() if row.startswith("| `prepare.folds`"))
    low = int(row.split(" | ")[2].split(", ")[0].removeprefix(">= "))
    raw["prepare"]["folds"] = low - 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(SettingsError, match=f"prepare.folds: must be >= {low}"):
        load_settings(tmp_path / "params.yaml")


def test_section_lines_of_the_source_head_their_tables():
    assert headings()["fit"] == "the base on normals"
    assert f"## fit\n\n{headings()['fit']}\n\n| setting |" in render()


def test_a_model_of_another_file_is_read_from_that_file():
    class Other(BaseModel):
        x: int = 1  # here

    assert comments(Other) == {"x": "here"} and comments(Inner)["high"] == "upper end"
