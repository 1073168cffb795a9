"""Records: what is written is read back, one batch or a stream, and other tools can read it too."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.errors import InputError, ResourceError
from data.records import (
    META,
    ROW_TYPES,
    Records,
    concat,
    iter_store,
    make_meta,
    read_store,
    typed_rows,
    write_store,
)

ROOT = Path(__file__).resolve().parent.parent
SIDE = st.integers(1, 9)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
CELLS = {
    "numeric": st.floats(allow_nan=False), "integer": st.integers(-(2**63), 2**63 - 1), "categorical": TEXT,
    "boolean": st.booleans(), "date": st.datetimes(pd.Timestamp("1700-01-01"), pd.Timestamp("2200-01-01")),
}  # fmt: skip


def images(x: list[np.ndarray], **columns) -> Records:
    masks = [np.indices(image.shape[:2]).sum(0) % 3 == 0 for image in x]
    return Records("image", make_meta(len(x), **columns), x, masks, {})


@st.composite
def any_images(draw) -> Records:
    shapes = draw(st.lists(st.tuples(SIDE, SIDE, st.booleans(), st.booleans()), max_size=5))
    x = [
        draw(hnp.arrays(np.uint16 if deep else np.uint8, (h, w, 3) if colour else (h, w)))
        for h, w, colour, deep in shapes
    ]
    masks = [draw(hnp.arrays(bool, image.shape[:2])) for image in x]
    return Records(
        "image", make_meta(len(x)), x, masks, {}, control=[x.copy() for x in x] if len(x) % 2 else None
    )


@st.composite
def any_series(draw) -> Records:
    width, lengths = draw(st.integers(1, 4)), draw(st.lists(st.integers(0, 7), max_size=5))
    x = [draw(hnp.arrays(np.float64, (n, width))) for n in lengths]
    masks = [draw(hnp.arrays(bool, (n, width))) for n in lengths]
    time = [draw(hnp.arrays(np.int64, n)) for n in lengths] if draw(st.booleans()) else None
    return Records("series", make_meta(len(x)), x, masks, {"channels": [f"c{i}" for i in range(width)]}, time)


@st.composite
def any_rows(draw) -> Records:
    types = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
    n = draw(st.integers(0, 5))
    columns = [{"name": f"x{i} é", "type": kind, "nullable": True} for i, kind in enumerate(types)]
    cells = {
        c["name"]: pd.Series(
            draw(st.lists(st.none() | CELLS[c["type"]], min_size=n, max_size=n)),
            dtype="object" if c["type"] == "date" else ROW_TYPES[c["type"]][0],
        )
        for c in columns
    }
    schema = {"columns": columns}
    x = typed_rows(pd.DataFrame(cells, index=range(n)), schema)
    mask = draw(hnp.arrays(bool, (n, len(types))))
    return Records("row", make_meta(n), x, mask, schema, control=x if draw(st.booleans()) else None)


def same(a, b) -> None:
    """Fails unless payloads are equal, NaN included, types included."""
    assert type(a) is type(b)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    elif a is not None:
        assert len(a) == len(b)
        for one, other in zip(a, b):
            np.testing.assert_array_equal(one, other, strict=True)


def check_equal(a: Records, b: Records) -> None:
    assert (a.modality, a.schema, len(a)) == (b.modality, b.schema, len(b))
    pd.testing.assert_frame_equal(a.meta, b.meta)
    for name in ("x", "mask", "time", "control"):
        same(getattr(a, name), getattr(b, name))


@settings(max_examples=60, deadline=None)
@given(st.one_of(any_images(), any_series(), any_rows()), st.integers(1, 4))
def test_a_store_gives_back_what_was_written(records: Records, rows_per_shard: int):
    folder = Path(tempfile.mkdtemp())
    try:
        write_store(folder / "store", records, rows_per_shard)
        check_equal(read_store(folder / "store"), records)
        chunks = [records.take([i]) for i in range(len(records))]
        write_store(folder / "stream", chunks or [records], rows_per_shard)
        check_equal(read_store(folder / "stream"), records)
        shards = [len(shard) for shard in iter_store(folder / "store")]
        assert sum(shards) == len(records) and max(shards) <= rows_per_shard
        for name in ("store", "stream"):
            assert len(list((folder / name).iterdir())) == max(1, -(-len(records) // rows_per_shard))
    finally:
        shutil.rmtree(folder)


def test_every_meta_column_and_further_ones_come_back(tmp_path: Path):
    meta = make_meta(
        2,
        id=["a", "b"],
        split="generated",
        label=[0, 1],
        kind=["normal", "<b>x</b>"],
        group=["g", "h"],
        source="s",
        start=[0, 2**40],
        synthetic=[False, True],
        host=["", "a"],
        parents=[[], ["p", "q"]],
        severity=[np.nan, 1.5],
        seed=[-1, 2**62],
        round=[0, 3],
        generator="paste",
        mask_source="bank",
        given=["train", ""],
        weight=[0.5, None],
        keep=[True, False],
    )
    records = Records("image", meta, [np.zeros((2, 2), np.uint8)] * 2, [np.zeros((2, 2), bool)] * 2, {})
    write_store(tmp_path / "s", records)
    back = read_store(tmp_path / "s").meta
    pd.testing.assert_frame_equal(back, meta)
    assert list(back["parents"]) == [[], ["p", "q"]]
    assert {name: str(back[name].dtype) for name in META} == {
        name: dtype for name, (dtype, *_) in META.items()
    }


def test_defaults_of_meta():
    meta = make_meta(3, label=[0, 1, 0])
    assert list(meta["id"]) == list(meta["group"]) == ["0", "1", "2"]
    assert list(meta["kind"]) == ["normal", "anomaly", "normal"]
    assert not meta["synthetic"].any() and (meta["seed"] == -1).all() and meta["severity"].isna().all()
    with pytest.raises(ValueError, match="'kind' must have 3"):
        make_meta(3, kind=["a"])


def test_take_where_and_concat_pick_the_same_records():
    records = images([np.full((1, 1), i, np.uint8) for i in range(4)], label=[0, 1, 0, 1], split=list("abab"))
    assert [int(x[0, 0]) for x in records.take([3, 0]).x] == [3, 0]
    assert list(records.take(np.array([False, True, True, False])).meta["id"]) == ["1", "2"]
    assert list(records.where(split="b", label=1).meta["id"]) == ["1", "3"]
    assert list(records.where(split=["a", "c"]).meta.index) == [0, 1]
    assert len(records.take([])) == 0
    check_equal(concat([records.take([0, 1]), records.take([]), records.take([2, 3])]), records)
    with pytest.raises(ValueError, match="one value a record"):
        records.take([True])
    with pytest.raises(ValueError, match="share modality and schema"):
        concat([records, Records("series", make_meta(0), [], [], {"channels": ["a"]})])


def test_hugging_face_datasets_reads_a_store_with_decoded_images(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (4, 6), np.uint8), rng.integers(0, 256, (5, 3, 3), np.uint8)
    records = images([grey, colour], label=[0, 1], parents=[[], ["a"]])
    write_store(tmp_path / "store", records, rows_per_shard=1)
    found = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "store/*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert isinstance(found.features["image"], datasets.Image) and isinstance(
        found.features["mask"], datasets.Image
    )
    for row, x, mask in zip(found, records.x, records.mask):
        np.testing.assert_array_equal(np.asarray(row["image"]), x)
        np.testing.assert_array_equal(np.asarray(row["mask"]), np.uint8(255) * mask)
    assert found["parents"][:] == [[], ["a"]] and found["label"][:] == [0, 1]


@pytest.mark.parametrize("modality", ["row", "series"])
def test_hugging_face_datasets_reads_rows_and_series(tmp_path: Path, modality: str):
    import datasets

    if modality == "row":
        x = typed_rows(
            pd.DataFrame({"a": [1.5, None], "b": [True, None]}),
            {"columns": [{"name": "a", "type": "numeric"}, {"name": "b", "type": "boolean"}]},
        )
        schema = {"columns": [{"name": "a", "type": "numeric"}, {"name": "b", "type": "boolean"}]}
        records = Records("row", make_meta(2), x, np.eye(2, dtype=bool), schema, control=x)
        expected = {
            "a": [1.5, None],
            "b": [True, None],
            "mask": [[True, False], [False, True]],
            "control": [{"a": 1.5, "b": True}, {"a": None, "b": None}],
        }
    else:
        records = Records(
            "series",
            make_meta(1),
            [np.array([[1.0, 2], [3, 4]])],
            [np.eye(2, dtype=bool)],
            {"channels": ["a", "b"]},
            [np.array([5, 6])],
        )
        expected = {"series": [[[1, 2], [3, 4]]], "time": [[5, 6]], "mask": [[[True, False], [False, True]]]}
    write_store(tmp_path / "s", records)
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "s/*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {name: found[name][:] for name in expected} == expected


def test_writing_a_stream_holds_no_more_for_more_records(tmp_path: Path):
    def stream(n: int):
        rng = np.random.default_rng(0)
        for i in range(n):
            yield images([rng.integers(0, 256, (128, 128), np.uint8)], id=[str(i)])

    def peak(n: int) -> int:
        tracemalloc.start()
        write_store(tmp_path / str(n), stream(n), rows_per_shard=10)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(10)  # imports
    few, many = peak(20), peak(300)
    assert many < few + 2**20  # 280 more images of 16 KB would be 4.5 MB
    assert sum(map(len, iter_store(tmp_path / "300"))) == 300


def test_the_same_records_give_the_same_bytes_in_any_chunks(tmp_path: Path):
    records = images([np.full((3, 3), i, np.uint8) for i in range(7)])
    write_store(tmp_path / "a", records, 3)
    write_store(tmp_path / "b", (records.take([i]) for i in range(7)), 3)
    assert [p.read_bytes() for p in sorted((tmp_path / "a").iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "b").iterdir())
    ]


def test_a_broken_write_leaves_the_older_store_and_nothing_else(tmp_path: Path):
    old = images([np.zeros((2, 2), np.uint8)])
    write_store(tmp_path / "s", old)

    def torn():
        yield old
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_store(tmp_path / "s", torn(), rows_per_shard=1)
    check_equal(read_store(tmp_path / "s"), old)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    new = images([np.ones((2, 2), np.uint8)] * 2)
    write_store(tmp_path / "s", new)
    check_equal(read_store(tmp_path / "s"), new)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


WRITER = """
import os, sys
import numpy as np
from data.records import Records, make_meta, write_store

