"""Sources: public layouts are read as they are, and every kind of bad input is named, never passed over."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.errors import InputError, SettingsError
from data.sources import SOURCES
from data.sources.choose import canonical
from data.sources.common import show
from data.sources.pixels import BadImage, read_image, read_mask
from data.sources.types import kind_of

SHARED = Path(__file__).parents[2] / "shared" / "data"
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
SPOT = np.zeros((6, 8), np.uint8)
SPOT[2:4, 3:6] = 255


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    save(root / "train/good/a.png", GREY)
    save(root / "test/good/b.png", GREY + 1)
    save(root / "test/hole/c.png", GREY + 2)
    save(root / "ground_truth/hole/c_mask.png", SPOT)
    return root


def mvtec(root: Path, **options):
    return SOURCES["mvtec"](root, modality="image", **options)


def left_out(root: Path, item: str, reason: str, **options) -> None:
    """Fails unless exactly `item` is quarantined with `reason`, and `strict` makes that an error."""
    _, quarantine = mvtec(root, **options)
    assert [row["item"] for row in quarantine] == [item], quarantine
    assert reason in quarantine[0]["reason"]
    with pytest.raises(InputError, match="; "):
        mvtec(root, strict=True, **options)


# ---------------------------------------------------------------- mvtec


def test_a_tree_is_read_with_its_split_kinds_and_masks(tree: Path):
    records, quarantine = mvtec(tree)
    assert not quarantine
    assert records.meta[["id", "given", "kind", "label"]].values.tolist() == [
        ["train/good/a.png", "train", "normal", 0],
        ["test/good/b.png", "test", "normal", 0],
        ["test/hole/c.png", "test", "hole", 1],
    ]
    np.testing.assert_array_equal(records.x[2], GREY + 2)
    np.testing.assert_array_equal(records.mask[2], SPOT > 0)
    assert not records.mask[0].any() and records.mask[0].shape == GREY.shape


def test_groups_come_from_the_index_and_copies_share_one(tree: Path):
    save(tree / "train/good/copy.png", GREY)
    records, _ = mvtec(tree)
    assert records.meta["group"].tolist()[:2] == ["train/good/a.png"] * 2
    names = [*records.meta["id"]]
    pd.DataFrame({"image": names, "lot": [7, 7, 8, ""]}).to_csv(tree / "index.csv", index=False)
    records, quarantine = mvtec(tree, group="lot")
    assert records.meta["group"].tolist() == ["lot-7", "lot-7", "lot-8", "test/hole/c.png"] and not quarantine
    pd.DataFrame({"image": [*names[:3], "test/hole/gone.png"], "lot": 1}).to_csv(
        tree / "index.csv", index=False
    )
    _, quarantine = mvtec(tree, group="lot")
    assert [(row["item"], row["reason"].split(",")[0]) for row in quarantine] == [
        ("test/hole/c.png", "an image must be listed in index.csv when 'group' is set"),
        ("test/hole/gone.png", "an image listed in index.csv must exist"),
    ]
    with pytest.raises(InputError, match="column 'lots'"):
        mvtec(tree, group="lots")


def test_kinds_are_chosen_and_misspelt_ones_named(tree: Path):
    save(tree / "test/crack/d.png", GREY + 3)
    save(tree / "ground_truth/crack/d_mask.png", SPOT)
    assert set(mvtec(tree, kinds=["crack"])[0].meta["kind"]) == {"normal", "crack"}
    with pytest.raises(SettingsError, match="did you mean 'crack'"):
        mvtec(tree, kinds=["crakc"])


def test_unknown_options_modalities_and_paths_are_named(tree: Path):
    with pytest.raises(SettingsError, match="unknown option 'groups'; did you mean 'group'"):
        mvtec(tree, groups="x")
    with pytest.raises(SettingsError, match="unknown modality 'row'"):
        SOURCES["mvtec"](tree, modality="row")
    with pytest.raises(SettingsError, match="option 'label' must be given"):
        SOURCES["csv"](tree, modality="row", anomalous=1)
    for reader in ("mvtec", "folder"):
        with pytest.raises(InputError, match="must exist"):
            SOURCES[reader](tree / "none", modality="image")
    with pytest.raises(InputError, match="train/good"):
        mvtec(tree / "train")


@pytest.mark.parametrize("kind", ["a mask without an image", "an image without a mask"])
def test_unpaired_files_are_left_out(tree: Path, kind: str):
    if kind == "a mask without an image":
        save(tree / "ground_truth/hole/z_mask.png", SPOT)
        left_out(tree, "ground_truth/hole/z_mask.png", "must have an image")
    else:
        save(tree / "test/hole/z.png", GREY)
        left_out(tree, "test/hole/z.png", "must have a mask")


def test_masks_that_contradict_their_image_are_left_out(tree: Path):
    mask = tree / "ground_truth/hole/c_mask.png"
    for bad, reason in (
        (SPOT * 0, "must not be empty"),
        (SPOT * 0 + 255, "leave a normal pixel"),
        (SPOT[:, :-1], "size 8 x 6, got 7 x 6"),
        (SPOT.T, "size 8 x 6, got 6 x 8"),
    ):
        save(mask, np.ascontiguousarray(bad))
        left_out(tree, "test/hole/c.png", reason)
    save(mask, SPOT)
    save(tree / "ground_truth/good/b_mask.png", SPOT)
    left_out(tree, "ground_truth/good/b_mask.png", "a normal image must have no mask")


def test_a_missing_mask_folder_and_one_without_images_are_told(tree: Path):
    (tree / "ground_truth/hole").rename(tree / "ground_truth/holes")
    _, quarantine = mvtec(tree)
    assert {row["item"] for row in quarantine} == {"test/hole/c.png", "ground_truth/holes"}


def test_odd_names_are_paired_and_ambiguous_ones_refused(tree: Path):
    name = "\u00dcber score \u00e9"
    save(tree / f"test/hole/{name}.png", GREY)  # composed in the image, decomposed in the mask
    save(tree / f"ground_truth/hole/{unicodedata.normalize('NFD', name)}_mask.png", SPOT)
    save(tree / "test/hole/C.png", GREY + 7)
    save(tree / "ground_truth/hole/C_mask.png", SPOT[::-1].copy())
    save(tree / "test/hole/.hidden.png", GREY)
    records, quarantine = mvtec(tree)
    assert not quarantine and len(records) == 5
    upper = records.take(records.meta["id"] == "test/hole/C.png")
    np.testing.assert_array_equal(upper.mask[0], SPOT[::-1] > 0)
    save(tree / "test/hole/c.jpg", GREY)
    _, quarantine = mvtec(tree)
    assert [row["item"] for row in quarantine][:2] == ["test/hole/c.jpg", "test/hole/c.png"]
    assert "c.png has it too" in quarantine[0]["reason"]


def test_control_characters_and_broken_bytes_in_names_are_refused_on_one_line(tree: Path):
    save(tree / "train/good/x\ny.png", GREY)
    (tree / "train/good" / os.fsdecode(b"\xff.png")).write_bytes((tree / "train/good/a.png").read_bytes())
    _, quarantine = mvtec(tree)
    assert sorted(row["item"] for row in quarantine) == ["train/good/\\udcff.png", "train/good/x\\ny.png"]
    assert all("\n" not in row["item"] + row["reason"] for row in quarantine)


def test_links_out_of_the_tree_are_not_followed(tree: Path, tmp_path: Path):
    outside = save(tmp_path / "outside/o.png", GREY)
    (tree / "train/good/link.png").symlink_to(outside)
    left_out(tree, "train/good/link.png", "leads out")
    (tree / "train/good/link.png").unlink()
    (tree / "test/far").symlink_to(outside.parent)
    left_out(tree, "test/far", "leads out")
    (tree / "test/far").unlink()
    (tree / "train/good/near.png").symlink_to(tree / "test/good/b.png")
    assert not mvtec(tree)[1]


# ---------------------------------------------------------------- pixels


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"00"))
    )


def test_corrupt_images_are_left_out_by_content(tree: Path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64), np.uint8)
    good, jpeg = (
        save(tree / "train/good/n.png", noise).read_bytes(),
        save(tree / "train/good/j.jpg", noise).read_bytes(),
    )
    (tree / "train/good/j.jpg").unlink()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    torn = bytearray(good)
    torn[good.index(b"IEND") - 5] ^= 255  # the checksum of the pixels
    for name, data, reason in (
        ("n.png", good[: len(good) // 2], "whole"), ("n.png", bytes(flipped), "whole"), ("n.png", bytes(torn), "whole"),
        ("n.png", b"", "empty"),
        ("n.png", b"hello", "found none of them"), ("n.png", jpeg, "got JPEG in '.png'"),
        ("j.jpg", jpeg[: len(jpeg) // 2], "whole"), ("j.jpg", good, "got PNG in '.jpg'"), ("t.txt", good, "got '.txt'"),
        ("v.png", pickle.dumps([1]), "found none of them"),
    ):  # fmt: skip
        (tree / "train/good/n.png").unlink(missing_ok=True)
        (tree / "train/good" / name).write_bytes(data)
        left_out(tree, f"train/good/{name}", reason)
        (tree / "train/good" / name).unlink()


def test_a_bomb_is_refused_from_its_header(tmp_path: Path):
    (tmp_path / "small.png").write_bytes(png(8000, 8000))  # exactly 64 megapixels, but hardly a pixel follows
    with pytest.raises(BadImage, match="whole"):
        read_image(tmp_path / "small.png")
    for side in (8001, 30000, 2**31 - 1):
        (tmp_path / "bomb.png").write_bytes(png(8000, side))
        with pytest.raises(BadImage, match="at most 64 megapixels"):
            read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_rotation_is_applied_as_pillow_does(tmp_path: Path, turn: int):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = turn
    for mode, array in (("grey", GREY), ("colour", np.dstack([GREY, GREY + 1, 255 - GREY]))):
        path = save(tmp_path / f"{mode}.png", array, exif=exif)
        np.testing.assert_array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))


def test_a_mask_must_fit_the_turned_image(tree: Path):
    exif = Image.Exif()
    exif[274] = 6
    save(tree / "test/hole/c.png", GREY, exif=exif)
    left_out(tree, "test/hole/c.png", "size 6 x 8, got 8 x 6; turn it")
    save(tree / "ground_truth/hole/c_mask.png", np.rot90(SPOT, -1).copy())
    records, quarantine = mvtec(tree)
    assert not quarantine
    np.testing.assert_array_equal(records.x[2], np.rot90(GREY, -1))


def test_sixteen_bits_are_kept(tmp_path: Path):
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    np.testing.assert_array_equal(read_image(save(tmp_path / "g.png", deep)), deep)
    np.testing.assert_array_equal(read_image(save(tmp_path / "g.tif", deep)), deep)
    colour = np.dstack([deep, deep + 1, 65535 - deep])
    for name in ("c.png", "c.tif"):
        cv2.imwrite(str(tmp_path / name), colour[..., ::-1])
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, colour)


def test_every_pixel_mode_has_its_conversion(tmp_path: Path):
    colour = np.dstack([GREY, GREY[::-1], 255 - GREY])
    image = Image.fromarray(colour)
    np.testing.assert_array_equal(read_image(save(tmp_path / "1.png", SPOT > 0)), SPOT)
    image.quantize(48).save(tmp_path / "p.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "p.png"), np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    )
    palette = Image.fromarray(GREY // 5)
    palette.putpalette([v for i in range(256) for v in (255 - i, 255 - i, 255 - i)])
    palette.save(tmp_path / "pg.png")
    np.testing.assert_array_equal(read_image(tmp_path / "pg.png"), 255 - GREY // 5)
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tif"), colour)
    opaque = np.dstack([colour, np.full_like(GREY, 255)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "rgba.png", opaque)), colour)
    np.testing.assert_array_equal(read_image(save(tmp_path / "la.png", opaque[..., [0, 3]])), GREY)
    for name in ("b.bmp", "w.webp", "t.tiff"):
        np.testing.assert_array_equal(
            read_image(save(tmp_path / name, colour, **({"lossless": True} if "webp" in name else {}))),
            colour,
        )


def test_what_has_no_conversion_is_refused_by_name(tmp_path: Path):
    clear = np.dstack([GREY, GREY, GREY, np.where(SPOT, 0, 255).astype(np.uint8)])
    frames = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "apng.png", save_all=True, append_images=frames[1:])
    save(tmp_path / "clear.png", clear)
    save(tmp_path / "la.png", clear[..., [0, 3]].copy())
    save(tmp_path / "key.png", GREY, transparency=10)
    save(tmp_path / "float.tif", GREY.astype(np.float32))
    save(tmp_path / "wide.tif", GREY.astype(np.int32) * 100_000)
    frames[0].save(tmp_path / "x.gif")
    for name, reason in (
        ("two.tif", "one frame, got 2"),
        ("apng.png", "one frame, got 2"),
        ("clear.png", "6 transparent"),
        ("la.png", "6 transparent"),
        ("key.png", "transparent colour"),
        ("float.tif", "got mode F"),
        ("wide.tif", r"0\.\.65535"),
        ("x.gif", "found none of them"),
    ):
        with pytest.raises(BadImage, match=reason):
            read_image(tmp_path / name)


def test_masks_of_every_convention_mark_the_same_pixels(tmp_path: Path):
    odd = SPOT > 0
    soft = np.where(odd, 230, 20).astype(np.uint8)
    soft[0, 0], soft[2, 3] = 127, 128
    classes = np.where(odd, 3, 0).astype(np.uint8)
    classes[2, 3] = 1
    big = np.kron(SPOT, np.ones((16, 16), np.uint8))
    white = np.where(classes == 3, 255, 0).astype(np.uint8)
    voc = Image.fromarray(classes)
    voc.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    voc.save(tmp_path / "voc.png")
    cases = {
        "bit.png": odd,
        "one.png": odd.astype(np.uint8),
        "full.png": SPOT,
        "mid.png": odd * np.uint8(100),
        "soft.png": soft,
        "classes.png": classes,
        "deep.png": odd * np.uint16(65535),
        "rgb.png": np.dstack([SPOT] * 3),
        "red.png": np.dstack([SPOT, SPOT * 0, SPOT * 0]),
        "softrgb.png": np.dstack([soft] * 3),
        "tint.png": np.dstack([soft, soft + 3, soft]),
        "dark.png": np.dstack([classes, classes * (classes > 1), classes * 0]),  # (1, 0, 0) and (3, 3, 0)
        "beside.png": np.dstack([np.maximum(classes, white), white, white]),  # (1, 0, 0) beside white
    }
    for name, array in cases.items():
        np.testing.assert_array_equal(read_mask(save(tmp_path / name, array), odd.shape), odd, err_msg=name)
    np.testing.assert_array_equal(read_mask(tmp_path / "voc.png", odd.shape), odd)
    found = read_mask(save(tmp_path / "soft.jpg", big, quality=60), big.shape)
    np.testing.assert_array_equal(found, big > 0)
    photo = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    with pytest.raises(BadImage, match="photograph"):
        read_mask(save(tmp_path / "photo.png", photo), odd.shape)


def classes(*levels: int, dtype: type = np.uint8) -> np.ndarray:
    """(20, 20) of black with a square of each level, apart from each other."""
    mask = np.zeros((20, 20), dtype)
    for i, level in enumerate(levels):
        mask[5 * i + 1 : 5 * i + 4, 5 * i + 1 : 5 * i + 4] = level
    return mask


@pytest.mark.parametrize("levels", [(100, 200), (60, 120, 180), (3, 9, 255), (40, 80, 120)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_few_grey_levels_apart_are_classes_and_none_is_lost(tmp_path: Path, levels: tuple, dtype: type):
    mask = classes(*levels, dtype=dtype)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", mask), mask.shape), mask > 0)
    if dtype == np.uint8:
        grey = np.dstack([mask] * 3)
        np.testing.assert_array_equal(read_mask(save(tmp_path / "c.png", grey), mask.shape), mask > 0)


@pytest.mark.parametrize("levels", [(1, 255), (1, 2, 255)])
def test_a_class_beside_what_may_be_ignore_is_refused(tmp_path: Path, levels: tuple):
    """Cut at half it would be the void that is marked, and the defect that is not."""
    mask = classes(*levels)
    with pytest.raises(BadImage, match="up to 32 or grey levels, got 1 beside 255; if 255 is 'ignore', write 0 there"):
        read_mask(save(tmp_path / "m.png", mask), mask.shape)


def test_soft_edges_are_no_classes_and_are_cut_at_half_of_the_bits_in_use(tmp_path: Path):
    sharp = np.zeros((40, 40), np.uint8)
    sharp[8:21, 9:28] = 252
    soft = sharp.reshape(20, 2, 20, 2).mean((1, 3)).astype(np.uint8)  # as a smaller one is drawn
    assert set(np.unique(soft)) == {0, 63, 126, 252}
    np.testing.assert_array_equal(read_mask(save(tmp_path / "s.png", soft), soft.shape), soft == 252)
    deep = classes(254, 255, dtype=np.uint16)  # 8 bits in a file of 16
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", deep), deep.shape), deep > 0)
    stray = classes(1, 254, 255)  # a JPEG saved anew
    np.testing.assert_array_equal(read_mask(save(tmp_path / "r.png", stray), stray.shape), stray > 1)
    lossy = np.kron(classes(100, 200), np.ones((8, 8), np.uint8))  # whole blocks of a JPEG: no level strays
    found = read_mask(save(tmp_path / "l.jpg", lossy), lossy.shape)
    np.testing.assert_array_equal(found, lossy == 200)


def test_a_grey_photograph_is_no_mask_and_a_blurred_mask_is_one(tmp_path: Path):
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8), (0, 0), 2)
    for name, array in (("p.png", photo), ("p.jpg", photo), ("t.png", np.dstack([photo, photo, photo + 1]))):
        with pytest.raises(BadImage, match=r"a grey mask must be black and white but for its edges, got .* photograph"):
            read_mask(save(tmp_path / name, array), photo.shape)
    blurred = cv2.GaussianBlur(np.kron(SPOT, np.ones((10, 10), np.uint8)), (0, 0), 4)
    assert len(np.unique(blurred)) > 100
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", blurred), blurred.shape), blurred >= 128)


# ---------------------------------------------------------------- folder


def listing(root: Path, rows: list[dict]) -> Path:
    for name in ("a", "b", "c"):
        save(root / f"{name}.png", GREY + ord(name) - 97)
    save(root / "m.png", SPOT)
    pd.DataFrame(rows).to_csv(root / "index.csv", index=False)
    return root


GOOD = [
    {"image": "a.png", "mask": "", "kind": "good", "group": 1},
    {"image": "b.png", "mask": "m.png", "kind": "hole", "group": 2},
]


def test_a_listing_is_read_by_folder_or_by_file(tmp_path: Path):
    root = listing(tmp_path, GOOD)
    for path in (root, root / "index.csv"):
        records, quarantine = SOURCES["folder"](path, modality="image")
        assert not quarantine
        assert records.meta[["id", "kind", "group", "given"]].values.tolist() == [
            ["a.png", "normal", "group-1", ""],
            ["b.png", "hole", "group-2", ""],
        ]
        np.testing.assert_array_equal(records.mask[1], SPOT > 0)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"image": "../a.png"}, "relative and inside"),
        ({"image": "/etc/passwd"}, "relative and inside"),
        ({"image": "z.png"}, "found no 'z.png'"),
        ({"image": ""}, "must name an image"),
        ({"image": "a.png"}, "got 2 rows"),
        ({"image": "c.png", "mask": "../m.png", "kind": "hole"}, "relative and inside"),
        ({"image": "c.png", "kind": "hole"}, "must have a mask"),
        ({"image": "c.png", "mask": "m.png"}, "must have no mask"),
        ({"image": "x.pkl"}, "pickled code"),
        ({"image": "x.npy"}, "pickled code"),
        ({"image": "c.png", "side": "dev"}, "train, test or empty, got 'dev'"),
    ],
)
def test_bad_rows_of_a_listing_are_left_out(tmp_path: Path, row: dict, reason: str):
    root = listing(
        tmp_path,
        [
            *({"side": "", **good} for good in GOOD),
            {"mask": "", "kind": "good", "group": "", "side": "", **row},
        ],
    )
    for name in ("x.pkl", "x.npy"):
        (root / name).write_bytes(pickle.dumps(np.array([object()])))
    _, quarantine = SOURCES["folder"](root, modality="image", given="side")
    assert quarantine and all(reason in entry["reason"] for entry in quarantine), quarantine
    with pytest.raises(InputError, match="; "):
        SOURCES["folder"](root, modality="image", given="side", strict=True)


def test_an_image_of_no_known_kind_is_no_normal_one(tmp_path: Path):
    unknown = ["?", "NA", "null", "N/A", "nan"]
    for i, _ in enumerate(unknown):
        save(tmp_path / f"u{i}.png", GREY + i)
    rows = [{"image": f"u{i}.png", "kind": kind} for i, kind in enumerate(unknown)]
    known = [{"image": "c.png", "kind": "", "mask": "NA", "group": "?"}]  # a missing mask and group stay missing
    records, quarantine = SOURCES["folder"](listing(tmp_path, GOOD + rows + known), modality="image")
    assert records.meta[["id", "kind"]].values.tolist() == [["a.png", "normal"], ["b.png", "hole"], ["c.png", "normal"]]
    assert records.meta["group"].tolist() == ["group-1", "group-2", "c.png"]
    assert [row["reason"].split(",")[:2] for row in quarantine] == [
        ["an image must have a kind", f" got '{kind}'; name it"] for kind in unknown]  # fmt: skip
    renamed = [{**row, "class": row["kind"], "kind": "good"} for row in GOOD + rows]
    _, quarantine = SOURCES["folder"](listing(tmp_path, renamed), modality="image", kind="class")
    assert len(quarantine) == 5


def test_an_image_is_not_its_own_mask(tmp_path: Path):
    root = listing(tmp_path, [GOOD[0], {**GOOD[1], "mask": "./b.png"}])
    save(root / "b.png", np.where(SPOT, 200, GREY // 60).astype(np.uint8))  # too few levels to tell it from a mask
    records, quarantine = SOURCES["folder"](root, modality="image")
    assert len(records) == 1 and "a mask must be another file than its image" in quarantine[0]["reason"]


def test_a_linked_file_outside_is_not_read(tmp_path: Path):
    root = listing(tmp_path / "in", [*GOOD, {"image": "l.png", "mask": "", "kind": "good", "group": 3}])
    (root / "l.png").symlink_to(save(tmp_path / "out.png", GREY))
    _, quarantine = SOURCES["folder"](root, modality="image")
    assert ["leads out" in row["reason"] for row in quarantine] == [True]


# ---------------------------------------------------------------- csv rows

ROWS = """id,n,f,c,b,d,k,empty,same,y
r1,1,0.5,red,t,2020-01-02,a,,7,ok
r2,-2,1.25,blue,f,2020-01-03T04:05:06,b,,7,bad
r3,,NA,red,,,a,,7,ok
r4,3.0,1e3,007,T,2021-01-01,b,,7,worse
"""


def table(tmp_path: Path, text: str | bytes = ROWS, name: str = "t.csv", **options):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    if "test_path" in options:  # both lie in the folder that DVC watches
        path, options = tmp_path, {"file": name, **options}
    return SOURCES["csv"](path, modality="row", **{"label": "y", "anomalous": ["bad", "worse"], **options})


def test_rows_are_typed_and_labelled(tmp_path: Path):
    records, quarantine = table(tmp_path, id="id", group="k")
    assert not quarantine
    assert records.meta[["id", "label", "kind", "group", "given"]].values.tolist() == [
        ["r1", 0, "normal", "k-a", ""],
        ["r2", 1, "bad", "k-b", ""],
        ["r3", 0, "normal", "k-a", ""],
        ["r4", 1, "worse", "k-b", ""],
    ]
    assert records.schema == {
        "columns": [
            {"name": "n", "type": "integer", "nullable": True},
            {"name": "f", "type": "numeric", "nullable": True, "decimals": 2},
            {"name": "c", "type": "categorical", "nullable": False, "categories": ["007", "blue", "red"]},
            {"name": "b", "type": "boolean", "nullable": True},
            {"name": "d", "type": "date", "nullable": True},
            {"name": "empty", "type": "numeric", "nullable": True, "empty": True},
            {"name": "same", "type": "integer", "nullable": False, "constant": True},
        ]
    }
    x = records.x
    assert x["n"].tolist() == [1, -2, pd.NA, 3] and x["b"].tolist() == [True, False, pd.NA, True]
    np.testing.assert_array_equal(x["f"], [0.5, 1.25, np.nan, 1000])
    assert x["d"].tolist() == [
        pd.Timestamp("2020-01-02"),
        pd.Timestamp("2020-01-03T04:05:06"),
        pd.NaT,
        pd.Timestamp("2021-01-01"),
    ]
    assert [str(x[name].dtype) for name in x] == [
        "Int64",
        "float64",
        "string",
        "boolean",
        "datetime64[ns]",
        "float64",
        "Int64",
    ]
    np.testing.assert_array_equal(records.mask, np.repeat([[False], [True], [False], [True]], 7, 1))


def test_one_name_is_a_list_of_one_and_other_ends_and_tabs_are_read(tmp_path: Path):
    text = "id,a,y\n7,1,ok\n8,2,bad\n9,3,worse\n"
    expected = table(tmp_path, text, ignore=["id"])[0]
    assert [c["name"] for c in expected.schema["columns"]] == ["a"]
    tabs = text.replace(",", "\t")
    for changed, options in ((text, {}), (text.replace("\n", "\r"), {}), (tabs, {"separator": "tab"}),
                             (tabs, {"separator": "\\t"})):  # fmt: skip
        pd.testing.assert_frame_equal(table(tmp_path, changed, ignore="id", **options)[0].x, expected.x)


@pytest.mark.parametrize("options, said", [
    ({"separator": "||"}, r"separator must be one character or tab, got '\|\|'"),
    ({"group": ["a", {}]}, "option 'group' must be text, got"), ({"id": True}, "option 'id' must be text, got True"),
    ({"ignore": {"a": 1}}, "option 'ignore' must be a list of names, got"),
])  # fmt: skip
def test_an_option_of_another_form_is_told(tmp_path: Path, options: dict, said: str):
    with pytest.raises(SettingsError, match=said):
        table(tmp_path, "a,y\n1,ok\n2,bad\n3,worse\n", **options)


def test_a_folder_without_recordings_is_told(tmp_path: Path):
    (tmp_path / "pumps").mkdir()
    (tmp_path / "pumps" / "a.txt").write_text("t\tv\tlabel\n0\t1\t0\n")
    with pytest.raises(InputError, match=r"the folder must hold \.csv files, found none"):
        SOURCES["csv"](tmp_path / "pumps", modality="series", timestamp="t", label="label")


def test_one_anomalous_value_is_the_kind_anomaly_unless_a_column_says_more(tmp_path: Path):
    text = "x,why,y\n1,,0\n2,leak,1\n3,,1.0\n"
    assert table(tmp_path, text, anomalous=1, ignore=["why"])[0].meta["kind"].tolist() == [
        "normal",
        "anomaly",
        "anomaly",
    ]
    assert table(tmp_path, text, anomalous="1", kind="why")[0].meta["kind"].tolist() == [
        "normal",
        "leak",
        "anomaly",
    ]
    assert [c["name"] for c in table(tmp_path, text, anomalous=True, kind="why")[0].schema["columns"]] == [
        "x"
    ]


def test_text_forms_read_the_same(tmp_path: Path):
    text = "a,b,y\n1,x,0\n2,ä,1\n"
    expected = table(tmp_path, text, anomalous=1)[0].x
    crlf = text.replace("\n", "\r\n")
    for name, data in (
        ("bom.csv", "\ufeff" + text),
        ("crlf.csv", crlf),
        ("semi.csv", text.replace(",", ";")),
        ("tab.csv", text.replace(",", "\t")),
        ("zip.csv.gz", gzip.compress(text.encode(), mtime=0)),
        ("plain.csv", gzip.compress(text.encode(), mtime=0)),
        ("u16.csv", text.encode("utf-16")),
        ("quoted.csv", text.replace("x", '"x"')),
        ("blank.csv", "\n" + text + "\n\n"),
        ("spaced.csv", text.replace(",", " , ")),
    ):
        pd.testing.assert_frame_equal(table(tmp_path, data, name, anomalous=1)[0].x, expected)


def pipes(tmp_path: Path, notes: dict[int, str], n: int = 30, **options):
    """A table of n rows and 3 columns, the last a note: "ok" but for those given, by line."""
    rows = [f"{i},{'bad' if i % 10 == 0 else 'ok'},{notes.get(i, 'ok')}" for i in range(2, n + 2)]
    text = "\n".join(["a,y,note", *rows, ""])
    return table(tmp_path, text, anomalous="bad", ignore=["note"], **options)[0]


@pytest.mark.parametrize(
    "notes",
    [
        {20: '"5 inch pipe'},  # swallows the rest of the file
        {8: '"5 inch pipe', 25: '"5 inch pipe'},  # the rows between
        {8: '"5 inch pipe', 9: '"5 inch pipe'},  # one row
        {8: '"5 inch pipe', 25: 'pipe of 5"'},  # and the quote is closed as it should be
    ],
)
def test_a_stray_quote_is_told_with_its_row(tmp_path: Path, notes: dict):
    row = min(notes)
    told = rf"t\.csv row {row}, column 'note': a quote must be closed in its cell, got '\"5 inch pipe.*; double it"
    with pytest.raises(InputError, match=told) as caught:
        pipes(tmp_path, notes)
    assert "\n" not in str(caught.value)
    rows = "".join(f"{i},1,0,{notes.get(i, 'ok')}\n" for i in range(2, 32))
    with pytest.raises(InputError, match=rf"s\.csv row {row}, column 'note': a quote must be closed"):
        series(tmp_path, "t,v,y,note\n" + rows, values=["v"])


def test_cells_of_several_lines_and_quotes_inside_a_cell_are_read(tmp_path: Path):
    notes = {
        4: '5" pipe',
        5: '"two\nlines"',
        7: '"1, 2, 3\n4, 5, 6\n7, 8, 9"',
        9: '"a ""quoted""\nword" ',
        12: '"5" pipe',
        15: '"\r\n\r\nfar below"',
        17: '"""5 inch pipe"',
    }
    records = pipes(tmp_path, notes)
    assert records.x["a"].tolist() == list(range(2, 32))
    lines = [i + sum(note.count("\n") for at, note in notes.items() if at < i) for i in range(2, 32)]
    assert records.meta["id"].tolist() == [f"t-{line}" for line in lines]


