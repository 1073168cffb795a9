"""The command export: what every format holds is read back by somebody else's eyes and equals the records."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import weakref
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny import make
from typer.testing import CliRunner

from data.errors import InputError, SettingsError
from data.exporters import EXPORTERS, labelstudio
from data.exporters.cells import FORMULA, cell, escaped
from data.exporters.names import Names, clean, fold, stem
from data.exporters.shapes import alone, outlines, polygon, regions, run_lengths
from data.exporters.survey import Survey
from data.records import Records, concat, make_meta, write_store
from data.sources import SOURCES
from pipelines import cli, stage
from pipelines import export as command
from pipelines.work import manifest

WILD = [
    "scratch", "Scratch", "a/b", "a_b", "../../up", ".hidden", "", "..", "CON", "nul.txt", "Über", "U\u0308ber", "キズ",
    "<img src=x onerror=alert(1)>", "good", "normal", "tab\tand\nline", "\x00", "=1+1", "- list", "a: b # c", "x" * 400,
    "name.", "name", "{{ 7 * 7 }}", "\u202egnp", "'quoted\"", "__MACOSX", "k", "\u212a",
]  # fmt: skip
IDS = [
    "train/good/000.png", "../../etc/passwd", ".git", "A", "a", "ä", "a\u0308", "x.png", "x.jpg", "x", "aux", "a b",
    "b", "B",
]  # fmt: skip
ROUTES = [(to, modality) for to, writers in EXPORTERS.items() for modality in writers]
SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shapes_of(rng, size) -> np.ndarray:
    """A mask with a ring (a hole), two pixels that touch at a corner, a line and a blob at the border."""
    mask = np.zeros(size, bool)
    mask[3:12, 4:15] = True
    mask[5:9, 7:12] = False
    mask[20, 20] = mask[21, 21] = True
    mask[25, 2:18] = True
    mask[-6:, -5:] = rng.random((6, 5)) < 0.7
    return mask


def pictures(kinds=("scratch", "dent"), ids=None, normals=4, seed=0) -> Records:
    """Grey and colour images of 8 and 16 bits of several sizes, by turns; an anomaly a kind, in every split."""
    rng = np.random.default_rng(seed)
    n = normals + len(kinds)
    label = [0] * normals + [1] * len(kinds)
    x, mask = [], []
    for i, odd in enumerate(label):
        size = (34 + i % 3, 40 + i % 2)
        dtype = (np.uint8, np.uint16)[i % 2]
        x.append(rng.integers(0, np.iinfo(dtype).max, (*size, 3) if i % 4 < 2 else size, dtype, endpoint=True))
        mask.append(shapes_of(rng, size) if odd else np.zeros(size, bool))
    meta = make_meta(
        n, id=ids or [f"r{i}" for i in range(n)], label=label, kind=["normal"] * normals + list(kinds),
        split=[("fit", "calib", "test", "generated")[i % 4] for i in range(n)],
        synthetic=[i % 4 == 3 for i in range(n)],
        severity=[0.3] * n, parents=[["p", "q"]] * n, host="h", seed=7, reason=["kept"] * n, distance=0.25,
    )  # fmt: skip
    return Records("image", meta, x, mask, {})


def sample(modality: str) -> Records:
    return pictures() if modality == "image" else concat(list(make(modality)))


def store(tmp_path: Path, records: Records, name: str = "store") -> Path:
    write_store(tmp_path / name, records, rows_per_shard=3)
    return tmp_path / name


def export(tmp_path: Path, records: Records, to: str, **options) -> Path:
    out = tmp_path / f"out-{to}"
    command.export([store(tmp_path, records)], out, to=to, **options)
    return out


def walk(folder: Path) -> list[str]:
    """All files, as os.walk meets them."""
    return sorted(os.path.relpath(os.path.join(place, name), folder)
                  for place, _, names in os.walk(folder) for name in names)  # fmt: skip


def read_png(path: Path) -> np.ndarray:
    """The pixels: PIL's, and cv2's where PIL keeps 8 of 16 bits of a colour."""
    picture = np.asarray(Image.open(path))
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return raw[..., ::-1] if raw.ndim == 3 and raw.dtype == np.uint16 else picture


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == wanted.dtype and np.array_equal(found, wanted)


def read_csv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def undone(text: str) -> str:
    """What `escaped` made of a text, undone as its docstring says."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


# trees


def check_tree(out: Path, records: Records, normal: str, normal_test: str, odd: str, mask: str, ending: str) -> None:
    """Every record lies where its label, split and kind say, and nothing else does."""
    expected = {"provenance.csv"}
    rows = {undone(row["id"]): row for row in read_csv(out / "provenance.csv")}
    assert set(rows) == set(records.meta["id"])
    for meta, x, marked in zip(records.meta.to_dict("records"), records.x, records.mask):
        row = rows[meta["id"]]
        place = normal_test if meta["split"] == "test" else normal
        place = f"{odd}/{meta['kind']}" if meta["label"] else place
        assert row["image"] == f"{place}/{meta['id']}.png" and same(read_png(out / row["image"]), x)
        assert row["mask"] == (f"{mask}/{meta['kind']}/{meta['id']}{ending}.png" if meta["label"] else "")
        if meta["label"]:
            assert same(read_png(out / row["mask"]), np.uint8(255) * marked)
        expected |= {row["image"], row["mask"]} - {""}
        assert row["synthetic"] == str(meta["synthetic"]).lower()
        assert (row["severity"], row["parents"]) == ("0.3", '["p", "q"]')
        assert (row["reason"], row["distance"], row["kind"]) == ("kept", "0.25", meta["kind"])
    assert walk(out) == sorted(expected)


