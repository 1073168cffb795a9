"""The check: counts are right, findings are found, and nothing in the text breaks a line."""

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest
from test_sources import real
from test_split import EASY, WINDOWED, rows, series

from data.check import check, left_out, lines, rule_of, summarise
from data.records import Records, make_meta
from data.sources import SOURCES
from data.split import split


def test_rows_are_counted_by_part_kind_and_type():
    records = rows(list(range(100)), [0] * 60 + [1] * 40, ["normal"] * 60 + ["a"] * 30 + ["b"] * 10)
    s = split(records, **EASY)
    summary = summarise(records, [{"item": "t row 3", "reason": "a rule, got 1; mend it"}] * 2, s, "here")
    assert summary["parts"]["all"] == {
        "records": 100,
        "normal": 60,
        "anomalous": 40,
        "groups": 100,
        "kinds": {"a": 30, "b": 10},
    }
    assert {name: part["records"] for name, part in summary["parts"].items()} == {
        "all": 100,
        "fit": 27,
        "support": 24,
        "calib": 9,
        "test": 40,
    }
    assert summary["parts"]["test"]["kinds"] == {"a": 12, "b": 4}
    assert summary["content"] == {
        "columns": [{"name": "x", "type": "numeric", "missing": 0}],
        "types": {"numeric": 1},
        "labels": {},
    }
    assert summary["reasons"] == {"a rule": 2} and summary["findings"] == []
    text = lines(summary)
    assert "test: 40 records (24 normal, 16 anomalous) in 40 groups: 12 a, 4 b" in text
    assert "  t row 3: a rule, got 1; mend it" in text and "  2 x a rule" in text
    assert json.loads(json.dumps(summary)) == summary


def test_constant_empty_and_missing_cells_are_listed():
    columns = [{"name": name, "type": "numeric", "nullable": True} for name in ("one", "none", "some")]
    x = pd.DataFrame({"one": [1.0, 1.0], "none": [np.nan] * 2, "some": [1.0, np.nan]})
    records = Records("row", make_meta(2), x, np.zeros((2, 3), bool), {"columns": columns})
    text = lines(summarise(records, [], None, ""))
    assert text[-3:] == [
        "constant columns, kept: one, some",
        "empty columns, kept: none",
        "missing cells: none 2, some 1",
    ]


def test_images_are_counted_in_pairs_sizes_and_depths():
    x = [np.zeros((2, 3), np.uint8), np.zeros((4, 5, 3), np.uint16), np.zeros((2, 3), np.uint8)]
    masks = [np.zeros((2, 3), bool), np.zeros((4, 5), bool), np.zeros((2, 3), bool)]
    masks[1][0] = masks[2][0, 0] = True
    content = summarise(Records("image", make_meta(3, label=[0, 1, 1]), x, masks, {}), [], None, "")[
        "content"
    ]
    assert content == {
        "pairs": 2,
        "sizes": 2,
        "height": [2, 4],
        "width": [3, 5],
        "types": {"grey 8 bit": 2, "colour 16 bit": 1},
        "marked": [1 / 6, 0.25],
    }


def test_recordings_are_counted_in_steps_and_segments():
    records = series(
        ("m", "train", 100, []), ("m", "test", 200, [(0, 4, "a"), (50, 75, "b"), (190, 200, "a")])
    )
    records.x[0][:, 1] = records.x[1][:, 1] = 7.0
    summary = summarise(records, [], None, "x")
    assert summary["content"] == {
        "channels": 2,
        "constant": ["b"],
        "recordings": [
            {"entity": "m", "part": "train", "steps": 100, "segments": 0, "anomalous": 0},
            {"entity": "m", "part": "test", "steps": 200, "segments": 3, "anomalous": 39},
        ],
    }
    assert "recording m test: 200 steps, 3 segments, 19.5% anomalous" in lines(summary)