def test_rows_are_named_by_their_line_where_others_are_blank(tmp_path: Path):
    text = '\n\na,note,y\n1,x,ok\n\n2,"x\n\ny",bad\n\n\n3,x,worse\n4,x,\n'
    for changed in (text, text.replace("\n", "\r\n")):
        records, quarantine = table(tmp_path, changed)
        assert records.meta["id"].tolist() == ["t-4", "t-6", "t-11"]
        assert quarantine[0]["item"] == "t.csv row 12"
    with pytest.raises(InputError, match="row 6: a label must be 0 or 1, got '2'"):
        series(tmp_path, "t,v,y\n0,1,0\n\n\n1,1,0\n2,1,2\n")


def test_cells_without_a_value_are_missing_however_they_are_written(tmp_path: Path):
    blanks = ["", "?", "NA", "na", "N/A", "n/a", "<NA>", "nan", "NaN", "NAN", "Nan", "-nan", "NULL", "Null", "null"]
    rows = "".join(f"{0.5 * i},{'bad' if i == 0 else 'ok'}\n" for i in range(30))
    records, _ = table(tmp_path, "a,y\n" + rows + "".join(f"{blank},ok\n" for blank in blanks), anomalous="bad")
    assert records.schema["columns"] == [{"name": "a", "type": "numeric", "nullable": True, "decimals": 1}]
    assert records.x["a"].isna().tolist() == [False] * 30 + [True] * len(blanks)
    records, _ = table(tmp_path, "a,y\nNa,ok\nCl,ok\nK,bad\n", anomalous="bad")
    assert records.schema["columns"][0]["categories"] == ["Cl", "K", "Na"]  # sodium is no missing value
    with pytest.raises(InputError, match="row 3: numbers must be finite, got '１２'"):
        table(tmp_path, "a,y\n0.5,ok\n１２,bad\n1.5,ok\n", anomalous="bad")


