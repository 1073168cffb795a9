"""Leaks of a split: copies are found however they were re-encoded, likes are not, and what can be mended is mended."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import rows, series

from data import leaks
from data.check import check
from data.errors import InputError, LeakError
from data.fingerprint import digests, fingerprint, picture, read, turned, window, write
from data.records import Records, make_meta, read_store, write_store
from data.sources import SOURCES
from pipelines.config import Prepare
from pipelines.prepare import divide


def prepare(**changes) -> Prepare:
    base = {"seeds": 2, "support": 3, "folds": 2, "test_share": 0.4, "calib_share": 0.25, "strict": False,
            "image": {}, "series": {"window": 10}, "row": {}}  # fmt: skip
    return Prepare.model_validate(base | changes)


def texture(rng: np.random.Generator, shape=(60, 48)) -> np.ndarray:
    """A grey image of soft blobs and grain."""
    field = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 1.3)
    return np.clip(120 + 25 * field / field.std() + rng.normal(0, 5, shape), 0, 255).astype(np.uint8)


def images(normals: int, odd: int, given: list[str] | None = None, seed: int = 0) -> Records:
    rng, n = np.random.default_rng(seed), normals + odd
    x = [texture(rng) for _ in range(n)]
    masks = [np.zeros(i.shape, bool) for i in x]
    for i in range(normals, n):
        masks[i][10:20, 10:20] = True
        x[i][10:20, 10:20] = rng.integers(150, 256, (10, 10))
    label = [0] * normals + [1] * odd
    meta = make_meta(n, id=[f"i{i:02d}" for i in range(n)], label=label, given=given or [""] * n)
    return Records("image", meta, x, masks, {})


def jpeg(x: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


COPIES = {
    "brighter": lambda x: np.clip(x.astype(int) + 20, 0, 255).astype(np.uint8),
    "darker, less contrast": lambda x: (x * 0.8).astype(np.uint8),
    "jpeg": lambda x: jpeg(x, 40),
    "bad jpeg": lambda x: jpeg(x, 12),  # beyond `near`: the perceptual hash tells
    "smaller": lambda x: cv2.resize(x, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "larger": lambda x: cv2.resize(x, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC),
    "colour": lambda x: np.repeat(x[..., None], 3, axis=2),
    "16 bit": lambda x: x.astype(np.uint16) * 257,
    "flipped": lambda x: x[:, ::-1].copy(),
    "turned": lambda x: np.rot90(x).copy(),
    "all at once": lambda x: jpeg(cv2.resize(np.clip(x.astype(int) + 15, 0, 255).astype(np.uint8), (42, 50)), 60),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_across_a_given_split_is_refused_with_its_pair(how):
    records = images(20, 8, ["train"] * 12 + ["test"] * 8 + [""] * 8)
    records.x[15] = COPIES[how](records.x[3])
    records.mask[15] = np.zeros(records.x[15].shape[:2], bool)
    with pytest.raises(LeakError, match=r"look-alikes: .* \(i03 = i15\)") as caught:
        divide(records, prepare())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 5


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_that_is_ours_to_place_shares_the_group_and_so_the_part(how, seed):
    records = images(16, 8, seed=seed)
    for copy, of in ((9, 3), (20, 18)):
        records.x[copy] = COPIES[how](records.x[of])
        records.mask[copy] = np.zeros(records.x[copy].shape[:2], bool)
    records.mask[20][:1, :1] = True
    parts = divide(records, prepare())
    where = {name: part for part, own in parts.parts().items() for name in own.meta["id"]}
    left = set(parts.plan["left_out"])
    for a, b in (("i09", "i03"), ("i20", "i18")):
        assert where.get(a) == where.get(b) or {a, b} & left
    assert parts.plan["copies"]["near"] == 2 and parts.plan["copies"]["nearest"] > 0.05
    json.dumps(parts.plan)


def test_images_of_one_texture_are_no_copies():
    records = images(30, 8)
    _, told, _ = leaks.join(records, 0.05)
    assert told["near"] == 0 and told["nearest"] > 0.2
    groups = leaks.join(records, 0.05)[0].meta["group"]
    assert groups.nunique() == len(records)


def test_parts_in_a_fixture_that_all_look_alike_are_no_copies():
    """Aligned objects differ little, and copies still less: the limit follows what is usual among them."""
    rng = np.random.default_rng(0)
    shared = texture(rng).astype(float)
    shapes = [shared + 3 * cv2.GaussianBlur(rng.normal(0, 8, shared.shape), (0, 0), 1.5) for _ in range(30)]
    x = [np.clip(s, 0, 255).astype(np.uint8) for s in shapes]
    meta = make_meta(30, id=[f"p{i}" for i in range(30)])
    records = Records("image", meta, x, [np.zeros(v.shape, bool) for v in x], {})
    marks = fingerprint(records)
    usual = leaks.usual_distance(leaks.stacked(marks), leaks.stacked(marks))
    assert usual < 0.05  # they do look alike
    assert leaks.alike_images(marks, marks, 0.05)[0] == []
    x[7] = COPIES["brighter"](x[2])
    marks = fingerprint(records)
    assert [pair[:2] for pair in leaks.alike_images(marks, marks, 0.05)[0]] == [("p2", "p7")]


@pytest.mark.parametrize("seed", range(4))
def test_look_alikes_of_two_boards_are_left_out_of_training_and_tie_no_boards(seed):
    """A tile with one straight track looks the same on every board."""
    records = images(40, 12, seed=seed)
    board = [f"board-{i % 10}" for i in range(40)] + [f"board-{i % 10}" for i in range(12)]
    track = np.where(np.arange(48) // 3 % 5 == 1, 230, 30).astype(np.uint8) * np.ones((60, 1), np.uint8)
    for i in range(10):
        records.x[i] = jpeg(track, 60 + 3 * i)  # one of every board
    parts = divide(records.with_meta(group=board), prepare(seeds=seed + 1))
    where = {name: part for part, own in parts.parts().items() for name in own.meta["id"]}
    assert {where.get(f"i{i:02d}") for i in range(10)} <= {"test", None} and parts.plan["copies"]["near"] >= 45
    assert len(set(parts.test.meta["group"])) > 1 and len(set(parts.fit.meta["group"])) > 2


def test_what_is_mended_reaches_further_than_what_is_refused():
    records = images(30, 0)
    records.x[7] = jpeg(records.x[2], 40)[:, ::-1]  # flipped, so that the hashes do not agree
    marks = fingerprint(records)
    distance = leaks.alike_images(marks, marks, 0)[1]
    assert leaks.alike_images(marks, marks, distance / 1.1)[0] == []
    assert [p[:2] for p in leaks.alike_images(marks, marks, distance / 1.1, leaks.MARGIN)[0]] == [("i02", "i07")]
    group = leaks.join(records, distance / 1.1)[0].meta["group"]
    assert group[2] == group[7]


def test_tiles_under_one_light_are_no_copies():
    """Faint grain under the same strong shading: in grey levels all but equal, in detail not."""
    rng, shade = np.random.default_rng(0), np.add.outer(np.linspace(40, 160, 60), np.linspace(0, 50, 48))
    x = [(shade + 4 * cv2.GaussianBlur(rng.normal(0, 3, shade.shape), (0, 0), 1)).astype(np.uint8) for _ in range(20)]
    small = [cv2.resize(v, (32, 32), interpolation=cv2.INTER_AREA).ravel() for v in x]
    assert np.corrcoef(small).min() > 0.98
    marks = fingerprint(Records("image", make_meta(20), x, [np.zeros(v.shape, bool) for v in x], {}))
    assert leaks.alike_images(marks, marks, 0.05)[0] == [] and leaks.alike_images(marks, marks, 0.05)[1] > 0.3


def test_the_same_image_as_normal_and_as_anomaly_is_refused_wherever_it_would_lie():
    records = images(16, 8)
    records.x[17] = records.x[4].copy()
    with pytest.raises(LeakError, match=r"labels: no content is a normal and an anomaly \(i04 = i17\)"):
        divide(records, prepare())


def test_the_same_image_in_a_given_train_and_test_is_refused_even_if_the_source_grouped_it():
    records = images(20, 8, ["train"] * 12 + ["test"] * 8 + [""] * 8)
    records.x[14] = records.x[5].copy()
    records.meta.loc[14, "group"] = "i05"  # as sources group exact copies
    with pytest.raises(LeakError, match=r"identical: .* \(i05 = i14\)"):
        divide(records, prepare())


def test_a_group_that_the_user_named_on_both_sides_still_goes_to_the_test_whole():
    records = images(20, 8, ["train"] * 12 + ["test"] * 8 + [""] * 8)
    records.x[14] = records.x[5].copy()
    records.meta.loc[[5, 6, 14], "group"] = "lot-7"
    parts = divide(records, prepare())
    assert {"i05", "i06", "i14"} <= set(parts.test.meta["id"])


def test_zero_compares_contents_alone():
    records = images(20, 8, ["train"] * 12 + ["test"] * 8 + [""] * 8)
    records.x[15] = COPIES["brighter"](records.x[3])
    divide(records, prepare(image={"near": 0.0}))


def test_flat_images_are_nobodys_copy_but_their_own():
    flat = picture(np.full((30, 40), 7, np.uint8))[1]
    assert not flat.any() and not picture(np.full((30, 40, 3), 200, np.uint8))[1].any()


def test_too_few_groups_are_told_with_the_copies_that_tied_them():
    records = images(16, 8)
    for i in range(16):
        records.x[i] = COPIES["brighter"](records.x[0]) if i else records.x[0]
    with pytest.raises(InputError, match=r"copies share a group, see docs/audit\.md"):
        divide(records, prepare())


# rows


def test_identical_rows_share_a_group_and_are_counted_with_their_conflicts():
    records = rows(list(range(60)), [0] * 40 + [1] * 20)
    records.x.loc[[0, 7, 9], "x"] = -1.0
    records.x.loc[[3, 45], "x"] = -2.0  # one of each label
    joined, told, against = leaks.join(records)
    assert told == {"identical": 3, "conflicts": 1} and against == []
    group = joined.meta["group"]
    assert group[0] == group[7] == group[9] != group[3] == group[45] and group.nunique() == 57
    for seed in range(5):
        parts = divide(records, prepare(seeds=1 + seed))
        where = {name: part for part, own in parts.parts().items() for name in own.meta["id"]}
        assert len({where[f"r{i}"] for i in (0, 7, 9)}) == 1


def test_a_training_row_that_a_given_test_file_holds_is_left_out_and_the_test_stays():
    given = ["train"] * 25 + ["test"] * 15 + ["train"] * 10 + ["test"] * 10
    records = rows(list(range(60)), [0] * 40 + [1] * 20, given=given)
    records.x.loc[[2, 30], "x"] = -1.0
    records.x.loc[[41, 55], "x"] = -2.0
    records.meta.loc[30, "group"] = records.meta.loc[2, "group"]  # as sources group exact copies
    parts = divide(records, prepare())
    assert parts.plan["left_out"] == ["r2", "r41"]
    assert set(parts.test.meta["id"]) == {f"r{i}" for i, side in enumerate(given) if side == "test"}


def test_identical_rows_of_named_groups_are_left_out_of_training_not_tied():
    groups = [f"customer-{i // 3}" for i in range(90)]
    records = rows(groups, [0] * 60 + [1] * 30)
    records.x.loc[::3, "x"] = -1.0  # every customer has the same row once
    parts = divide(records, prepare())
    test = set(digests(parts.test))
    assert parts.plan["left_out"] and not any(test & set(digests(part)) for name, part in parts.parts().items()
                                              if name != "test")  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0, 0, 1]), st.sampled_from(["train", "test", ""])),
                min_size=16, max_size=60), st.booleans())  # fmt: skip
def test_no_row_is_ever_on_both_sides_of_the_test(items, layout):
    """Whatever is given, drawn, identical or contradictory: contents of training and test are disjoint."""
    records = rows(list(range(len(items))), [i[1] for i in items], given=[i[2] if layout else "" for i in items])
    records.x["x"] = [float(i[0]) + 100 * n * (i[0] > 3) for n, i in enumerate(items)]
    try:
        parts = divide(records, prepare(support=2))
    except InputError:
        return
    sides = [set(digests(part)) for part in (parts.test, parts.fit, parts.support, parts.calib)]
    assert not sides[0] & set.union(*sides[1:])
    fit, calib = set(parts.fit.meta["group"]) | set(parts.support.meta["group"]), set(parts.calib.meta["group"])
    assert not fit & calib


# series


def wave(steps: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(0, 1, (steps, 2)), axis=0)


def recordings() -> Records:
    spans = [(20, 24, "a"), (50, 56, "b"), (80, 84, "a"), (150, 156, "a")]
    records = series(*((name, side, steps, spans if side == "test" else [])
                       for name in "mn" for side, steps in (("train", 120), ("test", 200))))  # fmt: skip
    for i in range(len(records)):
        records.x[i] = wave(len(records.x[i]), i)
    return records


@pytest.mark.parametrize("change", [lambda x: x, lambda x: 3 * x - 7, lambda x: np.round(x, 1)],
                         ids=["same", "rescaled", "rounded"])  # fmt: skip
def test_a_stretch_of_training_in_the_test_is_refused(change):
    records = recordings()
    records.x[3][110:150] = change(records.x[0][40:80])  # of another machine, and on the windows' grid
    with pytest.raises(LeakError, match=r"m-train-00000.0 = n-test-0000"):
        divide(records, prepare())


def test_a_window_that_recurs_in_the_test_is_left_out_of_training_and_told():
    """One of 40 windows for training; two are more than a twentieth and so refused, as a copied stretch would be."""
    spans = [(20, 24, "a"), (50, 56, "b"), (80, 84, "a"), (150, 156, "a")]
    records = series(*((name, side, steps, spans if side == "test" else [])
                       for name in "mn" for side, steps in (("train", 200), ("test", 200))))  # fmt: skip
    for i in range(len(records)):
        records.x[i] = wave(len(records.x[i]), i)
    records.x[3][110:120] = records.x[0][40:50]
    parts = divide(records, prepare(series={"window": 10, "near": 0}))  # contents alone
    assert parts.plan["left_out"] == ["m-train-0000040"]
    parts = divide(records, prepare())
    assert parts.plan["left_out"] == ["m-train-0000040"]
    assert "m-train-0000040" not in {name for part in parts.parts().values() for name in part.meta["id"]}
    assert set(parts.plan["folds"][0]) == {*parts.fit.meta["id"], *parts.plan["supports"][0]}
    assert "1 records are left out, copies of what the test holds: m-train-0000040" in check(parts)
    records.x[3][120:140] = 2 * records.x[0][60:80] + 1
    with pytest.raises(LeakError, match="m-train-0000060 = n-test-0000320"):
        divide(records, prepare())


def test_windows_that_differ_and_machines_that_repeat_themselves_pass():
    parts = divide(recordings(), prepare())
    assert parts.plan["copies"]["nearest"] > 0.002
    records = recordings()
    for x in records.x:
        x[:] = np.sin(np.arange(len(x)) * 2 * np.pi / 10)[:, None]  # a window is a period
    divide(records, prepare())


def test_windows_need_an_embargo_within_a_recording_and_must_not_overlap_within_an_entity():
    def marks(*starts):
        recording, start = zip(*starts)
        n = len(start)
        return pd.DataFrame({"id": [f"{r}-{s}" for r, s in starts], "group": "m", "recording": recording,
                             "start": start, "end": np.add(start, 10), "vector": [np.ones(2)] * n})  # fmt: skip

    def told(train, test):
        found = leaks.time_blocks(marks(*train), marks(*test))
        return found["passed"], found["figure"], found["pairs"]

    assert told([("a", 0), ("a", 10)], [("a", 30)]) == (True, 1.0, [])
    assert told([("a", 0), ("a", 11)], [("a", 30)]) == (False, 0.9, [["a-11", "a-30"]])
    assert told([("a", 50)], [("a", 30), ("a", 35)]) == (False, 0.5, [["a-50", "a-35"]])
    assert told([("a", 20)], [("b", 30)])[0]  # recordings that the user parted may touch
    assert told([("a", 25)], [("b", 30)])[2] == [["a-25", "b-30"]]


# fingerprints


@pytest.mark.parametrize("modality", ["image", "series", "row"])
def test_a_fingerprint_survives_the_store_and_holds_no_label(modality, tmp_path):
    records, _ = SOURCES["demo"](None, modality=modality)
    marks = fingerprint(records)
    write_store(tmp_path / "store", records)
    pd.testing.assert_frame_equal(marks, fingerprint(read_store(tmp_path / "store")))
    write(tmp_path, marks)
    again = read(tmp_path)
    assert again["sha256"].tolist() == marks["sha256"].tolist() and "label" not in again and "kind" not in again
    if modality != "row":
        np.testing.assert_array_equal(np.stack(list(again["vector"])), np.stack(list(marks["vector"])))
        lengths = np.linalg.norm(np.stack(list(marks["vector"])), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_missing_fingerprints_are_told(tmp_path):
    with pytest.raises(InputError, match="run prepare again"):
        read(tmp_path)


def test_cells_have_equal_hashes_just_where_they_are_equal():
    columns = [{"name": n, "type": t, "nullable": True} for n, t in
               (("a", "numeric"), ("b", "integer"), ("c", "categorical"), ("d", "boolean"), ("e", "date"))]
    base = {"a": 0.0, "b": 2**60, "c": "x", "d": True, "e": pd.Timestamp("2020-01-01")}
    same = [base, {**base, "a": -0.0}]
    other = [{**base, **change} for change in (
        {"a": 1e-300}, {"a": np.nan}, {"b": 2**60 + 1}, {"b": None}, {"c": "y"}, {"c": ""}, {"c": None}, {"d": False},
        {"d": None}, {"e": pd.Timestamp("2020-01-01 00:00:00.000000001")}, {"e": None})]  # fmt: skip
    frame = pd.DataFrame([*same, *other])
    whole = [row["b"] for row in (*same, *other)]
    frame["b"], frame["c"] = pd.array(whole, dtype="Int64"), frame["c"].astype("string")
    frame["d"], frame["e"] = frame["d"].astype("boolean"), frame["e"].astype("datetime64[ns]")
    records = Records("row", make_meta(len(frame)), frame, np.zeros((len(frame), 5), bool), {"columns": columns})
    found = digests(records)
    assert found[0] == found[1] and len(set(found)) == len(other) + 1


@given(st.integers(0, 50), st.floats(0.1, 1e6), st.floats(-1e3, 1e3))
def test_a_windows_vector_ignores_level_and_scale_of_a_channel(seed, scale, level):
    x = wave(30, seed)
    np.testing.assert_allclose(window(x), window(x * [scale, 1] + [level, -level]), atol=1e-3)
    assert not window(np.full((30, 2), level)).any()


def test_eight_turns_are_all_there_are():
    tile = np.arange(1024, dtype=np.float32)[None]
    assert len({t.tobytes() for t in turned(tile)}) == 8
    assert turned(tile)[0].tobytes() == tile.tobytes()


def test_distances_are_those_of_all_pairs():
    """Against numpy's correlation of every pair and turn, chunked or not."""
    marks = fingerprint(images(9, 0))
    tiles = np.stack(list(marks["vector"])).reshape(-1, 32, 32)
    turns = [np.rot90(t, k) for k in range(4) for t in [tiles.transpose(1, 2, 0)]]
    turns += [t[:, ::-1] for t in turns]
    flat = [t.transpose(2, 0, 1).reshape(9, -1) for t in turns]
    best = np.max([np.corrcoef(tiles.reshape(9, -1), t)[:9, 9:] for t in flat], axis=0)
    np.fill_diagonal(best, -1)
    a, b = marks.iloc[:4].reset_index(drop=True), marks.iloc[4:].reset_index(drop=True)
    assert leaks.alike_images(marks, marks, 0)[1] == pytest.approx(1 - best.max(), abs=1e-5)
    assert leaks.alike_images(a, b, 0)[1] == pytest.approx(1 - best[:4, 4:].max(), abs=1e-5)