def test_a_column_or_a_channel_that_equals_the_labels_is_named():
    odd = [0] * 60 + [1] * 40
    records = rows(list(range(100)), odd, ["normal"] * 60 + ["a"] * 40)
    names = ("copy", "only", "most", "same")
    records.schema["columns"] += [{"name": name, "type": "integer", "nullable": True} for name in names]
    records.x["copy"] = ["no" if y == 0 else "yes" for y in odd]
    records.x["only"] = pd.array([pd.NA if y == 0 else 7 for y in odd], "Int64")
    records.x["most"] = [*odd[:-1], 0]
    records.x["same"] = 1
    columns = [line for line in check(split(records, **EASY)) if "equals the labels" in line]
    assert columns == [
        f"column '{name}' equals the labels: is it one? if so, leave it out" for name in ("copy", "only")]  # fmt: skip
    recording = series(("m", "train", 100, []), ("m", "test", 600, [(20 * i, 20 * i + 4, "a") for i in range(30)]))
    assert not [line for line in check(split(recording, **WINDOWED)) if "equals the labels" in line]
    for x, mask in zip(recording.x, recording.mask):
        x[:, 1] = mask.any(axis=1)
    assert "channel 'b' equals the labels: is it one? if so, leave it out" in check(split(recording, **WINDOWED))


def test_findings_name_lonely_kinds_few_anomalies_and_copies():
    records = rows(
        list(range(60)),
        [0] * 40 + [1] * 20,
        ["normal"] * 40 + ["a"] * 10 + ["b"] * 5 + ["c"] * 5,
        ["train"] * 20 + ["test"] * 20 + ["train"] * 10 + ["train"] * 5 + ["test"] * 5,
    )
    records.x.loc[[0, 20], "x"] = -1.0  # a copy in train and test
    records.x.loc[[1, 40], "x"] = -2.0  # a copy in normals and anomalies
    found = check(split(records, **EASY))
    assert [line.split(":")[0] for line in found] == [
        "kind c in the test alone",
        "kind a, b in the pool alone",
        "the test holds 5 anomalies",
        "1 records have the content of another part",
        "1 records have the content of another label",
    ]
    assert "r20 (test)" in found[3] and "r40" in found[4]
    assert (
        check(
            split(
                series(
                    ("m", "train", 100, []),
                    ("m", "test", 600, [(20 * i, 20 * i + 4, "a") for i in range(30)]),
                ),
                **WINDOWED,
            )
        )
        == []
    )


def test_any_name_stays_on_its_line():
    records = rows(list(range(100)), [0] * 60 + [1] * 40, ["normal"] * 60 + ["<b>\n\x1b[31mred"] * 40)
    text = lines(summarise(records, [], split(records, **EASY), "a\nb"))
    assert all(line.isprintable() for line in text)


def test_reasons_are_counted_by_their_rule():
    assert rule_of("the image must be whole, got truncated; copy it again") == "the image must be whole"
    assert (
        rule_of("a defect image must have a mask, found none; draw it") == "a defect image must have a mask"
    )


@pytest.mark.parametrize("modality", ["image", "series", "row"])
def test_the_demo_sets_can_be_told(modality: str):
    records, quarantine = SOURCES["demo"](None, modality=modality)
    s = split(records, seeds=1, support=6, folds=2, test_share=0.4, calib_share=0.2, window=32)
    summary = summarise(records, quarantine, s, "demo")
    assert json.loads(json.dumps(summary)) == summary
    assert not [line for line in summary["findings"] if "content" in line]
    assert len(lines(summary)) >= 7


def test_magnetic_tiles_are_told_in_seconds():
    start = time.process_time()
    records, quarantine = SOURCES["mvtec"](real("magnetic_tile"), modality="image", group="lookalike_group")
    s = split(records, seeds=3, support=10, folds=2, test_share=0.5, calib_share=0.2)
    summary = summarise(records, quarantine, s, "magnetic_tile")
    assert summary["content"]["pairs"] == 388 and summary["reasons"] == {
        "the mask of a defect must not be empty": 4
    }
    assert not [line for line in summary["findings"] if "content" in line]
    assert time.process_time() - start < 20