@pytest.mark.parametrize(
    "cells, got",
    [
        (["1.234,50", "999,00", "12.000,00"], "1.234,50"),
        (["1,367.10", "999.00", "7.5"], "1,367.10"),
        (["1'367.10", "999.00", "7"], "1'367.10"),
        (["1 367,10", "999,00", "7"], "1 367,10"),
        (["99 500", "604 123", "7"], "99 500"),
        (["1.234.567", "12.345", "999"], "1.234.567"),
        (["12.5%", "3 %", "0"], "12.5%"),
        (["-1,5 %", "2,5 %", "2"], "-1,5 %"),
        (["01.01.24", "31.12.24", "02.03.24"], "01.01.24"),
        (["1/2/24", "12/31/24 11:05 PM", "3/4/24"], "1/2/24"),
        (["31.12.2024", "2024-12-31", "2024-12-30 10:00"], "31.12.2024"),
        (["31-12-2024", "01-01-2024", "12/30/24"], "01-01-2024"),
    ],
)
def test_numbers_and_dates_of_a_country_are_refused_beside_plain_ones(tmp_path: Path, cells: list, got: str):
    rows = "".join(f'"{cell}",{label}\n' for cell, label in zip(cells, ("ok", "bad", "ok")))
    rule = "numbers must be digits and at most a decimal point|dates must be ISO, as 2024-03-01"
    with pytest.raises(InputError, match=f"column 'a': ({rule}), got '{got}'; write them so"):
        table(tmp_path, "a,y\n" + rows, anomalous="bad")


