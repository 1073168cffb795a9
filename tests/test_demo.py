"""Demo data: exact masks on untouched photographs and recordings, counts, kinds, determinism, isolation."""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data import demo
from data.errors import SettingsError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def images():
    return demo.read(modality="image")[0]


@pytest.fixture(scope="module")
def series():
    return demo.read(modality="series")[0]


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[(start, end)] of a mask (T,), end exclusive."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


@pytest.mark.parametrize("modality", list(demo.DEMOS))
def test_reading_twice_gives_the_same_records_whatever_the_global_seed(modality):
    np.random.seed(1)
    one, quarantine = demo.read(Path("anywhere"), modality=modality, strict=True)
    np.random.seed(2)
    two, _ = demo.read(None, modality=modality)
    assert quarantine == [] and one.meta["id"].is_unique
    pd.testing.assert_frame_equal(one.meta, two.meta)
    if modality == "row":
        pd.testing.assert_frame_equal(one.x, two.x)
    else:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one.x, two.x))
    assert all((a == b).all() for a, b in zip(one.mask, two.mask))


@pytest.mark.parametrize("modality", list(demo.DEMOS))
def test_masks_labels_and_kinds_agree(modality):
    records, _ = demo.read(modality=modality)
    marked = np.array([np.any(mask) for mask in records.mask])
    np.testing.assert_array_equal(marked, records.meta["label"] == 1)
    np.testing.assert_array_equal(marked, records.meta["kind"] != "normal")
    assert not records.meta["synthetic"].any() and marked.any() and not marked.all()


def test_unknown_options_and_modalities_are_named():
    with pytest.raises(SettingsError, match=r"unknown option 'strct'.*'strict'"):
        demo.read(modality="image", strct=True)
    with pytest.raises(SettingsError, match=r"unknown modality 'images'.*'image'"):
        demo.read(modality="images")


# images


def test_a_tile_is_the_photograph_outside_its_mask_and_differs_everywhere_inside(images):
    photos = demo.photographs()
    for name, tile, mask in zip(images.meta["id"], images.x, images.mask):
        photo, cell = name.split("-")
        row, column = cell[1:].split("c")
        real = photos[photo][64 * int(row) :, 64 * int(column) :][:64, :64]
        assert tile.dtype == np.uint8 and tile.shape == mask.shape == (64, 64) and mask.dtype == bool
        change = np.abs(tile.astype(int) - real)
        np.testing.assert_array_equal(change > 0, mask)
        assert change[mask].min(initial=255) >= 5  # 2 % of 255
        assert change[mask].mean() > 15 if mask.any() else True  # visible


def test_half_of_every_block_of_neighbours_carries_one_of_three_defects(images):
    kinds = images.meta["kind"].value_counts()
    assert set(kinds.index) == {"normal", "scratch", "pit", "stain"}
    assert kinds["normal"] == 64 and kinds.min() >= 20
    blocks = images.meta.groupby("group")["label"].agg(["size", "sum"])
    assert len(blocks) == 32 and (blocks["size"] == 4).all() and (blocks["sum"] == 2).all()
    cells = images.meta["id"].str.extract(r"r(\d)c(\d)").astype(int)
    spread = cells.groupby(images.meta["group"]).agg(np.ptp)
    assert (spread == 1).all().all()  # a group is a square of neighbours
    for photo in demo.PHOTOS:
        mine = images.meta[images.meta["id"].str.startswith(photo)]
        assert mine["kind"].nunique() == 4


def test_defects_are_one_patch_of_sensible_size_and_some_touch_the_edge(images):
    from scipy import ndimage

    masks = [mask for mask in images.mask if mask.any()]
    area = np.array([mask.mean() for mask in masks])
    assert area.min() > 0.014 and area.max() < 0.35
    parts = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks]
    largest = [np.bincount(part[part > 0]).max() / (part > 0).sum() for part in parts]
    assert np.median(largest) == 1 and min(largest) > 0.5
    edge = [mask[[0, -1]].any() or mask[:, [0, -1]].any() for mask in masks]
    assert 0.05 < np.mean(edge) < 0.4
    size = pd.Series(area).groupby(images.meta["kind"][images.meta["label"] == 1].to_numpy()).median()
    assert size["scratch"] < size["pit"] < size["stain"]


# series


