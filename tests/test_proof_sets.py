"""The data sets of the proof: the settings of every cell hold, every set has the anomalies of its largest cell."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from pipelines.explain import Loader
from pipelines.prepare import divide, load
from pipelines.settings import load_settings

ROOT = Path(__file__).parent.parent
PROOF = yaml.load((ROOT / "benchmarks/proof.yaml").read_text(), Loader)
IMAGES, SERIES = {"magnetic_tile", "deeppcb"}, {"smd", "asd", "skab", "skab_other", "smap", "msl"}
MODALITY = {name: "image" if name in IMAGES else "series" if name in SERIES else "row" for name in PROOF["sets"]}


def cell(tmp_path: Path, name: str, k: int):
    """The settings of a cell as the head of proof.yaml says: whole values at dotted paths."""
    spec = PROOF["sets"][name]
    raw = yaml.load((ROOT / spec["params"]).read_text(), Loader)
    for path, value in {"prepare.seeds": PROOF["seeds"], "prepare.support": k, **spec["set"]}.items():
        at = raw
        for part in path.split(".")[:-1]:
            at = at[part]
        at[path.split(".")[-1]] = copy.deepcopy(value)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    return load_settings(tmp_path / "params.yaml")


def test_the_file_holds_the_sets_that_the_proof_promises():
    assert set(PROOF) == {"k", "seeds", "sets"} and PROOF["k"] == [5, 10, 20] and PROOF["seeds"] == 5
    assert {"magnetic_tile", "deeppcb", "thyroid_sick", "nsl_kdd", "smd", "asd"} < set(PROOF["sets"])
    adbench = [name for name, spec in PROOF["sets"].items() if "adbench" in str(spec)]
    assert len(adbench) == 14 and len(PROOF["sets"]) == 24
    for spec in PROOF["sets"].values():
        assert set(spec) - {"untouched"} == {"params", "set"} and isinstance(spec["set"], dict)


@pytest.mark.parametrize("name", PROOF["sets"])
def test_a_cell_is_one_data_set_of_its_name_with_valid_settings(tmp_path, name):
    settings = cell(tmp_path, name, 10)
    assert list(settings.datasets) == [name] and settings.datasets[name].modality == MODALITY[name]
    assert settings.prepare.support == 10 and settings.prepare.seeds == (3 if MODALITY[name] == "image" else 5)


@pytest.mark.parametrize("name", PROOF["sets"])
def test_every_set_reads_and_has_the_anomalies_of_its_largest_cell(tmp_path, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    k = 10 if MODALITY[name] == "image" else max(PROOF["k"])
    settings = cell(tmp_path, name, k)
    dataset = settings.datasets[name]
    if not Path(dataset.source.path).exists():
        pytest.skip(f"{name} is not here")
    raw, _ = load(name, dataset, settings.prepare)
    parts = divide(raw, settings.prepare)
    assert len(parts.test) <= 13_000 and len(parts.fit) >= 80 and (parts.test.meta["label"] == 1).sum() >= 16
    seen = [set(part.meta["group"]) for part in (parts.fit, parts.support, parts.calib, parts.test)]
    if MODALITY[name] != "series":  # whose parts are stretches of time with an embargo
        assert not (seen[0] | seen[1]) & seen[3] and not seen[2] & (seen[0] | seen[1] | seen[3])
        assert set(parts.support.meta["kind"]) >= set(parts.test.meta["kind"]) - {"normal"}
    for chosen, fold in zip(parts.plan["supports"], parts.plan["folds"], strict=True):
        assert len(set(chosen)) == k and len({fold[name] for name in chosen}) == settings.prepare.folds