@pytest.mark.parametrize("form", ["${}", "{}.5 mm", "\u2212{}", "({}.25)", "{} km/h", "1,2{:02d}.5 €"])
def test_numbers_with_units_and_brackets_are_refused_where_they_are_many(tmp_path: Path, form: str):
    cells = [form.format(i) for i in range(30)]
    rows = "".join(f'"{cell}",{"ok" if i else "bad"}\n' for i, cell in enumerate(cells))
    with pytest.raises(InputError, match=r"column .a.: numbers must be digits .*; leave out units, brackets"):
        table(tmp_path, "a,y\n" + rows, anomalous="bad")
    few = "".join(f'"{cells[i % 3]}",{"ok" if i else "bad"}\n' for i in range(30))
    assert table(tmp_path, "a,y\n" + few, anomalous="bad")[0].schema["columns"][0]["type"] == "categorical"


@pytest.mark.parametrize("cells", [["-", "3", "4.5"], ["#DIV/0!", "1", "2"], ["2024-03-01", "2024-03-02", "--"]])
def test_signs_of_no_value_among_numbers_and_dates_are_refused(tmp_path: Path, cells: list[str]):
    rows = "".join(f"{cell},{label}\n" for cell, label in zip(cells, ("ok", "bad", "ok")))
    with pytest.raises(InputError, match=r"row \d: the cell must be .* as the others are, got '.*'; mend it or blank"):
        table(tmp_path, "a,y\n" + rows, anomalous="bad")


@pytest.mark.parametrize(
    "cells",
    [
        [f"{i}{'ABCD'[i % 4]}" for i in range(30)],
        [*map(str, range(1, 41)), *(f"{i}a" for i in range(1, 9))],
        [*map(str, range(1, 41)), *(f"{i} a" for i in range(1, 9))],
        [f"{i}th" for i in range(4, 31)],
        [f"{i}s" for i in range(1700, 2020, 10)],
        ["-", "+", "0"],
        ["007", "-", "12"],
        ["1.2.3", "1.2.13", "1.10.20"],
        ["1.2.13", "1.2.14", "1.10.20"],
        ["10.0.0.1", "192.168.100.200", "10.0.0.2"],
        ["192.168.100.200", "192.168.100.201", "192.168.100.202"],
        ["604.123.456", "604.123.457", "701.200.300"],
        ["12 34", "110 00", "12 345"],
        ["007", "1.234", "12"],
        ["5%", "10% off", "0"],
        ["2024-03-01-05", "2024-03-01-06", "2024-03-02-01"],
        ["99.99.24", "10.13.6", "10.15.7"],
        ["01.02.03", "01.02.10", "01.03.01"],
        ["10/12/15", "8/10/12", "12/12/12"],
        ["+49 123 456", "+49 123 457", "+31 200 100"],
        ["31.12.2024", "later", "2024-12-31"],
    ],
)
def test_codes_and_versions_stay_categories(tmp_path: Path, cells: list):
    rows = "".join(f"{cell},{'bad' if i == 1 else 'ok'}\n" for i, cell in enumerate(cells))
    records, _ = table(tmp_path, "a,y\n" + rows, anomalous="bad")
    assert records.schema["columns"][0]["categories"] == sorted(cells)


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("", {}, "empty file"),
        ("a,y\n", {}, "header alone"),
        ("1,2\n3,4\n", {}, "column names, got numbers"),
        ("a,a,y\n1,2,ok\n", {}, "unique, got 'a' 2 times"),
        ("a,,y\n1,2,ok\n", {}, "column 2 has none"),
        ("a,y\n1,ok\n2,bad,3\n", {}, "2 cells, got .*3"),
        ("a,b,y\n1,2,ok\n2,bad\n", {}, "3 cells, got .*2"),
        ("a,y\n1,ok\n2,bad\n", {"separator": ";"}, "set separator to ','"),
        ("a,y\n1,ok\n2,bad\n", {"label": 5}, "must have the column '5'"),
        ("a,y\n1,ok\n2,bad\n", {"label": "Y"}, "column 'Y'; did you mean 'y'|column 'Y'; choose"),
        ("a,y\n1,ok\n2,fine\n", {}, "anomalous value 'bad', got fine, ok"),
        ("a,y\n1,bad\n2,worse\n", {}, "normal values too"),
        ("a,y\n1,ok\n2,bad\n3,worse\n4,Bad\n", {}, "got 'Bad' beside bad, worse; list it under anomalous"),
        ("a,y\ninf,ok\n2,bad\n3,worse\n", {}, "column 'a', t.csv row 2: numbers must be finite, got 'inf'"),
        ("a,y\n1,ok\n1e999,bad\n3,worse\n", {}, "row 3: numbers must be finite, got '1e999'"),
        ('a,y\n"1,5",ok\n"2,5",bad\n"3,5",worse\n', {}, "decimal point"),
        ('a,y\n18,ok\n"2,5",bad\n-3,worse\n', {}, "decimal point, got '2,5'"),
        ("d,y\n31.12.2024,ok\n1.2.2024,bad\n03.04.2024,worse\n", {}, "dates must be ISO, as 2024-03-01, got '03.04"),
        ("d,y\n12/31/2024 9:05,ok\n1/2/2024 23:59,bad\n3/4/2024 0:00:01,worse\n", {}, "dates must be ISO"),
        (
            "d,y\n2020-01-01,ok\n2020-02-30,bad\n2020-01-01,worse\n",
            {},
            "row 3: a date must exist, got '2020-02-30'",
        ),
        (
            "d,y\n2020-01-01T00:00Z,ok\n2020-01-01T00:00,bad\n2020-01-01,worse\n",
            {},
            "row 3: all times must have a zone",
        ),
        ("d,y\n2020-01-01 00:00+02,ok\n2020-01-01 00:00,bad\n2020-01-01,worse\n", {}, "must have a zone or none"),
        ("i,a,y\nq,1,ok\nq,2,bad\nw,3,worse\n", {"id": "i"}, "unique, got 'q' as in t.csv row 2"),
        ("i,a,y\n,1,ok\nq,2,bad\nw,3,worse\n", {"id": "i"}, "row 2: column 'i' must have an id"),
        ("mask,y\n1,ok\n2,bad\n3,worse\n", {}, "got 'mask'; rename"),
        ("y\nok\nbad\nworse\n", {}, "must have a feature"),
        (
            "a,k,y\n1,normal,ok\n2,normal,bad\n3,b,worse\n",
            {"kind": "k"},
            "row 3: the kind of an anomaly must not be 'normal'",
        ),
        (
            "a,y\n" + "".join(f"{i},ok\n" for i in range(40)) + "12x,bad\n1,worse\n",
            {},
            "row 42: the cell must be a number.*'12x'",
        ),
        (
            "a,y\n" + "".join(f"name{i},ok\n" for i in range(60)) + "z,bad\nz,worse\n",
            {},
            "few categories, got 61 in 62",
        ),
        (b"a,y\n1,ok\n\xe9,bad\n", {}, "line 3: text must be UTF-8, got byte 0xe9"),
        ("a,y\n1,o\0k\n", {}, "line 2.*NUL"),
        ("a,y\r1,ok\r2,bad\n", {}, "all lines must end alike, the header ends in a lone carriage return"),
        (b"PK\x03\x04abc", {}, "another archive"),
        (gzip.compress(b"a,y\n1,ok\n" * 500, mtime=0)[:-20], {}, "must be readable"),
        ("a,y\n1,ok\n", {"test_path": "none.csv"}, "test_path must name a file in"),
        ("a,y\n1,ok\n2,bad\n3,worse\n", {"test_path": "t.csv"}, "another file"),
    ],
)
def test_bad_tables_are_refused_on_one_line(tmp_path: Path, text: str | bytes, options: dict, message: str):
    with pytest.raises(InputError, match=message) as caught:
        table(tmp_path, text, **options)
    assert "\n" not in str(caught.value) and (
        "t.csv" in str(caught.value) or "rows" in str(caught.value) or "none" in str(caught.value)
    )


def test_rows_without_a_label_are_left_out(tmp_path: Path):
    records, quarantine = table(tmp_path, "a,y\n1,ok\n2,\n3,bad\n4,worse\n")
    assert records.meta["id"].tolist() == ["t-2", "t-4", "t-5"]
    assert quarantine == [
        {"item": "t.csv row 3", "reason": "a row must have a label, column 'y' is empty; fill it"}
    ]
    with pytest.raises(InputError, match="row 3"):
        table(tmp_path, "a,y\n1,ok\n2,\n3,bad\n4,worse\n", strict=True)


def test_copies_of_a_row_share_a_group(tmp_path: Path):
    records, _ = table(tmp_path, "a,b,y\n1,x,ok\n2,x,ok\n1,x,bad\n3,,worse\n")
    assert records.meta["group"].tolist() == ["t-2", "t-3", "t-2", "t-5"]