def test_an_mvtec_tree_holds_every_record_in_its_place(tmp_path):
    records = pictures()
    check_tree(export(tmp_path, records, "mvtec"), records, "train/good", "test/good", "test", "ground_truth", "_mask")


def test_an_anomalib_folder_pairs_images_with_masks_as_its_datamodule_does(tmp_path):
    records = pictures(("scratch", "dent", "Zebra", "a.b"))
    out = export(tmp_path, records, "anomalib-folder")
    check_tree(out, records, "normal", "normal_test", "abnormal", "mask", "")
    images, masks = (sorted(map(str, (out / part).glob("**/*.png"))) for part in ("abnormal", "mask"))
    assert len(images) == len(masks) == 4
    for image, mask in zip(images, masks):  # sorted by path, then paired; a mask's stem holds its image's
        assert Path(image).stem in Path(mask).stem and Path(image).parent.name == Path(mask).parent.name


def back(reader: str, path: Path, **options) -> Records:
    records, quarantine = SOURCES[reader](path, modality="image", **options)
    assert quarantine == []
    return records


def check_equal(found: Records, place: dict[str, str], records: Records) -> None:
    """The records read, by the path that `place` gives each id, are the records bit for bit."""
    by_name = {name: i for i, name in enumerate(found.meta["id"])}
    assert set(by_name) == set(place.values())
    for i, meta in enumerate(records.meta.to_dict("records")):
        at = by_name[place[meta["id"]]]
        assert same(found.x[at], records.x[i]) and same(found.mask[at], records.mask[i])
        assert (found.meta["label"][at], found.meta["kind"][at]) == (meta["label"], meta["kind"])


def test_an_mvtec_tree_read_by_our_own_reader_is_the_records_bit_for_bit(tmp_path):
    records = pictures(("scratch", "dent", "x_mask"), ids=["r0", "r1", "r2", "r3", "m", "m_mask", "m_mask_mask"])
    out = export(tmp_path, records, "mvtec")
    place = {row["id"]: row["image"] for row in read_csv(out / "provenance.csv")}
    found = back("mvtec", out)
    check_equal(found, place, records)
    tests = {name for name, given in zip(found.meta["id"], found.meta["given"]) if given == "test"}
    assert tests == {name for name in place.values() if name.startswith("test/")}


@pytest.mark.parametrize("to", ["mvtec", "anomalib-folder"])
def test_provenance_csv_is_an_index_that_gives_wild_kinds_back(tmp_path, to):
    kinds = [kind for kind in WILD if kind not in ("good", "normal", "") and undone(escaped(kind)) == escaped(kind)]
    kinds = [kind for kind in kinds if kind.isprintable() and kind == kind.strip()]
    records = pictures(kinds, ids=IDS + [f"i{i}" for i in range(4 + len(kinds) - len(IDS))])
    out = export(tmp_path, records, to)
    rows = read_csv(out / "provenance.csv")
    assert len(kinds) > 12
    check_equal(back("folder", out, index="provenance.csv"), {row["id"]: row["image"] for row in rows}, records)


# names


def check_safe(out: Path) -> None:
    """No path leaves the folder, is hidden, ends badly, is a device or equals another where case does not count."""
    paths = list(out.rglob("*"))
    assert all(path.resolve().is_relative_to(out.resolve()) and not path.is_symlink() for path in paths)
    for path in paths:
        name = path.name
        assert not name.startswith((".", "-")) and not name.endswith((".", " ")) and len(name.encode()) < 144
        assert name.isprintable() and not set(name) & set('<>:"/\\|?*$`&;\'#% \t\n')
        assert name.split(".")[0].upper() not in ("CON", "PRN", "AUX", "NUL", "COM1", "LPT9")
    lower = Counter(os.path.relpath(path, out).upper().lower() for path in paths)
    assert max(lower.values()) == 1


@pytest.mark.parametrize("to", [to for to, modality in ROUTES if modality == "image"])
def test_wild_kinds_and_ids_stay_inside_and_apart_in_every_format(tmp_path, to):
    records = pictures(WILD, ids=IDS + [f"i{i}" for i in range(4 + len(WILD) - len(IDS))])
    out = export(tmp_path, records, to)
    check_safe(out)
    images = [name for name in walk(out) if name.endswith(".png") and not name.startswith(("mask", "ground_truth"))]
    assert len(images) == len(records)
    assert {path.name for path in tmp_path.iterdir()} == {"store", out.name}


