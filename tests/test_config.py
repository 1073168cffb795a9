"""params.yaml: what is there validates, and every mistake is one line that names the place and the mend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.errors import SettingsError
from pipelines.config import BY_MODALITY
from pipelines.explain import Loader
from pipelines.settings import load_settings

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]


def edited(tmp_path: Path, *changes: tuple[str, object], drop: str = "") -> Path:
    """The demo's params.yaml with values put at dotted paths, and one path removed."""
    raw = yaml.load((ROOT / "params.yaml").read_text(), Loader)
    for path, value in changes:
        at, last = raw, path.split(".")[-1]
        for part in path.split(".")[:-1]:
            at = at[part]
        at[last] = value
    if drop:
        at = raw
        for part in drop.split(".")[:-1]:
            at = at[part]
        del at[drop.split(".")[-1]]
    out = tmp_path / "params.yaml"
    out.write_text(yaml.safe_dump(raw))
    return out


def message(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    text = str(caught.value)
    assert "\n" not in text and caught.value.exit_code == 2
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_settings_that_are_shipped_validate(path):
    settings = load_settings(path)
    for dataset in settings.datasets.values():
        for stage in BY_MODALITY:
            assert settings.section(stage, dataset.modality) is not None


def test_presets_hold_the_supports_and_seeds_they_promise():
    found = {p.stem: load_settings(p) for p in FILES[1:]}
    told = {name: (s.prepare.seeds, s.datasets[name].source.reader) for name, s in found.items()}
    assert told == {"deeppcb": (3, "deeppcb"), "magnetic_tile": (3, "mvtec"), "nsl_kdd": (5, "csv"), "smd": (3, "npz"),
                    "thyroid_sick": (5, "csv")}  # fmt: skip
    assert {found[name].prepare.support for name in found if name != "smd"} == {10}
    assert 5 <= found["smd"].prepare.support <= 10 and found["smd"].prepare.series.window == 64


@pytest.mark.parametrize("path, value, expected", [
    ("fit.image.stepz", 3, "fit.image.stepz: unknown key; did you mean 'steps'?"),
    ("fit.image.latent.chanels", 3, "fit.image.latent.chanels: unknown key; did you mean 'channels'?"),
    ("fliter", {}, "fliter: unknown key; did you mean 'filter'?"),
    ("filter.row.copyy", 0.1, "filter.row.copyy: unknown key; did you mean 'copy'?"),
    ("datasets.cells.modalty", "row", "datasets.cells.modalty: unknown key; did you mean 'modality'?"),
    ("prepare.row.zzz", 1, "prepare.row.zzz: unknown key; nothing can be set here"),
    ("fit.image.steps", "many", "fit.image.steps: must be a whole number, got 'many'"),
    ("fit.image.steps", 3.0, "fit.image.steps: must be a whole number, got 3.0"),
    ("fit.image.batch", True, "fit.image.batch: must be a whole number, got True"),
    ("fit.image.batch", None, "fit.image.batch: must be a whole number, got None"),
    ("fit.image.lr", "fast", "fit.image.lr: must be a number, got 'fast'"),
    ("fit.image.lr", float("nan"), "fit.image.lr: must be a finite number, got nan"),
    ("fit.image.lr", 0.0, "fit.image.lr: must be > 0, got 0.0"),
    ("prepare.strict", "no", "prepare.strict: must be true or false, got 'no'"),
    ("prepare.seeds", 0, "prepare.seeds: must be >= 1, got 0"),
    ("prepare.test_share", 1.0, "prepare.test_share: must be < 1, got 1.0"),
    ("prepare.image", [], "prepare.image: must hold keys and values, got []"),
    ("device", "gpu", "device: must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    ("datasets.cells.modality", "rows", "datasets.cells.modality: must be 'image', 'series' or 'row', got 'rows'"),
    ("datasets.cells.source.reader", "cvs", "datasets.cells.source.reader: must be 'mvtec', 'folder', 'deeppcb', "
     "'csv', 'npz' or 'demo', got 'cvs'"),
    ("generate.row.strength", [0.4], "generate.row.strength: must have at least 2 items, got [0.4]"),
    ("generate.row.strength", [0.4, 1.5], "generate.row.strength.1: must be <= 1, got 1.5"),
    ("datasets", {}, "datasets: must have at least 1 items, got {}"),
    ("gate.row.arms", ["filtered", "mixed"], "gate.row.arms: must name real, which every other arm is held against, "
     "got ['filtered', 'mixed']"),
    ("tune.r1.row", {"steps": 3}, "tune.r1.row: must be empty, round 1 generates with the adapters of adapt; change r2 "
     "or r3, got {'steps': 3}"),
    ("generate.row.strength", [0.9, 0.2], "generate.row.strength: must be the lower, then the higher: [0.2, 0.9], "
     "got [0.9, 0.2]"),
    ("filter.row.low", 0.95, "filter.row.high: must be >= low, 0.95, got 0.9"),
    ("filter.row.ceiling", 0.4, "filter.row.ceiling: must be >= floor, 0.5, got 0.4"),
    ("filter.r2.row", {"high": 0.05}, "filter.r2.row.high: must be >= low, 0.1, got 0.05"),
    ("fit.image.size", 50, "fit.image.size: must be a multiple of 8, latent.factor times 2 for each of widths but the "
     "first, got 50; the closest is 48"),
    ("fit.image.widths", [32] * 6, "fit.image.size: must be a multiple of 128, latent.factor times 2 for each of "
     "widths but the first, got 48; the closest is 128"),
    ("fit.series.patch", 5, "fit.series.patch: must divide prepare.series.window, 32, got 5; the closest is 4"),
    ("prepare.series.window", 34, "fit.series.patch: must divide prepare.series.window, 34, got 4; the closest is 2"),
    ("fit.series.width", 97, "fit.series.width: must be a multiple of 4, got 97; the closest is 96"),
    ("fit.series.width", 30, "fit.series.width: must be a multiple of 4, got 30; the closest is 28"),
    ("fit.row.width", 97, "fit.row.width: must be even, got 97; the closest is 96"),
    ("filter.image.criterion", "alike", "filter.image.criterion: must not rank by a judge that "
     "crossfit.image.likelihood: false leaves out, got 'alike'; set that to true, or take 'near'"),
    ("filter.r3.series", {"criterion": "likelihood"}, "filter.r3.series.criterion: must not rank by a judge that "
     "crossfit.series.likelihood: false leaves out, got 'likelihood'; set that to true, or take 'plain'"),
])  # fmt: skip
def test_a_mistake_is_told_with_its_path_and_the_mend(tmp_path, path, value, expected):
    assert message(edited(tmp_path, (path, value))) == expected


def test_settings_beside_those_that_cannot_run_are_taken(tmp_path):
    """A pipeline has a factor of its own, one patch attends to nothing, and limits may be equal."""
    load_settings(edited(tmp_path, ("fit.image.size", 50), ("fit.image.pretrained", "some/model")))
    own = ("fit.image.latent.kind", "pretrained"), ("fit.image.latent.source", "some/model")
    load_settings(edited(tmp_path, ("fit.image.size", 50), *own))
    load_settings(edited(tmp_path, ("fit.series.patch", 32), ("fit.series.width", 30)))
    load_settings(edited(tmp_path, ("filter.row.low", 0.9), ("filter.row.contrast", [1.0, 0.9])))
    load_settings(edited(tmp_path, ("crossfit.image.likelihood", True), ("filter.image.criterion", "alike")))
    load_settings(edited(tmp_path, ("filter.row.criterion", "likelihood")))


SIDES = [(size, factor, widths) for size in (16, 20, 24) for factor in (1, 4) for widths in ([8], [8, 8], [8] * 4)]


@pytest.mark.parametrize("modality, changes", [
    *(("image", {"size": s, "latent.factor": f, "widths": w}) for s, f, w in SIDES),
    *(("series", {"patch": patch, "width": width}) for patch in (1, 3, 4, 32) for width in (3, 4, 6)),
    *(("row", {"width": width}) for width in (1, 2, 3, 4)),
], ids=str)  # fmt: skip
def test_settings_are_refused_exactly_where_the_network_cannot_take_a_record(tmp_path, modality, changes):
    import tiny
    import torch

    from generation.training import fit_base

    torch.set_num_threads(1)
    own = {**tiny.SETTINGS[modality], "steps": 1, "pool": 2, "batch": 2}
    for name, value in changes.items():
        own = {**own, "latent": {**own["latent"], "factor": value}} if "." in name else {**own, name: value}
    path = edited(tmp_path, *((f"fit.{modality}.{name}", value) for name, value in changes.items()))
    try:
        load_settings(path)
    except SettingsError:
        with pytest.raises((SettingsError, RuntimeError, ValueError)):
            fit_base(tiny.make(modality)[0], settings=own, seed=0, device="cpu")
    else:
        fit_base(tiny.make(modality)[0], settings=own, seed=0, device="cpu")


def test_a_typo_is_told_as_unknown_key_rather_than_as_the_missing_one(tmp_path):
    path = edited(tmp_path, ("fit.image.stepz", 3), drop="fit.image.steps")
    assert message(path) == "fit.image.stepz: unknown key; did you mean 'steps'? (and 1 more)"


def test_a_missing_option_of_a_source_names_what_was_written_instead(tmp_path):
    path = edited(tmp_path, ("datasets.cells.source", {"raeder": "demo", "path": "x"}))
    assert message(path) == "datasets.cells.source.reader: is required; 'raeder' was found instead"


def test_options_of_a_reader_pass_through(tmp_path):
    source = {"reader": "csv", "path": "x.csv", "label": "Class", "anomalous": ["a", "b"]}
    settings = load_settings(edited(tmp_path, ("datasets.cells.source", source)))
    assert settings.datasets["cells"].source.options == {"label": "Class", "anomalous": ["a", "b"]}


@pytest.mark.parametrize("name", ["../x", "a/b", "Upper", "-a", "a.b", "a b", "ä", "x" * 41, "", "<b>", "a\nb", "a@b"])
def test_names_that_would_not_do_as_a_folder_are_refused(tmp_path, name):
    demo = {"modality": "row", "source": {"reader": "demo", "path": "data/demo.py"}}
    assert message(edited(tmp_path, ("datasets", {name: demo}))).startswith("datasets: a name must be")


def test_a_section_must_know_the_modalities_in_use_and_no_others(tmp_path):
    assert message(edited(tmp_path, drop="fit.row")) == "fit.row: is required by data set 'cells'"
    raw = yaml.load((ROOT / "params.yaml").read_text(), Loader)
    only = {"cells": raw["datasets"]["cells"]}
    load_settings(edited(tmp_path, ("datasets", only), drop="fit.image"))


def test_a_round_changes_what_it_names_and_nothing_else(tmp_path):
    settings = load_settings(edited(tmp_path, ("generate.r2.image", {"count": 7})))
    first, second = (settings.section("generate", "image", r) for r in (1, 2))
    assert second.count == 7 and first == settings.section("generate", "image") and first.count != 7
    assert second.model_dump() | {"count": first.count} == first.model_dump()
    bar = load_settings(edited(tmp_path, ("filter.r1.row", {"copy": 0.9}))).section("filter", "row", 1)
    assert bar.model_dump(by_alias=True)["copy"] == 0.9


def test_a_round_is_held_to_the_same_rules(tmp_path):
    path = edited(tmp_path, ("generate.r2.image", {"cuont": 7}))
    assert message(path) == "generate.r2.image.cuont: unknown key; did you mean 'count'?"
    assert message(edited(tmp_path, ("filter.r1.row", {"low": 3.0}))) == "filter.r1.row.low: must be <= 1, got 3.0"
    assert message(edited(tmp_path, drop="judge.r1.row")).startswith("judge.r1.row: is required by data set 'cells'")


@pytest.mark.parametrize("text, line", [
    ("a: 1\nb: [1, 2\nc: 3\n", 3), ("a: 1\n\tb: 2\n", 2), ("a: 1\nb: 2\na: 3\n", 3), ("x:\n  y: 1\n  y: 2\n", 3),
    ("a: 'torn\n", 2),
])  # fmt: skip
def test_a_torn_file_is_told_with_its_line(tmp_path, text, line):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert message(path).startswith(f"line {line}, column ")


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a\xff: 1\n", b"!!python/object:os.system {}\n", b"a: &x [*x"])
def test_what_is_not_settings_at_all_is_refused(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    message(path)


def test_a_missing_file_is_told(tmp_path):
    assert "run from the repository's root" in message(tmp_path / "params.yaml")


def test_yaml_is_read_as_dvc_reads_it():
    """PyYAML alone takes 1e-4 for text, `no` for false and 2020-01-01 for a date."""
    from ruamel.yaml import YAML

    text = "[1e-4, 1.0e-4, -2E3, no, on, true, 3, 3.5, .5, '1', null, 0.5e1, 010, +3, 3., 0.1.2]"
    assert yaml.load("10:30", Loader) == YAML(typ="safe").load("10:30")  # dvc's parser refuses it within brackets
    assert yaml.load(text, Loader) == YAML(typ="safe").load(text)
    assert yaml.load("2020-01-01", Loader) == "2020-01-01"


def test_importing_the_settings_is_quick_and_needs_pydantic_and_yaml_alone():
    code = "import sys; import pipelines.settings; print(' '.join(sys.modules))"
    loaded = set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())
    assert "pydantic" in loaded and not loaded & {"numpy", "pandas", "torch", "pyarrow", "rich", "typer", "jinja2"}


def test_the_readers_that_settings_allow_are_those_that_exist():
    sources = pytest.importorskip("data.sources")
    from typing import get_args

    from pipelines.config import Source

    assert set(get_args(Source.model_fields["reader"].annotation)) == set(sources.SOURCES)
