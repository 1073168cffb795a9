"""The stage filter on what judge leaves: decisions by hand are honoured, refused, or said to be of no use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import published
import pytest
import tiny

from data.errors import InputError
from data.records import concat, read_store, write_store
from data.records.codecs import CODECS
from detection.gates import Gates
from generation.classical import classical
from pipelines import filter as stage
from pipelines.stage import parse

PLANNED = {"area": 0.1, "mask_iou": 0.9, "size_bin": "like", "severity_bin": "like", "place": "inner",
           "host_bin": "usual", "fold": 0}  # fmt: skip
ROLES = ("supervised", "unsupervised", "likelihood", "control", "fused")


@pytest.fixture
def tiles(tmp_path, monkeypatch):
    """The ids of twelve generated images in the working folder; in the first nothing changed."""
    root, rng = published.place(tmp_path, "image"), np.random.default_rng(0)
    home, (fit, support) = root / "artifacts" / "tiles", tiny.make("image")
    made = classical("image", fit, support, list(range(12)))
    made = made.with_meta(**PLANNED)
    made.mask[0][:] = False
    made.meta.loc[0, "mask_iou"] = 0.0
    for part, records in (("records/fit", fit), ("records/support", support), ("r1/generated/seed0", made)):
        write_store(home / part, records)
    (home / "splits.json").write_text(json.dumps({"supports": [list(support.meta["id"])], "folds": [{}]}))
    scores = pd.DataFrame(rng.uniform(size=(len(made), len(ROLES))), columns=ROLES)
    measured = Gates(concat([fit, support]), support, CODECS["image"].fit(fit)).measure(made)
    scores = scores.assign(id=list(made.meta["id"]), duplicate_of="", **measured)
    for file, table in (("r1/scores/seed0", scores), ("judges/seed0/real", scores)):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(home / f"{file}.parquet")
    monkeypatch.chdir(root)
    return list(made.meta["id"])


def decide(decided: dict) -> dict:
    """What the stage tells, with these decisions."""
    Path("decisions.json").write_text(json.dumps(decided))
    return stage.main(parse("filter", ["tiles", "1"]))


def kept() -> list[str]:
    return list(read_store("artifacts/tiles/r1/kept/seed0").meta["id"])


def test_what_is_decided_by_hand_is_kept_or_left_out(tiles):
    told = decide({"tiles": {tiles[1]: "accept", tiles[2]: "reject"}})
    assert told["accepted by hand"] == told["rejected by hand"] == told["unchanged"] == 1
    assert tiles[1] in kept() and tiles[2] not in kept() and tiles[0] not in kept()


def test_a_record_in_which_nothing_changed_cannot_be_accepted(tiles):
    """It would enter the training set as an anomaly of which nothing is labelled."""
    with pytest.raises(InputError) as caught:
        decide({"tiles": {tiles[0]: "accept"}})
    assert str(caught.value) == (
        f"decisions.json: tiles: {tiles[0]}: what is accepted must have a mask, got an empty one: nothing changed in "
        "it, so there is nothing to label; take it out"
    )
    assert not Path("artifacts/tiles/r1/kept").exists()
    assert decide({"tiles": {tiles[0]: "reject"}})["rejected by hand"] == 1


def test_decisions_on_a_data_set_that_is_not_there_are_told_and_the_run_goes_on(tiles, capsys):
    assert decide({"tyles": {tiles[1]: "reject"}, "tiles": {}})["generated"] == 12
    said = capsys.readouterr().err
    assert said == ("filter tiles: decisions.json: decisions on 'tyles' are not used, it is no data set of params.yaml "
                    "(did you mean 'tiles'?)\n")  # fmt: skip
    decide({"tiles": {tiles[1]: "reject"}})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text, said", [
    ("{", "must be JSON"), ("[]", "must be {"), ('{"tiles": ["a"]}', "tiles: must be {"),
    ('{"tiles": {"a": "maybe"}}', "tiles: a: must be {"),
])  # fmt: skip
def test_decisions_of_another_form_are_named(tmp_path, text, said):
    path = tmp_path / "decisions.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        stage.decisions("tiles", path)