@SOME
@given(kinds=st.lists(st.text(max_size=12), min_size=1, max_size=6, unique=True))
def test_two_kinds_never_share_a_folder_whatever_they_are_called(tmp_path_factory, kinds):
    check_kinds(export(tmp_path_factory.mktemp("kinds"), pictures(kinds, normals=1), "mvtec"), kinds)


@pytest.mark.parametrize("to, folder", [("mvtec", "test"), ("anomalib-folder", "abnormal")])
def test_no_two_wild_kinds_share_a_folder(tmp_path, to, folder):
    check_kinds(export(tmp_path, pictures(WILD, normals=1), to), WILD, folder)


def check_kinds(out: Path, kinds: list[str], folder: str = "test") -> None:
    """A folder a kind, and provenance.csv tells which."""
    folders = [path for path in (out / folder).iterdir() if path.name != "good"]
    assert len(folders) == len(kinds) == len({fold(path.name) for path in folders})
    shown = {undone(row["kind"]): row["image"].split("/")[1] for row in read_csv(out / "provenance.csv") if row["mask"]}
    assert set(shown) == set(kinds) and len(set(shown.values())) == len(kinds)
    check_safe(out)


ALIKE = st.sampled_from("aAä\u0308ßs/.-_KkK\x00")


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(ALIKE, max_size=2) | st.sampled_from(["CON", "con", "con.a", "ﬁ", "fi"]), unique=True))
def test_names_are_clean_unique_and_the_same_when_asked_in_the_same_order(texts):
    one, other = Names(["good"]), Names(["good"])
    names = [one.new(text) for text in texts]
    assert names == [other.new(text) for text in texts]
    assert len({fold(name) for name in [*names, "good"]}) == len(names) + 1
    assert all(clean(name) == name for name in names)


def test_an_id_that_is_a_path_becomes_a_name_that_still_tells_it():
    assert [clean(stem(id)) for id in ("test/good/000.PNG", "v1.2", "a.tar")] == ["test_good_000", "v1.2", "a.tar"]


def test_a_plain_name_keeps_itself_whoever_comes_first(tmp_path):
    out = export(tmp_path, pictures(("a/b", "a_b")), "mvtec")
    kinds = {row["image"].split("/")[1]: row["kind"] for row in read_csv(out / "provenance.csv") if row["mask"]}
    assert kinds.pop("a_b") == "a_b" and list(kinds.values()) == ["a/b"] and next(iter(kinds)).startswith("a_b-")


# COCO


def quiet(path: Path, capsys) -> COCO:
    found = COCO(str(path))
    capsys.readouterr()
    return found


@pytest.mark.parametrize("shape, least", [("rle", 1.0), ("polygon", 0.99)])
def test_pycocotools_decodes_the_masks(tmp_path, capsys, shape, least):
    records = pictures(("scratch", "dent", "<b>", "scratch"))
    out = export(tmp_path, records, "coco", shape=shape)
    seen = 0
    for part, splits in (("train", ("fit", "generated")), ("val", ("calib",)), ("test", ("test",))):
        coco = quiet(out / "annotations" / f"instances_{part}.json", capsys)
        names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
        assert names == {1: "<b>", 2: "dent", 3: "scratch"}
        for image in coco.dataset["images"]:
            i = list(records.meta["id"]).index(image["provenance"]["id"])
            meta, mask, seen = records.meta.iloc[i], records.mask[i], seen + 1
            assert meta["split"] in splits and image["synthetic"] == meta["synthetic"]
            assert image["provenance"]["parents"] == ["p", "q"] and image["provenance"]["severity"] == 0.3
            assert same(read_png(out / "images" / image["file_name"]), records.x[i])
            found = [a for a in coco.dataset["annotations"] if a["image_id"] == image["id"]]
            assert len(found) == len(list(regions(mask)))
            whole = np.zeros(mask.shape, int)
            for annotation in found:
                part_mask = coco.annToMask(annotation)
                rle = coco_mask.encode(np.asfortranarray(part_mask))
                assert names[annotation["category_id"]] == meta["kind"] and annotation["iscrowd"] == 0
                if shape == "rle":
                    assert annotation["area"] == coco_mask.area(rle)
                    assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
                whole += part_mask
            assert whole.max() <= 1
            union = (whole.astype(bool) | mask).sum()
            assert not union or (whole.astype(bool) & mask).sum() / union >= least
    assert seen == len(records)
    assert [name for name in walk(out) if not name.endswith(".png")] == [
        f"annotations/instances_{part}.json" for part in ("test", "train", "val")
    ]


def area(loop: np.ndarray) -> float:
    """Signed area of a closed outline, positive where clockwise in an image (shoelace formula)."""
    x, y = loop.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@SOME