def test_normals_that_mostly_share_a_group_are_told():
    groups = [*[0] * 100, *range(1, 141)]  # the group of 100 is too large for the test or to calibrate on
    s = split(rows(groups, [0] * 210 + [1] * 30), **EASY)
    assert len(s.fit) < 200
    assert f"100 of the {len(s.fit)} normals to fit on share the group '0'" in "\n".join(check(s))


@pytest.mark.parametrize("pool, said", [(10, "are all the same"), (14, "hardly differ"), (15, None)])
def test_supports_that_hardly_differ_are_told(pool: int, said: str | None):
    """What their intervals hold is then the luck of training alone, not that of which anomalies were labelled."""
    records = rows(list(range(100)), [0] * 60 + [1] * 40, ["normal"] * 60 + ["a"] * 40,
                   ["train"] * 30 + ["test"] * 30 + ["train"] * pool + ["test"] * (40 - pool))  # fmt: skip
    s = split(records, **EASY | {"support": 10})
    assert len(s.support) == pool
    same = len({frozenset(chosen) for chosen in s.plan["supports"]}) == 1
    assert same == (pool == 10)
    found = [line for line in check(s) if line.startswith("the pool")]
    if said is None:
        assert not found
    else:
        assert len(found) == 1 and f"holds {pool} anomalies, so that 2 supports of 10 {said}: " in found[0]
    assert not [line for line in check(split(records, **EASY | {"support": 10, "seeds": 1})) if "the pool" in line]


def test_what_was_left_out_is_told_by_its_rules():
    items = [{"item": f"scratch/{i}.png", "reason": "a defect image must have a mask, found none"} for i in range(4)]
    items += [{"item": f"x{i}", "reason": f"rule {i}, got 1; mend it"} for i in range(3)]
    assert left_out(items) == (
        "7 items were left out or changed: 4 x a defect image must have a mask (scratch/0.png, scratch/1.png and 2 "
        "more), 1 x rule 0 (x0), 1 x rule 1 (x1), 1 rules more")


def test_what_counts_as_normal_and_as_a_category_is_told(tmp_path):
    rows = [f"{i},{'abcde'[i % 5]},{'fraud' if i < 30 else 'pending' if i < 40 else 'legit'}" for i in range(120)]
    path = tmp_path / "t.csv"
    path.write_text("a,land,y\n" + "\n".join(rows) + "\n")
    records, quarantine = SOURCES["csv"](path, modality="row", label="y", anomalous="fraud")
    s = split(records, seeds=2, support=3, folds=2, test_share=0.4, calib_share=0.25)
    text = lines(summarise(records, quarantine, s, "t.csv"))
    assert "label values: anomalous fraud 30; normal legit 80, pending 10" in text
    assert "text columns and their categories: land 5 (a, b, c, ..)" in text
    assert not any("label_value" in part.meta for part in s.parts().values())


@pytest.mark.parametrize("depth, invert, said", [
    (np.uint8, False, []), (np.uint16, False, ["the brightest pixel of the 16-bit images is 1020 of 65535"]),
    (np.uint8, True, ["masks mark 9"]),
])  # fmt: skip
def test_masks_and_ranges_that_look_wrong_are_told(depth, invert: bool, said: list[str]):
    label = [0] * 30 + [1] * 20
    x = [np.full((20, 20), 5 * i, depth) * (4 if depth is np.uint16 else 1) for i in range(1, 51)]
    x = [np.minimum(image, 255) if depth is np.uint8 else image + 20 for image in x]
    mask = [np.zeros((20, 20), bool) for _ in label]
    for i in range(30, 50):
        mask[i][2:5, 2:6] = True
        mask[i] ^= invert
    kinds = ["hole" if odd else "normal" for odd in label]
    records = Records("image", make_meta(50, label=label, kind=kinds), x, mask, {})
    found = check(split(records, **EASY))
    own = [line for line in found if line.startswith(("masks", "the brightest"))]
    assert len(own) == len(said) and all(line.startswith(start) for line, start in zip(own, said))