def test_a_second_file_is_the_given_test_with_one_schema(tmp_path: Path):
    (tmp_path / "u.csv").write_text("a,c,y\n2,new,ok\n0,x,bad\n")
    records, _ = table(tmp_path, "a,c,y\n1,x,ok\n0,x,bad\n1,x,worse\n", test_path="u.csv")
    assert records.meta["given"].tolist() == ["train"] * 3 + ["test"] * 2
    assert records.meta["id"].tolist() == ["t-2", "t-3", "t-4", "u-2", "u-3"]
    assert records.schema["columns"] == [
        {"name": "a", "type": "integer", "nullable": False},
        {"name": "c", "type": "categorical", "nullable": False, "categories": ["new", "x"]},
    ]
    (tmp_path / "u.csv").write_text("a,c,y\n2,new,strange\n0,x,bad\n")
    with pytest.raises(InputError, match=r"row 2: a label must be one of the first file's.*'strange'"):
        table(tmp_path, "a,c,y\n1,x,ok\n0,x,bad\n1,x,worse\n", test_path="u.csv")
    (tmp_path / "u.csv").write_text("a,y\n2,ok\n")
    with pytest.raises(InputError, match="'c' is in one only"):
        table(tmp_path, "a,c,y\n1,x,ok\n0,x,bad\n1,x,worse\n", test_path="u.csv")


@pytest.mark.parametrize(
    "values, kind",
    [
        (["t", "f"], "boolean"),
        (["f"], "boolean"),
        (["True", "false"], "boolean"),
        (["0", "1"], "boolean"),
        (["0"], "integer"),
        (["0", "1", "2"], "integer"),
        (["41.0", "3."], "integer"),
        (["1.5", "2"], "numeric"),
        (["1e3", "-.5"], "numeric"),
        (["007", "12"], "categorical"),
        (["1" * 19], "categorical"),
        ([*map(str, range(300)), "00"], "integer"),
        ([*map(str, range(300)), "1" + "0" * 20], "numeric"),
        ([*map(str, range(300)), *(f"0{i}" for i in range(7))], "categorical"),
        ([f"{i:05d}" for i in range(9990, 10300)], "categorical"),
        (["1_0"], "categorical"),
        (["2020-01-01"], "date"),
        (["2020-01-01 10:00:00+01:00"], "date"),
        (["2020-01-01 10:00:00+01", "2020-01-01T10:00 -05"], "date"),
        (["2020-1-1"], "categorical"),
        (["a", "1"], "categorical"),
    ],
)
def test_types_of_text(values: list[str], kind: str):
    assert kind_of(values) == kind


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_labels_compare_as_numbers(value: float):
    assert canonical(value) == canonical(str(value)) == canonical(repr(value) + " ")


def test_codes_that_python_reads_as_a_number_are_labels_of_their_own():
    names = ["10", "1_0", "100", "1E2", "12345678901234567", "12345678901234568"]
    assert [canonical(name) for name in names] == names
    assert canonical("+7.") == canonical("07") == "7" and canonical("-0") == "0"


@given(st.text())
def test_names_are_shown_on_one_printable_line(text: str):
    assert show(text).isprintable() and len(show(text)) <= 203


# ---------------------------------------------------------------- which rows are read

MIXED = """a,c,why,y
1,x,,ok
2,x,dos,bad
3,x,,ok
4,y,u2r,bad
1.0,x,r2l,bad
,x,,ok
"""


def mixed(tmp_path: Path, text: str = MIXED, **options):
    return table(tmp_path, text, **{"anomalous": "bad", "kind": "why", "strict": True, **options})


def test_keep_reads_the_rows_of_the_values_listed_and_tells_of_the_others(tmp_path: Path):
    records, quarantine = mixed(tmp_path, keep={"why": ["", "u2r", "r2l"]})
    assert records.meta[["id", "kind"]].values.tolist() == [
        ["t-2", "normal"], ["t-4", "normal"], ["t-5", "u2r"], ["t-6", "r2l"], ["t-7", "normal"]]  # fmt: skip
    reason = "rows of other values in column 'why' are left out by keep: dos 1"
    assert quarantine == [{"item": "t.csv", "reason": reason}]
    records, quarantine = mixed(tmp_path, keep={"a": [1, 3, 4.0], "c": "x"}, kind=None, ignore=["why"])
    assert records.meta["id"].tolist() == ["t-2", "t-4", "t-6"] and len(quarantine) == 2
    assert [c["name"] for c in records.schema["columns"]] == ["a", "c"]  # a column of keep is still a feature
    assert quarantine[0]["reason"].endswith("in column 'a' are left out by keep: empty 1, 2 1")
    assert records.schema["columns"][1]["categories"] == ["x"]  # of the rows read alone


@pytest.mark.parametrize(
    "keep, error, message",
    [
        ({"hwy": ["dos"]}, InputError, "keep must name a column, got 'hwy'; did you mean 'why'"),
        ({"why": ["dos", "probe"]}, InputError, "hold the value 'probe' to keep, got an empty cell, dos, r2l, u2r; "),
        ({"y": "bad"}, InputError, "normal values too"),
        ({"why": ["dos"], "a": [4]}, InputError, "must hold the anomalous value 'bad'"),
        (["why"], SettingsError, "keep must be columns with the values to keep"),
        ({}, SettingsError, "keep must be columns with the values to keep"),
        ({"why": []}, SettingsError, "keep.why must list values"),
        ({"why": {"not": "dos"}}, SettingsError, "keep.why must list values"),
    ],
)
def test_a_bad_keep_is_told_on_one_line(tmp_path: Path, keep: object, error: type, message: str):
    with pytest.raises(error, match=message) as caught:
        mixed(tmp_path, keep=keep)
    assert "\n" not in str(caught.value)


def test_keep_covers_both_files_and_names_the_lines_of_each(tmp_path: Path):
    (tmp_path / "u.csv").write_text("a,c,why,y\n7,x,scan,odd\n8,x,,ok\n9,y,u2r,bad\n9,y,u2r,\n")
    with pytest.raises(InputError, match=r"u.csv row 2: a label must be one of the first file's.*'odd'"):
        mixed(tmp_path, test_path="u.csv")
    options = {"test_path": "u.csv", "keep": {"why": ["", "u2r"]}}
    records, quarantine = mixed(tmp_path, strict=False, **options)
    assert records.meta["id"].tolist() == ["t-2", "t-4", "t-5", "t-7", "u-3", "u-4"]
    assert records.meta["given"].tolist() == ["train"] * 4 + ["test"] * 2
    assert [row["item"] for row in quarantine] == ["t.csv", "u.csv row 5"]
    with pytest.raises(InputError, match=r"u\.csv row 5: a row must have a label"):
        mixed(tmp_path, **options)


def test_rows_that_contradict_each_other_are_left_out_where_asked(tmp_path: Path):
    assert len(mixed(tmp_path)[0]) == 6
    records, quarantine = mixed(tmp_path, conflicts="drop")
    assert records.meta["id"].tolist() == ["t-3", "t-4", "t-5", "t-7"]  # 1 and 1.0 are one content
    assert [(row["item"], row["reason"].split("got ")[1]) for row in quarantine] == [
        ("t.csv", "1 anomalous and 1 normal rows")]  # fmt: skip
    assert mixed(tmp_path)[0].meta["group"].tolist()[::4] == ["t-2", "t-2"]
    x = np.array([[1.0, np.nan], [1, np.nan], [0, 2], [-0.0, 2], [3, 3], [3, 3]])
    np.savez(tmp_path / "r.npz", X=x, y=np.array([0, 1, 0, 1, 0, 0]))
    read = lambda **options: SOURCES["npz"](tmp_path / "r.npz", modality="row", strict=True, **options)  # noqa: E731
    assert len(read()[0]) == 6
    records, quarantine = read(conflicts="drop")
    assert records.meta["id"].tolist() == ["r-4", "r-5"] and records.x.astype(float).values.tolist() == [[3, 3]] * 2
    assert quarantine[0]["reason"].endswith("got 2 anomalous and 2 normal rows")
    with pytest.raises(SettingsError, match="conflicts must be one of keep, drop, got 'dropp'; did you mean 'drop'"):
        read(conflicts="dropp")


def test_a_limit_draws_every_kind_its_share_with_a_fixed_seed(tmp_path: Path):
    y = np.zeros(1000, int)
    y[::4] = 1
    np.savez(tmp_path / "r.npz", X=np.arange(2000.0).reshape(1000, 2), y=y)
    read = lambda **options: SOURCES["npz"](tmp_path / "r.npz", modality="row", strict=True, **options)  # noqa: E731
    whole, few = read()[0], read(limit=400)
    assert len(few[0]) == 400 and few[0].meta["label"].sum() == 100
    assert few[0].meta.equals(read(limit=400)[0].meta) and few[1][0]["reason"] == (
        "rows are left out by limit, got 1000 for 400; drawn with a fixed seed")  # fmt: skip
    at = [int(name.split("-")[1]) for name in few[0].meta["id"]]
    assert at == sorted(at) and at[-1] > 950 and at != list(range(at[0], at[0] + 400))
    assert few[0].x.values.tolist() == whole.x.iloc[at].values.tolist()
    assert len(read(limit=1000)[0]) == 1000 and not read(limit=1000)[1]
    text = "a,why,y\n" + "".join(f"{i},,ok\n" for i in range(900)) + "1,rare,bad\n" * 30 + "2,often,bad\n" * 270
    records, _ = mixed(tmp_path, text, limit=420)
    assert records.meta["kind"].value_counts().to_dict() == {"normal": 300, "often": 90, "rare": 30}  # rare ones stay
    records, _ = mixed(tmp_path, text, limit=31)
    assert records.meta["kind"].value_counts().tolist() == [11, 10, 10]  # too few for all: of each the same
    (tmp_path / "u.csv").write_text(text)
    records, _ = mixed(tmp_path, text, limit=840, test_path="u.csv")
    assert records.meta.groupby(["given", "kind"]).size().to_dict() == {
        (side, kind): n for side in ("test", "train") for kind, n in (("normal", 300), ("often", 90), ("rare", 30))}
    for limit in (1, 0, -5, 2.0, "9", True):
        with pytest.raises(SettingsError, match="source npz: limit must be a whole number of at least 2 rows, got"):
            read(limit=limit)
        with pytest.raises(SettingsError, match="source csv: limit must be a whole number of at least 2 rows, got"):
            mixed(tmp_path, text, limit=limit)