@given(bits=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=7), grow=st.integers(1, 3))
def test_an_outline_has_the_area_of_its_pixels_and_pycocotools_fills_just_them(bits, grow):
    mask = np.kron(np.array(bits, bool), np.ones((grow, grow), bool))
    for region in regions(mask):
        wanted = alone(region, mask.shape)
        assert sum(map(area, outlines(region[2]))) == area(polygon(region)) == wanted.sum()
        assert [area(loop) > 0 for loop in outlines(region[2])] == [True] + [False] * (len(outlines(region[2])) - 1)
        for loop in outlines(region[2]):
            steps = loop - np.roll(loop, 1, axis=0)
            assert ((steps * np.roll(steps, 1, axis=0)).sum(axis=1) == 0).all(), "a corner where nothing turns"
        rle = coco_mask.frPyObjects([polygon(region).ravel().astype(float).tolist()], *mask.shape)
        assert np.array_equal(coco_mask.decode(coco_mask.merge(rle)), wanted)
    runs = run_lengths(mask.ravel())
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs), mask.ravel())


def test_an_outline_has_a_corner_only_where_it_turns():
    assert sorted(map(tuple, polygon((2, 3, np.ones((4, 5), bool))))) == [(3, 2), (3, 6), (8, 2), (8, 6)]
    touching = np.eye(2, dtype=bool)
    assert len(list(regions(touching))) == 1 and len(outlines(touching)) == 1


# YOLO


def test_yolo_outlines_filled_again_are_the_masks(tmp_path):
    records = pictures(("scratch", "a: b # c", "=x", "-y"))
    out = export(tmp_path, records, "yolo-seg")
    told = yaml.safe_load((out / "data.yaml").read_text())
    assert told["names"] == {0: "-y", 1: "=x", 2: "a: b # c", 3: "scratch"}
    assert (told["train"], told["val"], told["test"]) == ("images/train", "images/val", "images/test")
    rows = {row["id"]: row for row in read_csv(out / "provenance.csv")}
    labels = {f"labels/{Path(row['image']).relative_to('images').with_suffix('.txt')}" for row in rows.values()}
    assert walk(out) == sorted({"data.yaml", "provenance.csv", *labels, *(row["image"] for row in rows.values())})
    for meta, x, mask in zip(records.meta.to_dict("records"), records.x, records.mask):
        image = rows[meta["id"]]["image"]
        assert image.split("/")[1] == {"calib": "val", "test": "test"}.get(meta["split"], "train")
        assert same(read_png(out / image), x)
        height, width = mask.shape
        found = np.zeros(mask.shape, bool)
        for line in (out / image.replace("images", "labels", 1)).with_suffix(".txt").read_text().splitlines():
            number, *values = line.split()
            points = np.array(values, float)
            assert told["names"][int(number)] == meta["kind"] and points.min() >= 0 and points.max() <= 1
            corners = (points.reshape(-1, 2) * (width, height)).ravel().tolist()
            assert np.abs(corners - np.round(corners)).max() < 1e-6
            found |= coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([corners], height, width))) > 0
        assert np.array_equal(found, mask)


def test_yolo_says_where_a_part_stands_in_for_another(tmp_path):
    records = pictures().with_meta(split="generated")
    text = (export(tmp_path, records, "yolo-seg") / "data.yaml").read_text()
    assert text.startswith("# the stores hold no val records: val repeats train\n")
    assert yaml.safe_load(text)["val"] == "images/train" and "test" not in yaml.safe_load(text)


# Label Studio