def chunks():
    i = 0
    while True:
        yield Records("image", make_meta(1, id=[str(i)]), [np.zeros((2, 2), np.uint8)], [np.zeros((2, 2), bool)], {})
        i += 1
        if i == 9:
            print("writing", flush=True)

write_store(sys.argv[1], chunks(), 1)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp") and "*.tmp" in (ROOT / ".dvcignore").read_text()  # DVC does not hash it
    one = images([np.zeros((2, 2), np.uint8)])
    write_store(tmp_path / "s", one)
    check_equal(read_store(tmp_path / "s"), one)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_full_disk_is_named_and_cleaned_up(tmp_path: Path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(ResourceError, match=r"s: disk full, needs more than .*, free .* make room"):
        write_store(tmp_path / "s", images([np.zeros((2, 2), np.uint8)]))
    assert not list(tmp_path.iterdir())


def test_ids_are_unique_over_all_chunks(tmp_path: Path):
    one = images([np.zeros((2, 2), np.uint8)])
    with pytest.raises(ValueError, match="unique, got '0'"):
        write_store(tmp_path / "s", [one, one])


def test_chunks_share_columns_and_schema(tmp_path: Path):
    one = images([np.zeros((2, 2), np.uint8)])
    with pytest.raises(ValueError, match="weight"):
        write_store(tmp_path / "s", [one, one.with_meta(id=["b"], weight=[1.0])])
    a, b = (
        Records(
            "series",
            make_meta(1, id=[name]),
            [np.zeros((1, 1))],
            [np.zeros((1, 1), bool)],
            {"channels": [name]},
        )
        for name in "ab"
    )
    with pytest.raises(ValueError, match="same schema"):
        write_store(tmp_path / "s", [a, b])


@pytest.mark.parametrize("name", ["label", "mask", "control", "given"])
def test_a_cell_column_named_like_meta_is_refused(tmp_path: Path, name: str):
    schema = {"columns": [{"name": name, "type": "numeric"}]}
    records = Records(
        "row", make_meta(1, given=""), pd.DataFrame({name: [1.0]}), np.zeros((1, 1), bool), schema
    )
    with pytest.raises(InputError, match=f"'{name}'"):
        write_store(tmp_path / "s", records)


def test_torn_foreign_and_missing_stores_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="part-00000"):
        read_store(tmp_path / "none")
    write_store(tmp_path / "s", images([np.zeros((2, 2), np.uint8)] * 3, id=list("abc")), rows_per_shard=1)
    (tmp_path / "s/part-00001.parquet").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"lacks part-00001\.parquet"):
        read_store(tmp_path / "s")
    (tmp_path / "s/part-00001.parquet").write_bytes((tmp_path / "away").read_bytes())
    last = (tmp_path / "s/part-00002.parquet").rename(tmp_path / "last")
    with pytest.raises(InputError, match=r"every shard, part-00001\.parquet does not say that it is the last"):
        read_store(tmp_path / "s")
    last.rename(tmp_path / "s/part-00002.parquet")
    assert len(read_store(tmp_path / "s")) == 3
    (tmp_path / "s/part-00001.parquet").write_bytes((tmp_path / "away").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-00001\.parquet: a shard must be whole"):
        read_store(tmp_path / "s")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "s/part-00001.parquet")
    with pytest.raises(InputError, match="oddsmith schema"):
        read_store(tmp_path / "s")