def test_a_table_is_named_inside_its_folder(tmp_path: Path):
    mixed(tmp_path)
    (tmp_path / "u.csv").write_text("a,c,why,y\n9,x,,ok\n")
    read = lambda path=tmp_path, **options: SOURCES["csv"](path, modality="row", label="y", anomalous="bad", **options)  # noqa: E731
    records, _ = read(file="t.csv", test_path="u.csv")
    assert records.meta["id"].tolist()[-2:] == ["t-7", "u-2"] and set(records.meta["source"]) == {"t.csv"}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/l.csv").symlink_to(tmp_path / "t.csv")
    (tmp_path / "p.pkl").write_bytes(pickle.dumps([1]))
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2/t.csv").write_bytes((tmp_path / "t.csv").read_bytes())
    for path, options, message in (
        (tmp_path, {}, "one table, got a folder; name it with file"),
        (tmp_path, {"file": "tt.csv"}, "file must name a table in it, got 'tt.csv'; did you mean 't.csv'"),
        (tmp_path / "in", {"file": "../t.csv"}, r"file must name a table in it, got '\.\./t\.csv'"),
        (tmp_path / "in", {"file": "l.csv"}, "file must name a table in it, got 'l.csv'"),
        (tmp_path, {"file": "in"}, "file must name a table in it, got 'in'"),
        (tmp_path, {"file": "p.pkl"}, "pickled code"),
        (tmp_path / "t.csv", {"file": "t.csv"}, "path must be a folder when file is set"),
        (tmp_path / "t.csv", {"test_path": "u.csv"}, "path must be a folder that holds test_path too"),
        (tmp_path, {"file": "t.csv", "test_path": "v.csv"}, "'?v.csv'?: test_path must name a file in .* found none"),
        (tmp_path / "in2", {"file": "t.csv", "test_path": "../u.csv"}, "test_path must name a file in"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read(path, **options)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- csv series


def series(tmp_path: Path, text: str, **options):
    (tmp_path / "s.csv").write_text(text)
    return SOURCES["csv"](
        tmp_path / "s.csv", modality="series", **{"timestamp": "t", "label": "y", **options}
    )


def test_interleaved_entities_become_one_record_each(tmp_path: Path):
    records, quarantine = series(
        tmp_path, "t,e,v,w,y\n0,a,1,5,0\n0,b,2,6,0\n1,a,3,7,1\n1,b,4,8,0\n2,a,5,9,1\n", entity="e"
    )
    assert not quarantine and records.schema == {"channels": ["v", "w"]}
    assert records.meta[["id", "group", "label", "kind", "segments"]].values.tolist() == [
        ["a", "a", 1, "anomaly", '[[1, 3, "anomaly"]]'],
        ["b", "b", 0, "normal", "[]"],
    ]
    np.testing.assert_array_equal(records.x[0], [[1, 5], [3, 7], [5, 9]])
    np.testing.assert_array_equal(records.mask[0], [[False] * 2, [True] * 2, [True] * 2])
    assert records.time[1].tolist() == [0, 1]


def test_a_folder_holds_an_entity_a_file_and_labels_name_spans(tmp_path: Path):
    for name, day in (("a", 1), ("sub/b", 2)):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"2020-01-0{day} 00:0{i}:00;{i}" for i in range(6)]
        (tmp_path / f"d/{name}.csv").write_text("time;v\n" + "\n".join(lines))
    (tmp_path / "d/labels.csv").write_text(
        "entity,start,end,kind\na,2020-01-01 00:01,2020-01-01 00:02,stuck\na,2020-01-01 00:05,2020-01-01 09:00,\n"
        "sub/b,2019-01-01,2019-01-02,x\n"
    )
    records, quarantine = SOURCES["csv"](
        tmp_path / "d", modality="series", timestamp="time", labels="labels.csv"
    )
    assert records.meta[["id", "kind"]].values.tolist() == [["a", "mixed"], ["sub/b", "normal"]]
    assert json.loads(records.meta["segments"][0]) == [[1, 3, "stuck"], [5, 6, "anomaly"]]
    assert records.time[0][1] - records.time[0][0] == 60 * 10**9
    assert [row["item"] for row in quarantine] == ["labels.csv row 4"] and "must meet" in quarantine[0][
        "reason"
    ]
    for row, message in (
        ("c,2020-01-01,2020-01-02,", "must be in the data, got 'c'"),
        ("a,2020-01-02,2020-01-01,", "not be after"),
        ("a,2020-01-01T00:00Z,2020-01-02T00:00Z,", "both have time zones or neither"),
    ):
        (tmp_path / "d/labels.csv").write_text(f"entity,start,end,kind\n{row}\n")
        with pytest.raises(InputError, match=message):
            SOURCES["csv"](tmp_path / "d", modality="series", timestamp="time", labels="labels.csv")
    for path, name, message in (
        (tmp_path / "d/a.csv", "labels.csv", "path must be a folder that holds labels too"),
        (tmp_path / "d/sub", "../labels.csv", "labels must name a file in .*, found none"),
        (tmp_path / "d", "label.csv", "labels must name a file in .*, found none"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            SOURCES["csv"](path, modality="series", timestamp="time", labels=name)
        assert "\n" not in str(caught.value)


def folder(tmp_path: Path, files: dict[str, str], **options):
    """The records and the quarantine of a folder of recordings."""
    for name, text in files.items():
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SOURCES["csv"](tmp_path / "d", modality="series", **{"timestamp": "t", **options})


def test_a_span_of_a_labels_file_is_no_normal_one(tmp_path: Path):
    files = {"a.csv": "t,v\n0,1\n1,2\n2,3\n", "l.csv": "start,end,kind\n0,0,leak\n1,2,normal\n"}
    with pytest.raises(InputError, match=r"l\.csv row 3: the kind of an anomaly must not be 'normal'; mend"):
        folder(tmp_path, files, labels="l.csv")


def test_labels_name_recordings_by_the_column_that_does_in_the_data(tmp_path: Path):
    data = "t,host,v\n" + "".join(f"{i},{host},{i}\n" for host in "ab" for i in range(4))
    for column in ("host", "entity"):
        files = {"m.csv": data, "l.csv": f"start,end,{column}\n1,2,b\n"}
        records, quarantine = folder(tmp_path, files, labels="l.csv", entity="host")
        assert records.meta[["id", "segments"]].values.tolist() == [["a", "[]"], ["b", '[[1, 3, "anomaly"]]']]
        assert not quarantine
    both = {"m.csv": data, "l.csv": "start,end,host,entity\n1,2,web server,b\n"}  # of another system
    assert folder(tmp_path, both, labels="l.csv", entity="host")[0].meta["kind"].tolist() == ["normal", "anomaly"]
    with pytest.raises(InputError, match="and entity or host where there are several, got start, end, node"):
        folder(tmp_path, {"m.csv": data, "l.csv": "start,end,node\n1,2,b\n"}, labels="l.csv", entity="host")


def zoned(zone: str) -> str:
    return "t,v\n" + "".join(f"2024-03-01 0{i}:00:00{zone},{i}\n" for i in range(6))


def test_labels_and_data_have_zones_both_however_they_are_written_and_in_every_file(tmp_path: Path):
    span = "entity,start,end\na,2024-03-01 02:00,2024-03-01 03:00\n"
    for zone in ("+02", "+0200", "+02:00", "Z", " +02"):
        with pytest.raises(InputError, match=r"labels and data of 'a' must both have time zones or neither, got '2024"):
            folder(tmp_path, {"a.csv": zoned(zone), "b.csv": zoned(""), "l.csv": span}, labels="l.csv")
    for own, at, high in (("+02", "+02", 4), ("Z", "+00", 4), ("-05", "-05:00", 4), ("", "", 4), ("+02", "+01", 5)):
        told = span.replace(":00,", f":00{at},").replace(":00\n", f":00{at}\n")
        other = zoned("" if own else "Z")  # a file without labels may differ
        records, quarantine = folder(tmp_path, {"a.csv": zoned(own), "b.csv": other, "l.csv": told}, labels="l.csv")
        assert json.loads(records.meta["segments"][0]) == [[high - 2, high, "anomaly"]] and not quarantine
    mixed = zoned("+02") + "2024-03-01 07:00:00,7\n"
    with pytest.raises(InputError, match="row 8: all times must have a zone or none"):
        folder(tmp_path, {"a.csv": mixed}, labels="l.csv")


@pytest.mark.parametrize("options, got", [
    ({"values": ["v", "y"]}, "y"), ({"values": ["t", "v"]}, "t"), ({"values": ["v", "e"], "entity": "e"}, "e"),
    ({"values": ["v", "e"], "kind": "e"}, "e"), ({"values": ["v", "e", "v"]}, "v"),
])  # fmt: skip
def test_a_channel_is_named_once_and_is_no_label(tmp_path: Path, options: dict, got: str):
    text = "t,v,e,y\n0,1,0,0\n1,2,0,1\n"
    with pytest.raises(SettingsError, match=f"values must name every channel once and no column .*, got '{got}'; take"):
        series(tmp_path, text, **options)
    assert series(tmp_path, text, values=["e"])[0].schema == {"channels": ["e"]}


def test_files_of_a_folder_have_the_same_channels_or_values_chooses(tmp_path: Path):
    narrow, wide = "t,a,b,y\n0,1,2,0\n1,1,2,1\n", "t,c,b,a,y\n0,3,2,1,0\n1,3,2,1,1\n"
    for files in ({"p1.csv": narrow, "p2.csv": wide}, {"p1.csv": wide, "p2.csv": narrow}):
        with pytest.raises(InputError, match=r"p2\.csv: .* the (same columns|column 'c')"):
            folder(tmp_path, files, label="y")
    records, quarantine = folder(tmp_path, files, label="y", values=["b", "a"])
    assert [x.tolist() for x in records.x] == [[[2, 1]] * 2] * 2 and not quarantine


def test_tables_of_other_kinds_in_a_folder_are_told(tmp_path: Path):
    text = "t,a,y\n0,1,0\n1,1,1\n"
    names = ["p2.txt", "p3.TSV", "p4.xlsx", "p5.parquet", "sub/p6.json", "plot.png", ".p7.txt"]
    records, quarantine = folder(tmp_path, {"p1.csv": text} | dict.fromkeys(names, text), label="y", strict=True)
    assert records.meta["id"].tolist() == ["p1"]
    told = ["d/p2.txt", "d/p3.TSV", "d/p4.xlsx", "d/p5.parquet", "sub/p6.json"]
    assert sorted(row["item"] for row in quarantine) == told
    assert all(row["reason"].startswith("a recording must be a .csv file to be read, got '.") for row in quarantine)
    labels = {"p1.csv": "t,a\n0,1\n1,1\n", "l.txt": "start,end\n1,1\n"}
    assert "d/l.txt" not in [row["item"] for row in folder(tmp_path, labels, labels="l.txt")[1]]


@pytest.mark.parametrize("form", ["%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_dates_without_marks_are_no_numbers_of_steps(tmp_path: Path, form: str):
    at = pd.date_range("2024-02-27", periods=40, freq="D" if form == "%Y%m%d" else "h").strftime(form)
    told = f"row 2: a timestamp must be an ISO date or a number of steps, got '{at[0]}'.*write them ISO"
    for missing in ("error", "impute"):
        with pytest.raises(InputError, match=told):
            series(tmp_path, "t,v,y\n" + "".join(f"{t},1,0\n" for t in at), missing=missing)


@pytest.mark.parametrize("start, step", [(1709251200, 60), (1709251200, 3600), (1900000000, 60), (20240125, 1),
                                         (17090101, 1), (170925120000, 60), (10, 1)])  # fmt: skip
def test_seconds_and_numbers_of_steps_stay_numbers(tmp_path: Path, start: int, step: int):
    records, _ = series(tmp_path, "t,v,y\n" + "".join(f"{start + step * i},1,0\n" for i in range(20)))
    assert records.time[0].tolist() == [start + step * i for i in range(20)]


def test_irregular_steps_and_recordings_of_other_rates_are_listed(tmp_path: Path):
    even = "t,v\n" + "".join(f"{10 * i},1\n" for i in range(9))
    quick = "t,v\n" + "".join(f"{t},1\n" for t in (0, 10, 20, 22, 30, 40, 50, 60, 70))
    slow = "t,v\n" + "".join(f"{60 * i},1\n" for i in range(9))
    labels = {"l.csv": "start,end,entity\n20,30,a\n"}
    assert not folder(tmp_path, {"a.csv": even, **labels}, labels="l.csv")[1]
    records, quarantine = folder(tmp_path, {"b.csv": quick, "c.csv": slow}, labels="l.csv")
    assert len(records) == 3 and [row["item"] for row in quarantine] == ["entity b", "entity c"]
    assert "1 steps are shorter than 10, the median, down to 2: windows count rows" in quarantine[0]["reason"]
    assert "steps of 60, of 10 in entity a" in quarantine[1]["reason"]


def test_numbers_of_nineteen_digits_are_nanoseconds(tmp_path: Path):
    ns = [1_700_000_000_000_000_000 + 10**9 * i for i in range(20)]
    records, _ = series(tmp_path, "t,v,y\n" + "".join(f"{t},1,0\n" for t in ns))
    assert records.time[0].tolist() == ns
    for zone in ("", "Z"):
        spans = f"start,end\n2023-11-14T22:13:21{zone},2023-11-14T22:13:22{zone}\n"
        files = {"m.csv": "t,v\n" + "".join(f"{t},1\n" for t in ns), "l.csv": spans}
        assert json.loads(folder(tmp_path, files, labels="l.csv")[0].meta["segments"][0]) == [[1, 3, "anomaly"]]
    iso = [pd.Timestamp(t).isoformat() for t in ns]
    assert series(tmp_path, "t,v,y\n" + "".join(f"{t},1,0\n" for t in iso))[0].time[0].tolist() == ns


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("t,v,y\n0,1,0\n2,1,0\n1,1,0\n", {}, "row 4: the timestamps of entity 's' must rise"),
        ("t,v,y\n0,1,0\n1,1,0\n1,2,0\n", {}, "row 4: the timestamps of entity 's' must be unique"),
        (
            "t,v,y\n0,1,0\n1,1,0\n2,1,0\n9,1,0\n",
            {},
            r"row 5: .* must be 1 apart \(the median\), got a gap of 7",
        ),
        (
            "t,v,y\n2024-03-01 00:00,1,0\n2024-03-01 00:01,1,0\n2024-03-01 00:02,1,0\n2024-03-01 00:06,1,0\n",
            {},
            r"row 5: .* must be 0:01:00 apart \(the median\), got a gap of 0:04:00",
        ),
        ("t,v,y\n0,1,0\n1,,0\n", {}, "row 3, column 'v': a channel must have every value"),
        ("t,v,y\n0,1,0\n1,inf,0\n", {}, "row 3: a channel must hold finite numbers, got 'inf'"),
        ("t,v,y\n0,1,0\n1,x,0\n", {}, "got 'x'"),
        ("t,v,y\n0,,0\n1,,0\n", {}, "empty cells alone"),
        ("t,v,y\n0,1,0\n1,1,2\n", {}, "row 3: a label must be 0 or 1, got '2'"),
        ("t,v,y\n0,1,0\n,1,0\n", {}, "row 3: a row must have a time"),
        ("t,v,y\n0.5,1,0\n1.5,1,0\n", {}, "a date must be ISO, as .*, or a time a whole number, got '0.5'"),
        ("t,v,y\n01/02/2020,1,0\n", {}, "a date must be ISO"),
        ("t,v,y\n2020-02-30,1,0\n", {}, "a date must exist, got '2020-02-30'"),
        ("t,v,y\n2020-01-01T00:00Z,1,0\n2020-01-01T01:00,1,0\n", {}, "zone or none"),
        ("t,v,y\n0,1,0\n", {"values": ["w"]}, "column 'w'"),
        ("t,y\n0,0\n", {}, "0 channels"),
        ("t,v,e,y\n0,1,,0\n", {"entity": "e"}, "must name an entity"),
        ("t,v,y\n0,1,0\n", {"label": None, "labels": "l.csv"}, "path must be a folder that holds labels"),
        (
            "t,v,y\n" + "".join(f"{i},1,0\n" for i in range(5)) + "900,1,0\n",
            {"missing": "impute"},
            "at most 10 times the rows",
        ),
    ],
)
def test_bad_recordings_are_refused_on_one_line(tmp_path: Path, text: str, options: dict, message: str):
    with pytest.raises(InputError, match=message) as caught:
        series(tmp_path, text, **options)
    assert "\n" not in str(caught.value)


def test_policies_are_checked_and_one_label_is_needed(tmp_path: Path):
    with pytest.raises(SettingsError, match="duplicates must be one of error, mean, last"):
        series(tmp_path, "t,v,y\n0,1,0\n", duplicates="first")
    for options in ({"label": None}, {"labels": "l.csv"}):
        with pytest.raises(SettingsError, match="one of the options label and labels"):
            series(tmp_path, "t,v,y\n0,1,0\n", **options)


@pytest.mark.parametrize("policy, values", [("mean", [[1], [15], [30]]), ("last", [[1], [10], [30]])])
def test_duplicates_and_disorder_follow_the_policy_and_are_told(tmp_path: Path, policy: str, values: list):
    records, quarantine = series(
        tmp_path, "t,v,y\n0,1,0\n2,30,0\n1,20,1\n1,10,0\n", duplicates=policy, strict=True
    )
    assert records.time[0].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(records.x[0], values)
    assert records.mask[0][:, 0].tolist() == [False, True, False]
    assert [row["reason"] for row in quarantine] == [
        "timestamps were unsorted, 1 steps back; sorted",
        f"1 rows repeat a timestamp; {policy} kept",
    ]


def test_a_name_written_as_a_number_with_zeros_behind_is_the_same_name(tmp_path: Path):
    """As pandas writes 1 where a cell of the column is missing; 007 and 1.50 are names of their own."""
    (tmp_path / "u.csv").write_text("a,g,k,y\n9,1.0,2.0,1\n8,007,,0\n7,1.50,,0\n")
    records, _ = table(tmp_path, "a,g,k,y\n1,1,2,1\n0,7,,0\n3,1.5,,0\n", test_path="u.csv", anomalous="1",
                       group="g", kind="k")  # fmt: skip
    assert records.meta["group"].tolist() == ["g-1", "g-7", "g-1.5", "g-1", "g-007", "g-1.50"]
    assert sorted(set(records.meta["kind"])) == ["2", "normal"]
    (tmp_path / "u.csv").write_text("a,y\n9,1.0\n8,0.0\n7,2.0\n")
    records, _ = table(tmp_path, "a,y\n1,1\n0,0\n3,2\n", test_path="u.csv", anomalous=[1, 2])
    assert records.meta["kind"].tolist() == ["1", "normal", "2"] * 2
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.csv").write_text("t,v,e\n0,1,1\n1,2,1\n")
    (tmp_path / "s" / "b.csv").write_text("t,v,e\n2,1,1.0\n3,2,1.0\n")
    (tmp_path / "s" / "l.csv").write_text("start,end,entity\n0,0,1.0\n")
    given = {"modality": "series", "timestamp": "t", "labels": "l.csv", "entity": "e"}
    with pytest.raises(InputError, match="an entity must lie in one file, '1' lies in several"):
        SOURCES["csv"](tmp_path / "s", **given)
    (tmp_path / "s" / "b.csv").unlink()
    assert SOURCES["csv"](tmp_path / "s", **given)[0].mask[0][:, 0].tolist() == [True, False]


def test_recordings_have_dates_or_steps_and_not_both(tmp_path: Path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.csv").write_text("t,v,y\n0,1,0\n1,2,1\n")
    (tmp_path / "s" / "b.csv").write_text("t,v,y\n2024-01-01T00:00,1,0\n2024-01-01T01:00,2,0\n")
    with pytest.raises(InputError, match=r"b.csv row 2: timestamps of all recordings must be dates or all numbers"):
        SOURCES["csv"](tmp_path / "s", modality="series", timestamp="t", label="y")


def test_gaps_and_missing_values_are_imputed_on_a_line_and_told(tmp_path: Path):
    text = "t,v,w,y\n0,0,,0\n1,1,5,0\n2,,6,1\n5,5,9,1\n6,6,7,0\n"
    records, quarantine = series(tmp_path, text, missing="impute")
    assert records.time[0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(records.x[0], [[0, 5], [1, 5], [2, 6], [3, 7], [4, 8], [5, 9], [6, 7]])
    assert records.mask[0][:, 0].tolist() == [False, False, True, True, True, True, False]
    assert [row["reason"] for row in quarantine] == [
        "1 gaps, the longest 3; 2 steps imputed",
        "1 missing values, the longest run 1; imputed",
        "1 missing values, the longest run 1; imputed",
    ]


# ---------------------------------------------------------------- npz


def machine(folder: Path, name: str = "m", spans: list | None = None, **arrays) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    label = np.zeros(20, np.uint8)
    label[5:8] = 1
    np.savez(
        folder / f"{name}.npz",
        **{
            "train": rng.random((30, 3), np.float32),
            "test": rng.random((20, 3)),
            "test_label": label,
            **arrays,
        },
    )
    if spans is not None:
        (folder / f"{name}_interpretation.json").write_text(json.dumps(spans))
    return folder


def test_a_header_that_claims_more_than_memory_holds_is_refused(tmp_path: Path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**14, 2)})
    np.savez(tmp_path / "b.npz", y=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "b.npz", "a") as archive:
        archive.writestr("X.npy", head.getvalue() + b"\0" * 64)
    with pytest.raises(InputError, match=r"b\.npz, array 'X': arrays must fit into memory, got one whose header"):
        SOURCES["npz"](tmp_path / "b.npz", modality="row")


def test_npz_series_have_masks_by_channel(tmp_path: Path):
    folder = machine(tmp_path / "d", spans=[{"start": 5, "end": 8, "dims": [1, 3]}])
    records, quarantine = SOURCES["npz"](folder, modality="series")
    assert not quarantine
    assert records.meta[["id", "group", "given", "start", "label", "segments"]].values.tolist() == [
        ["m-train", "m", "train", 0, 0, "[]"],
        ["m-test", "m", "test", 30, 1, '[[5, 8, "anomaly"]]'],
    ]
    expected = np.zeros((20, 3), bool)
    expected[5:8, [0, 2]] = True
    np.testing.assert_array_equal(records.mask[1], expected)
    assert records.x[0].dtype == np.float64 and records.time[1].tolist() == list(range(30, 50))
    whole, _ = SOURCES["npz"](machine(tmp_path / "e") / "m.npz", modality="series")
    np.testing.assert_array_equal(whole.mask[1], np.repeat(expected[:, :1], 3, 1))


def test_the_end_of_segments_is_inclusive_or_exclusive_and_the_wrong_one_named(tmp_path: Path):
    folder = machine(tmp_path / "d", spans=[{"start": 5, "end": 7, "dims": [2]}])
    with pytest.raises(InputError, match="set end to inclusive"):
        SOURCES["npz"](folder, modality="series")
    records, _ = SOURCES["npz"](folder, modality="series", end="inclusive")
    assert records.mask[1][:, 1].nonzero()[0].tolist() == [5, 6, 7] and not records.mask[1][:, 0].any()
    machine(tmp_path / "d", spans=[{"start": 5, "end": 6, "dims": [2]}])
    records, quarantine = SOURCES["npz"](folder, modality="series", strict=True)
    assert records.mask[1][5:8].tolist() == [[False, True, False], [True] * 3, [True] * 3]
    assert "2 labelled steps lie in no segment" in quarantine[0]["reason"]


@pytest.mark.parametrize(
    "arrays, spans, message",
    [
        ({"test": np.array([object()])}, None, "plain numbers or text"),
        ({"test": np.full((20, 3), np.nan)}, None, "must be finite, got nan"),
        ({"test": np.array([["a"]])}, None, "must hold numbers along 2 axes"),
        ({"test": np.zeros(20)}, None, "along 2 axes"),
        ({"test_label": np.zeros(19)}, None, "one label a step"),
        ({"test_label": np.full(20, 2)}, None, "row 0: a label must be 0 or 1"),
        ({}, [{"start": 5, "end": 8, "dims": [4]}], "channels 1..3"),
        ({}, [{"start": 5, "end": 8, "dims": [0]}], "channels 1..3"),
        ({}, [{"start": 18, "end": 30, "dims": [1]}], "0..20"),
        ({}, [{"start": 3, "end": 8, "dims": [1]}], "step 3 is in a segment and labelled"),
        ({}, [{"start": 3}], "must list"),
        ({"channels": np.array(["a", "a", "b"])}, None, "names must be unique"),
    ],
)
def test_bad_arrays_are_refused_on_one_line(tmp_path: Path, arrays: dict, spans: list | None, message: str):
    with pytest.raises(InputError, match=message) as caught:
        SOURCES["npz"](machine(tmp_path / "d", spans=spans, **arrays), modality="series")
    assert "\n" not in str(caught.value) and "m" in str(caught.value)


def test_entities_are_chosen_and_must_agree(tmp_path: Path):
    folder = machine(machine(tmp_path / "d"), "n")
    assert set(SOURCES["npz"](folder, modality="series", entities=["n"])[0].meta["group"]) == {"n"}
    with pytest.raises(InputError, match="'nn' has none; did you mean 'n'"):
        SOURCES["npz"](folder, modality="series", entities=["nn"])
    machine(folder, "w", test=np.zeros((20, 4)), train=np.zeros((9, 4)))
    with pytest.raises(InputError, match="same channels, got 4 and 3"):
        SOURCES["npz"](folder, modality="series")
    with pytest.raises(SettingsError, match="end must be one of"):
        SOURCES["npz"](folder, modality="series", end="both")


def test_a_long_train_is_read_from_its_end(tmp_path: Path):
    folder = machine(tmp_path / "d")
    whole, _ = SOURCES["npz"](folder, modality="series")
    records, quarantine = SOURCES["npz"](folder, modality="series", train_steps=12, strict=True)
    np.testing.assert_array_equal(records.x[0], whole.x[0][-12:])
    np.testing.assert_array_equal(records.x[1], whole.x[1])
    assert records.time[0].tolist() == list(range(18, 30)) and records.time[1].tolist() == list(range(30, 50))
    assert records.meta["start"].tolist() == [18, 30] and len(records.mask[0]) == 12
    reason = "train's first steps are left out by train_steps, got 30 for 12"
    assert quarantine == [{"item": "m.npz", "reason": reason}]
    assert not SOURCES["npz"](folder, modality="series", train_steps=30)[1]
    for bad in (0, -1, True, 2.0, "9"):
        with pytest.raises(SettingsError, match="train_steps must be a whole number of at least 1 step, got"):
            SOURCES["npz"](folder, modality="series", train_steps=bad)


def test_torn_missing_and_pickled_files_are_refused(tmp_path: Path):
    folder = machine(tmp_path / "d")
    data = (folder / "m.npz").read_bytes()
    (folder / "m.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"whole \.npz"):
        SOURCES["npz"](folder, modality="series")
    with zipfile.ZipFile(folder / "m.npz", "w") as archive:
        archive.writestr("test.npy", pickle.dumps([1]))
    with pytest.raises(InputError, match="plain numbers"):
        SOURCES["npz"](folder, modality="series")
    for suffix in (".pkl", ".pt", ".ckpt", ".npy"):
        np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
        (tmp_path / "x.npy").rename(tmp_path / f"x{suffix}")
        for reader, modality in (("npz", "row"), ("csv", "series"), ("folder", "image")):
            options = {"timestamp": "t"} if reader == "csv" else {}
            with pytest.raises(InputError, match="pickled code"):
                SOURCES[reader](tmp_path / f"x{suffix}", modality=modality, **options)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("data.sources.npz.MOST_BYTES", 10_000)
    monkeypatch.setattr("data.sources.text.MOST_BYTES", 10_000)
    np.savez_compressed(tmp_path / "b.npz", X=np.zeros((100, 100)), y=np.zeros(100))
    with pytest.raises(InputError, match="unpack to at most"):
        SOURCES["npz"](tmp_path / "b.npz", modality="row")
    with pytest.raises(InputError, match="unpack to at most"):
        table(tmp_path, gzip.compress(b"a,y\n" + b"1,ok\n" * 10_000))


def test_npz_rows_are_typed_by_their_values(tmp_path: Path):
    x = np.array([[0.5, 1, 0, np.nan], [1.25, 7, 1, 3], [0.5, 1, 0, np.nan]])
    np.savez(tmp_path / "r.npz", X=x, y=np.array([0, 1, 0]), columns=np.array(["a", "b", "c", "d"]))
    records, _ = SOURCES["npz"](tmp_path / "r.npz", modality="row")
    assert [(c["name"], c["type"], c["nullable"]) for c in records.schema["columns"]] == [
        ("a", "numeric", False),
        ("b", "integer", False),
        ("c", "boolean", False),
        ("d", "integer", True),
    ]
    assert records.meta["group"].tolist() == ["r-0", "r-1", "r-0"] and records.meta["label"].tolist() == [
        0,
        1,
        0,
    ]
    np.testing.assert_array_equal(records.x.astype("float64").to_numpy(), x)
    x[1, 0] = np.inf
    np.savez(tmp_path / "r.npz", X=x, y=np.array([0, 1, 0]))
    with pytest.raises(InputError, match=r"r\.npz row 1, column 'x1'.*got inf"):
        SOURCES["npz"](tmp_path / "r.npz", modality="row")


# ---------------------------------------------------------------- real data


def real(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    return SHARED / name


def test_thyroid_reads_as_its_description_says():
    path = real("thyroid_sick/sick.csv.gz")
    records, quarantine = SOURCES["csv"](
        path, modality="row", label="Class", anomalous="sick", ignore=["label"]
    )
    assert len(records) == 3772 and records.meta["label"].sum() == 231 and not quarantine
    columns = {c["name"]: c for c in records.schema["columns"]}
    assert len(columns) == 29 and columns["TBG"]["empty"] and columns["pregnant"]["type"] == "boolean"
    assert records.x["age"].max() == 455 and 0.19 < records.x["T3"].isna().mean() < 0.21


def test_server_machines_read_as_their_description_says():
    records, quarantine = SOURCES["npz"](
        real("smd"), modality="series", entities=["machine-1-6", "machine-3-3"]
    )
    assert [len(x) for x in records.x] == [23688, 23689, 23703, 23703] and not quarantine
    assert [len(json.loads(s)) for s in records.meta["segments"]] == [0, 30, 0, 26]
    np.testing.assert_allclose([m.any(1).mean() for m in records.mask[1::2]], [0.157, 0.027], atol=5e-4)
    assert records.mask[1].sum() < records.mask[1].any(1).sum() * 38  # channels are told apart


def test_magnetic_tiles_read_as_their_description_says():
    records, quarantine = mvtec(real("magnetic_tile"), group="lookalike_group", kinds=["fray", "uneven"])
    assert len(records) == 757 + 195 + 32 + 103 - 4
    assert [row["reason"].split(",")[0] for row in quarantine] == [
        "the mask of a defect must not be empty"
    ] * 4
    index = pd.read_csv(SHARED / "magnetic_tile/index.csv").set_index("image").loc[records.meta["id"]]
    assert [int(mask.sum()) for mask in records.mask] == index["mask_pixels"].fillna(0).astype(int).tolist()
    assert [x.shape for x in records.x] == list(zip(index["height"], index["width"]))


def test_break_ins_read_as_their_description_says():
    records, quarantine = SOURCES["csv"](
        real("nsl_kdd"), modality="row", file="train_20percent.csv.gz", test_path="test.csv.gz", label="attack_family",
        anomalous=["u2r", "r2l"], keep={"attack_family": ["normal", "u2r", "r2l"]},
        ignore=["attack", "difficulty", "label"], conflicts="drop",
    )  # fmt: skip
    counts = records.meta.groupby(["given", "kind"]).size().to_dict()
    assert counts == {("train", "normal"): 13449 - 5, ("train", "r2l"): 209, ("train", "u2r"): 11,
                      ("test", "normal"): 9711 - 54, ("test", "r2l"): 2752 - 58, ("test", "u2r"): 200}  # fmt: skip
    assert len(records.schema["columns"]) == 41 and len(quarantine) == 2
    both = records.meta.groupby("group")["given"].nunique()
    assert (both > 1).sum() == 16  # contents that the source gives on both sides: the split puts them into the test


def test_application_servers_read_as_their_description_says():
    records, quarantine = SOURCES["npz"](real("asd"), modality="series", end="inclusive", strict=True)
    assert not quarantine and records.meta["group"].tolist() == [f"omi-{i // 2 + 1}" for i in range(8)]
    assert [len(json.loads(s)) for s in records.meta["segments"]] == [0, 7, 0, 4, 0, 6, 0, 5]
    np.testing.assert_allclose([m.any(1).mean() for m in records.mask[1::2]], [0.102, 0.013, 0.034, 0.035], atol=6e-4)
    with pytest.raises(InputError, match="set end to inclusive"):
        SOURCES["npz"](real("asd"), modality="series")