def unpack(data: list[int], size: tuple[int, int]) -> np.ndarray:
    """Alpha of packed run lengths of RGBA pixels, read bit by bit from the format's description."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        run, length = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(values).reshape(*size, 4)[..., 3]


def test_label_studio_regions_are_the_masks_and_provenance_is_in_data(tmp_path):
    records = pictures(WILD[:14])
    for shape, tag in (("rle", "BrushLabels"), ("polygon", "PolygonLabels")):
        out = tmp_path / shape
        command.export([store(tmp_path, records)], out, to="labelstudio", shape=shape)
        view = ElementTree.parse(out / "config.xml").getroot()
        labels = [label.get("value") for label in view.find(tag)]
        assert len(set(labels)) == len(labels) == 14 and "<img src=x onerror=alert(1)>" in labels
        tasks = json.loads((out / "tasks.json").read_text())
        assert [task["data"]["id"] for task in tasks] == list(records.meta["id"])
        for i, task in enumerate(tasks):
            prefix, name = task["data"]["image"].split("?d=")
            assert prefix == "/data/local-files/" and same(read_png(out / name), records.x[i])
            assert task["data"]["synthetic"] == records.meta["synthetic"][i] and task["data"]["parents"] == ["p", "q"]
            mask, found = records.mask[i], np.zeros(records.mask[i].shape, bool)
            for result in task["annotations"][0]["result"]:
                value = result["value"]
                assert result["type"] == tag.lower() and value[tag.lower()][0] in labels
                assert (result["original_height"], result["original_width"]) == mask.shape
                if shape == "rle":
                    alpha = unpack(value["rle"], mask.shape)
                    assert set(np.unique(alpha)) <= {0, 255}
                    found |= alpha == 255
                else:
                    corners = (np.array(value["points"]) / 100 * mask.shape[::-1]).ravel().tolist()
                    found |= coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([corners], *mask.shape))) > 0
            assert np.array_equal(found, mask)


def test_a_brush_begins_as_in_a_file_that_label_studio_wrote():
    """The first bytes of an annotation of 3332 x 2527 pixels: its header and runs of 65536 transparent values."""
    head = [2, 1, 233, 240, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31, 255, 252, 3, 255, 255, 128, 127, 255, 240, 15]
    assert labelstudio.brush(np.zeros((2527, 3332), bool))[: len(head)] == head


def test_kinds_of_control_characters_keep_labels_of_their_own():
    labels = labelstudio.label_names(["\x01", "\\x01", ""])
    assert len(set(labels.values())) == 3 and all(label and label.isprintable() for label in labels.values())


# rows and series


def table_of(texts: list[str]) -> Records:
    n = len(texts)
    frame = pd.DataFrame({
        "text": pd.array(texts, dtype="string"), "number": [-1.5, 1e-17, np.nan, 1e300] + [-0.1] * (n - 4),
        "whole": pd.array([-3, None, 2**60] + [0] * (n - 3), dtype="Int64"),
        "yes": pd.array([True, False, None] + [True] * (n - 3), dtype="boolean"),
        "=when": pd.to_datetime(["1999-12-31", "2020-02-29T12:34:56.000000789", None] + ["1970-01-01"] * (n - 3),
                                format="ISO8601"),
    })  # fmt: skip
    types = {"text": "categorical", "number": "numeric", "whole": "integer", "yes": "boolean", "=when": "date"}
    schema = {"columns": [{"name": name, "type": types[name], "nullable": True} for name in frame]}
    mask = np.random.default_rng(0).random((n, 5)) < 0.4
    meta = make_meta(n, id=[f"-{i}" for i in range(n)], label=[i % 2 for i in range(n)])
    return Records("row", meta, frame.astype({"=when": "datetime64[ns]"}), mask, schema)


def test_rows_are_typed_and_only_text_is_escaped(tmp_path):
    records = table_of(["=cmd|' /C calc'!A0", "@x", "-5", "\tx", "\rx", "plain", "'=x", "a,b\r\n\"c\""])
    out = export(tmp_path, records, "csv")
    rows = read_csv(out / "rows.csv")
    assert [row["id"] for row in rows] == [f"'-{i}" for i in range(8)]
    assert [row["text"] for row in rows] == [
        "'=cmd|' /C calc'!A0", "'@x", "'-5", "'\tx", "'\rx", "plain", "''=x", "a,b\r\n\"c\"",
    ]  # fmt: skip
    assert [row["number"] for row in rows][:5] == ["-1.5", "1e-17", "", "1e+300", "-0.1"]
    assert [row["whole"] for row in rows][:4] == ["-3", "", str(2**60), "0"]
    assert [row["yes"] for row in rows][:4] == ["true", "false", "", "true"]
    assert [row["'=when"] for row in rows][:4] == [
        "1999-12-31T00:00:00", "2020-02-29T12:34:56.000000789", "", "1970-01-01T00:00:00",
    ]  # fmt: skip
    masks = [[row[name] for name in ("text", "number", "whole", "yes", "'=when")] for row in read_csv(out / "mask.csv")]
    assert np.array_equal(np.array(masks) == "1", records.mask)
    assert [undone(row["id"]) for row in read_csv(out / "provenance.csv")] == list(records.meta["id"])


@SOME
@given(texts=st.lists(st.text(), min_size=4, max_size=8))
def test_no_text_cell_is_a_formula_and_no_two_texts_become_one(tmp_path_factory, texts):
    out = export(tmp_path_factory.mktemp("text"), table_of(texts), "csv")
    found = [row["text"] for row in read_csv(out / "rows.csv")]
    assert not any(text.startswith(FORMULA) for text in found)
    assert list(map(undone, found)) == texts


@given(number=st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1)))
def test_numbers_are_written_exactly_and_never_escaped(number):
    text = cell(number)
    assert text == "" if number != number else type(number)(text) == number


def test_a_short_float_is_written_short():
    assert cell(np.float32(0.3)) == "0.3" and cell(np.float64(0.1)) == "0.1" and cell(np.int64(-3)) == "-3"


def test_rows_read_by_our_own_reader_are_the_rows(tmp_path):
    records = sample("row")
    out = export(tmp_path, records, "csv")
    found, quarantine = SOURCES["csv"](out / "rows.csv", modality="row", label="label", anomalous=1, id="id",
                                       group="group", kind="kind", ignore=["split", "synthetic"])  # fmt: skip
    assert quarantine == [] and list(found.meta["id"]) == list(records.meta["id"])
    assert list(found.meta["kind"]) == list(records.meta["kind"])
    pd.testing.assert_frame_equal(found.x, records.x)


def series_of(names: list[str], dated: bool) -> Records:
    rng = np.random.default_rng(0)
    start = pd.Timestamp("1967-03-01").value if dated else -5
    time = [start + np.arange(9, dtype=np.int64) * (3_600_500_000_000 if dated else 2) for _ in range(4)]
    x = [rng.normal(size=(9, len(names))) for _ in range(4)]
    mask = [np.zeros((9, len(names)), bool) for _ in range(4)]
    mask[3][2:5, 1] = True
    x[0][0, 0] = np.nan
    if dated:
        time[3] += pd.Timestamp("2020-01-01").value
    meta = make_meta(4, id=["e0", "e1", "e2", "e3"], label=[0, 0, 0, 1], kind=["normal"] * 3 + ["=spike"])
    return Records("series", meta, x, mask, {"channels": names}, time)


@pytest.mark.parametrize("dated", [True, False])
def test_series_in_long_form_have_a_line_a_step_with_time_values_and_marks(tmp_path, dated):
    records = series_of(["time", "load", "label"], dated)
    rows = read_csv(export(tmp_path, records, "csv") / "series.csv")
    assert list(rows[0]) == ["id", "time", "label", "kind", "channel:time", "load", "channel:label",
                             "mask:time", "mask:load", "mask:label"]  # fmt: skip
    assert len(rows) == 36
    for i, id in enumerate(records.meta["id"]):
        own = [row for row in rows if row["id"] == id]
        at = [row["time"] for row in own]
        found = pd.to_datetime(at, format="ISO8601").as_unit("ns").asi8 if dated else np.array(at, np.int64)
        assert np.array_equal(found, records.time[i])
        values = [[row[name] for name in ("channel:time", "load", "channel:label")] for row in own]
        values = np.array([[float(value or "nan") for value in line] for line in values])
        assert np.array_equal(values, records.x[i], equal_nan=True)
        marks = np.array([[row[name] == "1" for name in ("mask:time", "mask:load", "mask:label")] for row in own])
        assert np.array_equal(marks, records.mask[i])
        assert [row["label"] for row in own] == [str(int(odd)) for odd in records.mask[i].any(axis=1)]
        assert [row["kind"] for row in own] == ["'=spike" if odd else "" for odd in records.mask[i].any(axis=1)]


@pytest.mark.parametrize("first, last, dated", [
    ("1958-03-29", "1971-01-01", True), ("1970-01-01", "2026-01-01", True), (0, 8, False), (-7, 1, False),
    (0, 1_790_000_000_000_000, False),
])  # fmt: skip
def test_a_time_far_from_zero_is_a_date(tmp_path, first, last, dated):
    ends = [pd.Timestamp(end).value if dated else end for end in (first, last)]
    records = dataclasses.replace(series_of(["a", "b"], False), time=[np.linspace(*ends, 9).astype(np.int64)] * 4)
    assert Survey.of([store(tmp_path, records)]).dated == dated


@pytest.mark.parametrize("dated", [True, False])
def test_series_read_by_our_own_reader_are_the_series(tmp_path, dated):
    records = series_of(["flow", "load"], dated).take([1, 2, 3])
    out = export(tmp_path, records, "csv")
    found, _ = SOURCES["csv"](out / "series.csv", modality="series", timestamp="time", entity="id", label="label",
                              kind="kind", values=["flow", "load"])  # fmt: skip
    assert list(found.meta["id"]) == list(records.meta["id"])
    for i in range(3):
        assert np.array_equal(found.x[i], records.x[i]) and np.array_equal(found.time[i], records.time[i])
        assert np.array_equal(found.mask[i].any(axis=1), records.mask[i].any(axis=1))


@pytest.mark.parametrize("modality", ["row", "series"])
def test_json_lines_hold_the_record_and_all_its_provenance(tmp_path, modality):
    records = sample(modality).with_meta(severity=0.3)
    (name,) = walk(out := export(tmp_path, records, "jsonl"))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (out / name).read_text().splitlines()]
    assert [line["id"] for line in lines] == list(records.meta["id"]) and lines[0]["severity"] == 0.3
    for i, line in enumerate(lines):
        if modality == "row":
            row = records.x.iloc[i]
            assert {key: value for key, value in row.items() if pd.notna(value)} == {
                key: value for key, value in line["cells"].items() if value is not None
            }
            marked = [name in line["mask"] for name in records.x]
            assert marked == records.mask[i].tolist()
        else:
            assert np.array_equal(np.array([line["series"][c] for c in ("a", "b")]).T, records.x[i])
            assert np.array_equal(np.array([line["mask"][c] for c in ("a", "b")]).T, records.mask[i])
            assert line["time"] == records.time[i].tolist()


def test_datasets_loads_image_lines_as_columns_of_images_and_masks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    records = pictures()
    out = export(tmp_path, records, "jsonl")
    found = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    found = found.cast_column("mask", found.features["image"])
    at = {id: i for i, id in enumerate(found["id"])}
    assert set(at) == set(records.meta["id"])
    for i, id in enumerate(records.meta["id"]):
        row = found[at[id]]
        assert np.array_equal(np.asarray(row["mask"]) > 0, records.mask[i]) and row["reason"] == "kept"
        assert row["image"].size == records.x[i].shape[1::-1]


# the command


def run(*argv) -> object:
    return CliRunner().invoke(cli.app, ["export", *map(str, argv)])


def test_the_command_tells_what_it_wrote_and_help_names_every_format(tmp_path):
    out = tmp_path / "a" / "out"
    found = run(store(tmp_path, pictures()), out, "--to", "coco", "--shape", "polygon")
    assert found.exit_code == 0 and found.stderr == ""
    files = walk(out)
    size = sum((out / name).stat().st_size for name in files)
    told = f"6 records, 2 of them anomalous, 1 synthetic, as coco in {len(files)} files, {size / 1000:.1f} kB"
    assert found.stdout == f"{out}: {told}\n"
    told = run("--help").stdout
    assert all(name in told for name in EXPORTERS)


def test_synthetic_anomalies_in_a_test_folder_are_told(tmp_path):
    found = run(store(tmp_path, pictures().with_meta(synthetic=True)), tmp_path / "out", "--to", "mvtec")
    assert found.exit_code == 0 and found.stderr.count("\n") == 2
    assert "every anomaly is a test record, 2 synthetic ones too" in found.stderr
    assert "4 synthetic normals, twins of generated anomalies, are among those for training" in found.stderr
    odd = pictures().with_meta(synthetic=list(pictures().meta["label"] != 0))
    assert run(store(tmp_path / "odd", odd), tmp_path / "o", "--to", "mvtec").stderr.count("\n") == 1


@pytest.mark.parametrize("to, modality", ROUTES)
def test_an_anomaly_in_which_nothing_is_marked_is_counted_and_told(tmp_path, to, modality):
    records = sample(modality)
    odd = np.flatnonzero(records.meta["label"])
    for i in odd[:2]:
        records.mask[i][:] = False
    found = run(store(tmp_path, records), tmp_path / "out", "--to", to)
    held = f", which {to} holds as normal" if to in ("coco", "yolo-seg", "labelstudio") else ""
    names = ", ".join(records.meta["id"][odd[:2]])
    assert found.exit_code == 0 and f"export: anomalies with an empty mask{held}: 2 ({names})\n" in found.stderr
    if to == "coco":  # as it says
        told = [json.loads(p.read_text()) for p in (tmp_path / "out" / "annotations").iterdir()]
        assert len({(i, a["image_id"]) for i, own in enumerate(told) for a in own["annotations"]}) == len(odd) - 2


@pytest.mark.parametrize("to", EXPORTERS)
@pytest.mark.parametrize("modality", ["image", "series", "row"])
def test_a_format_that_cannot_hold_a_modality_names_those_that_can(tmp_path, to, modality):
    if modality in EXPORTERS[to]:
        return
    found = run(store(tmp_path, sample(modality)), tmp_path / "out", "--to", to)
    fit = ", ".join(name for name, writers in EXPORTERS.items() if modality in writers)
    assert found.exit_code == 2 and found.stderr.count("\n") == 1
    assert f"got {modality}; choose from {fit}" in found.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv, rule", [
    (["--to", "mvtek"], "unknown format 'mvtek'; did you mean 'mvtec'?"),
    (["--to", "coco", "--shape", "poligon"], "unknown shape 'poligon'; did you mean 'polygon'?"),
    (["--to", "mvtec", "--shape", "polygon"], "mvtec knows no choice of shape"),
])  # fmt: skip
def test_a_wrong_option_is_one_line_and_exit_2(tmp_path, argv, rule):
    found = run(store(tmp_path, pictures()), tmp_path / "out", *argv)
    assert found.exit_code == 2 and rule in found.stderr and found.stderr.count("\n") == 1


def test_a_store_that_is_missing_or_torn_is_exit_3(tmp_path):
    assert run(tmp_path / "none", tmp_path / "out", "--to", "coco").exit_code == 3
    path = store(tmp_path, pictures())
    (path / "part-00001.parquet").write_bytes(b"PAR1")
    found = run(path, tmp_path / "out", "--to", "coco")
    assert found.exit_code == 3 and "part-00001.parquet" in found.stderr and found.stderr.count("\n") == 1
    (path / "part-00000.parquet").unlink()
    assert "lacks part-00000.parquet" in run(path, tmp_path / "out", "--to", "coco").stderr


def test_several_stores_are_one_export_and_must_fit_together(tmp_path):
    records = pictures(("b", "a"))
    one, other = store(tmp_path, records.take([0, 1, 2, 4]), "one"), store(tmp_path, records.take([3, 5]), "other")
    command.export([one, other], tmp_path / "both", to="coco")
    command.export([store(tmp_path, records.take([0, 1, 2, 4, 3, 5]))], tmp_path / "whole", to="coco")
    assert manifest(tmp_path / "both") == manifest(tmp_path / "whole")
    with pytest.raises(InputError, match="ids must be unique, got 'r0'"):
        command.export([one, one], tmp_path / "out", to="coco")
    with pytest.raises(InputError, match="same modality and columns"):
        command.export([one, store(tmp_path, sample("row"), "rows")], tmp_path / "out", to="csv")
    rows = read_csv(export(tmp_path, records, "mvtec") / "provenance.csv")
    more = store(tmp_path, records.take([0]).with_meta(id=["new"], extra=[5]), "more")
    command.export([one, more], tmp_path / "wider", to="mvtec")
    wider = read_csv(tmp_path / "wider" / "provenance.csv")
    assert list(wider[0]) == [*rows[0], "extra"] and [row["extra"] for row in wider] == [""] * 4 + ["5"]


@pytest.mark.parametrize("to, modality", ROUTES)
def test_the_same_store_gives_the_same_bytes(tmp_path, to, modality):
    path = store(tmp_path, sample(modality))
    for name in ("one", "two"):
        command.export([path], tmp_path / name, to=to)
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two") != {}


@pytest.mark.parametrize("to, modality", ROUTES)
def test_a_store_without_anomalies_or_without_records_is_written_too(tmp_path, to, modality):
    normal = sample(modality).where(label=0)
    for name, records in (("normal", normal), ("none", normal.take([]))):
        told = command.export([store(tmp_path, records, name)], tmp_path / f"out-{name}", to=to)
        assert f"{len(records)} records, 0 of them anomalous" in told


def test_a_folder_that_is_not_empty_needs_force_and_is_then_replaced(tmp_path):
    path, out = store(tmp_path, pictures()), tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "mine.txt").write_text("mine")
    found = run(path, out, "--to", "mvtec")
    assert found.exit_code == 2 and "must be new or empty" in found.stderr and walk(out) == ["deep/mine.txt"]
    assert run(path, out, "--to", "mvtec", "--force").exit_code == 0 and "deep/mine.txt" not in walk(out)
    (empty := tmp_path / "empty").mkdir()
    assert run(path, empty, "--to", "mvtec").exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"store", "out", "empty"}


def test_even_force_keeps_the_store_the_home_and_where_one_is(tmp_path, monkeypatch):
    path = store(tmp_path, pictures(), "deep/store")
    home, here = tmp_path / "home", tmp_path / "here"
    (home / "sub").mkdir(parents=True)
    (here / "in").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here / "in")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(home)
    before = manifest(tmp_path)
    kept = (path, path / "sub", path.parent, home, here, Path("."), Path(".."), tmp_path / "file", tmp_path / "link")
    for out in kept:
        with pytest.raises(SettingsError, match="must not"):
            command.export([path], out, to="mvtec", force=True)
    assert manifest(tmp_path) == before


def fill(monkeypatch, limit: int, error: BaseException) -> None:
    """Every file together takes `limit` bytes, then `error` comes."""
    real, left = Path.open, [limit]

    def opened(self, mode="r", *args, **options):
        handle = real(self, mode, *args, **options)
        write = handle.write

        def writing(data):
            left[0] -= len(data)
            if left[0] < 0:
                raise error
            return write(data)

        if "r" not in mode:
            handle.write = writing
        return handle

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("to, modality", ROUTES)
def test_a_full_disk_leaves_nothing_and_is_exit_4(tmp_path, monkeypatch, to, modality):
    path, out = store(tmp_path, sample(modality)), tmp_path / "out"
    command.export([path], out, to=to)
    before, size = manifest(out), sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    for limit in (0, size // 2, size - 40):
        with monkeypatch.context() as patch:
            fill(patch, limit, OSError(errno.ENOSPC, "No space left on device"))
            found = run(path, out, "--to", to, "--force")
        assert found.exit_code == 4 and found.stderr.count("\n") == 1 and "disk full" in found.stderr
        assert manifest(out) == before and {p.name for p in tmp_path.iterdir()} == {"store", "out"}


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (stage.Terminated(), 143)])
def test_an_interrupted_export_leaves_nothing_and_says_how_to_run_it_again(tmp_path, monkeypatch, error, code):
    path, out = store(tmp_path, pictures()), tmp_path / "o ut"
    with monkeypatch.context() as patch:
        fill(patch, 5000, error)
        found = run(path, out, "--to", "coco")
    assert found.exit_code == code and found.stderr.count("\n") == 1
    assert f"run again: oddsmith export {path} '{out}' --to coco" in found.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"store"}


@pytest.mark.parametrize("to, modality", ROUTES)
def test_records_are_let_go_as_soon_as_they_are_written(tmp_path, to, modality):
    records, seen = sample(modality), []

    def chunks():
        for i in range(len(records)):
            assert sum(one() is not None for one in seen) <= 1
            chunk = records.take([i])
            seen.append(weakref.ref(chunk))
            yield chunk
            del chunk

    survey = Survey.of([store(tmp_path, records)])
    (tmp_path / "out").mkdir()
    EXPORTERS[to][modality](tmp_path / "out", chunks(), survey)
    assert len(seen) == len(records)


def test_a_long_export_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "LINE_SECONDS", 0.0)
    found = run(store(tmp_path, pictures()), tmp_path / "out", "--to", "yolo-seg")
    assert "export yolo-seg: 3/6 (50 %)" in found.stderr