def test_the_recording_is_untouched_outside_the_incidents_and_moved_inside(series):
    values = demo.recording()
    assert len(values) == 2180 and np.abs(values.mean()) < 0.2 and values.std() > 1.5  # the seasonal cycle
    for x, mask, time in zip(series.x, series.mask, series.time):
        real = values.loc[pd.to_datetime(time)].to_numpy()  # by timestamp, so the stamps are checked as well
        assert x.shape == mask.shape == (len(time), 1) and x.dtype == np.float64 and time.dtype == np.int64
        assert (np.diff(time) == 7 * 86_400 * 10**9).all()
        assert x[~mask].tobytes() == real[~mask[:, 0]].tobytes()
        for start, end in runs(mask[:, 0]):
            change = np.abs(x[start:end, 0] - real[start:end])
            assert change[0] > 0.1 and change[-1] > 0.1 and change.max() >= 1


def test_entities_follow_each_other_and_begin_with_a_clean_train_part(series):
    assert list(series.meta["given"]) == ["train", "test"] * 4
    for _, group in series.meta.groupby("group"):
        train, test = group.index
        assert not series.mask[train].any() and group["start"].tolist() == [0, len(series.x[train])]
        whole = len(series.x[train]) + len(series.x[test])
        assert len(series.x[train]) / whole == pytest.approx(0.4, abs=0.01)
    stamps = np.concatenate(series.time)
    assert (np.diff(stamps) == 7 * 86_400 * 10**9).all() and len(stamps) == 2180


def test_forty_incidents_of_four_kinds_lie_apart_and_every_half_has_all_kinds(series):
    kinds: list[str] = []
    for i in np.flatnonzero(series.meta["given"] == "test"):
        segments = json.loads(series.meta["segments"][i])
        spans = runs(series.mask[i][:, 0])
        assert [(start, end) for start, end, _ in segments] == spans
        assert all(3 <= end - start <= 16 for start, end in spans)
        assert min(b[0] - a[1] for a, b in pairwise(spans)) >= 8
        for half in (segments[:5], segments[5:]):
            assert {kind for *_, kind in half} == {"spike", "shift", "flat", "noise"}
        kinds += [kind for *_, kind in segments]
    assert pd.Series(kinds).value_counts().to_dict() == dict.fromkeys(["spike", "shift", "flat", "noise"], 10)


def test_a_stuck_sensor_repeats_its_last_value_and_a_shift_keeps_the_curve(series):
    values = demo.recording()
    for x, time, segments in zip(series.x, series.time, series.meta["segments"]):
        real = values.loc[pd.to_datetime(time)].to_numpy()
        for start, end, kind in json.loads(segments):
            if kind == "flat":
                np.testing.assert_array_equal(x[start:end, 0], x[start - 1, 0])
            if kind == "shift":
                assert np.ptp(x[start:end, 0] - real[start:end]) < 0.011  # rounded to 0.01


# rows


def test_rows_are_the_table_of_scikit_learn_with_malignant_as_anomaly():
    from sklearn.datasets import load_breast_cancer

    table, (records, _) = load_breast_cancer(), demo.read(modality="row")
    np.testing.assert_array_equal(records.x.to_numpy(), table.data)
    np.testing.assert_array_equal(records.meta["label"], table.target == 0)
    assert records.meta["kind"].value_counts().to_dict() == {"normal": 357, "malignant": 212}
    assert records.mask.shape == (569, 30) and records.meta["id"][568] == "wdbc-568"
    for column in records.schema["columns"]:
        values = records.x[column["name"]]
        assert column["type"] == "numeric" and (values.round(column["decimals"]) == values).all()


# isolation


def imports(source: str) -> set[str]:
    """Names of all modules that a source text may import, `from a import b` as both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reached(start: set[str], graph: dict[str, set[str]]) -> set[str]:
    """Every local module that the modules of `start` import, directly or not."""
    seen, todo = set(), set(start)
    while todo:
        seen |= todo
        todo = {name for module in todo for name in graph[module] if name in graph} - seen
    return seen


def test_what_generates_or_detects_never_reaches_the_module_that_draws_the_demo_anomalies():
    graph = {}
    for package in ("data", "generation", "detection"):
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = imports(file.read_text())
    start = {name for name in graph if name.startswith(("generation", "detection"))}
    assert len(start) > 2 and "data.records" in reached(start, graph)
    assert "data.demo" not in reached(start, graph)
    graph["generation.leak"] = imports("from data import middle")
    graph["data.middle"] = imports("import data.demo")
    assert "data.demo" in reached({"generation.leak"}, graph)  # the check can fail
