"""The deeppcb reader: every defect whole in one tile beside none of another kind, normals of the same boards."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import InputError, SettingsError
from data.sources import SOURCES
from data.sources.deeppcb import MARGIN, TYPES, contains, draw_place, light_before, touches
from data.split import split

SHARED = Path(__file__).parents[2] / "shared" / "data" / "deeppcb"
SIDE, TILE = 192, 64
SPURS = [(20, 30, 29, 39, "spur"), (60, 34, 69, 43, "spur"), (150, 150, 161, 159, "open")]  # ends inside, as published


def boards(shift: int = 0, defects: list = SPURS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(template, test, mask): stripes, and squares of the other tone in the lower right of their boxes."""
    template = np.zeros((SIDE, SIDE), np.uint8)
    template[:, shift::24] = template[:, shift + 1 :: 24] = template[:, shift + 2 :: 24] = 255
    test, mask = template.copy(), np.zeros((SIDE, SIDE), bool)
    for x1, y1, x2, y2, _ in defects:
        inner = np.s_[y1 + 2 : y2 + 1, x1 + 2 : x2 + 1]
        test[inner] = 255 - test[inner]
        mask[inner] = True
    return template, test, mask


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def add(root: Path, id: str, *, shift: int = 0, defects: list = SPURS, listed: list | None = None) -> None:
    """A pair in the layout of boxes.csv; `listed`: the boxes written, the defects by default."""
    template, test, mask = boards(shift, defects)
    save(root / f"template/{id}_temp.png", template)
    save(root / f"test/{id}_test.png", test)
    save(root / f"derived_mask/{id}_mask.png", mask)
    new = not (root / "boxes.csv").exists()
    with open(root / "boxes.csv", "a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "x1", "y1", "x2", "y2", "type"]] * new)
        writer.writerows([[id, *box] for box in (defects if listed is None else listed)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add(tmp_path / "pcb", "00041000")
    return tmp_path / "pcb"


def tiles(root: Path, **options):
    return SOURCES["deeppcb"](root, modality="image", **{"tile": TILE, **options})


def odd(records):
    return records.take(records.meta["label"] == 1)


def left_out(root: Path, item: str, reason: str) -> None:
    """Fails unless exactly `item` is quarantined for `reason`, and `strict` makes that an error of one line."""
    _, quarantine = tiles(root)
    assert [(row["item"], reason in row["reason"]) for row in quarantine] == [(item, True)], quarantine
    with pytest.raises(InputError, match="; ") as caught:
        tiles(root, strict=True)
    assert "\n" not in str(caught.value) and item in str(caught.value)


def test_a_tile_holds_its_defects_whole_with_their_mask_and_kind(root: Path):
    records, quarantine = tiles(root, strict=True)
    _, test, mask = boards()
    assert not quarantine and records.meta["id"].is_unique
    marked = np.zeros_like(mask)
    for row, x, found in zip(records.meta.itertuples(), records.x, records.mask):
        top, left = map(int, row.id.split("-")[1:])
        part = np.s_[top : top + TILE, left : left + TILE]
        np.testing.assert_array_equal(x, test[part])
        np.testing.assert_array_equal(found, mask[part])  # both kinds never meet, so nothing is cut from it
        assert row.group == "board-00041" and row.label == (row.kind != "normal") == found.any()
        marked[part] |= found
    np.testing.assert_array_equal(marked, mask)
    assert Counter(odd(records).meta["kind"]) in ({"spur": 1, "open": 1}, {"spur": 2, "open": 1})
    assert sum(m.sum() for m in odd(records).mask) == mask.sum()  # each defect once


def test_normals_are_grid_tiles_without_a_defect_an_unlabelled_difference_or_a_single_tone(root: Path):
    grid = {f"00041000-{top:03d}-{left:03d}" for top in (0, 64, 128) for left in (0, 64, 128)}
    normal = lambda records: set(records.meta.loc[records.meta["label"] == 0, "id"])  # noqa: E731
    assert normal(tiles(root)[0]) == grid - {f"00041000-{at}" for at in ("000-000", "000-064", "128-128")}
    template, test, _ = boards()
    test[80:83, 70:80] = 255 - test[80:83, 70:80]  # three pixels are a misaligned edge, four are not
    test[80:84, 135:140] = 255 - test[80:84, 135:140]
    test[128:, :64] = 255
    test[128:, 64:96] = template[128:, 64:96] = 0  # half a tile of one tone is no plain tile
    template[128:, :64] = 255
    save(root / "test/00041000_test.png", test)
    save(root / "template/00041000_temp.png", template)
    found = normal(tiles(root)[0])
    assert found == {f"00041000-{at}" for at in ("000-128", "064-000", "064-064", "128-064")}
    assert normal(tiles(root, normals="template")[0]) == {
        name.replace("00041000-", "00041000-temp-") for name in grid - {"00041000-128-000"}
    }
    both = tiles(root, normals="both")[0]
    assert normal(both) == found | normal(tiles(root, normals="template")[0])
    at = both.meta["id"].tolist().index("00041000-temp-000-000")
    np.testing.assert_array_equal(both.x[at], template[:64, :64])


def test_the_published_layout_and_a_missing_mask_give_the_same_records(tmp_path: Path):
    defects = [*SPURS, (100, 20, 109, 23, "copper")]  # two pixels thick
    root, group = tmp_path / "pcb", tmp_path / "PCBData/group00041"
    add(root, "00041000", defects=defects)
    template, test, _ = boards(defects=defects)
    save(group / "00041/00041000_temp.png", template)
    save(group / "00041/00041000_test.png", test)
    (group / "00041_not").mkdir()
    lines = [" ".join(map(str, (*box[:4], TYPES.index(box[4]) + 1))) for box in defects]
    (group / "00041_not/00041000.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "PCBData/trainval.txt").write_text("group00041/00041/00041000.jpg\n")
    published, quarantine = tiles(tmp_path / "PCBData", strict=True)
    listed, _ = tiles(root)
    assert not quarantine and set(published.meta["kind"]) == {"normal", "spur", "open", "copper"}
    assert published.meta.drop(columns="source").equals(listed.meta.drop(columns="source"))
    for name in ("x", "mask"):
        for one, other in zip(getattr(published, name), getattr(listed, name), strict=True):
            np.testing.assert_array_equal(one, other)
    shutil.rmtree(root / "derived_mask")
    assert all((a == b).all() for a, b in zip(tiles(root)[0].mask, listed.mask, strict=True))


def test_a_defect_beside_another_kind_is_left_out_and_told_even_when_strict(root: Path):
    near = [(20, 30, 29, 39, "spur"), (30, 30, 39, 39, "open"), (150, 150, 161, 159, "short")]
    add(root, "00041001", defects=near)
    records, quarantine = tiles(root, strict=True)
    assert [row["item"] for row in quarantine] == ["00041001 box 1", "00041001 box 2"]
    assert "is not plain and has none of another kind, got a 'spur' that does not" in quarantine[0]["reason"]
    new = odd(records).meta["id"].str.startswith("00041001")
    assert odd(records).meta["kind"][new].tolist() == ["short"]
    assert tiles(root, tile=160)[1] and {row["reason"].split(",")[0] for row in tiles(root, tile=160)[1]} == {
        "a defect must fit a tile of 160 pixels that is not plain and has none of another kind"}  # fmt: skip


def test_a_place_depends_on_its_board_alone(root: Path):
    before = tiles(root)[0].meta["id"].tolist()
    add(root, "00040999", shift=5)
    after, _ = tiles(root)
    assert after.meta["id"].tolist()[-len(before) :] == before and len(after) > len(before)
    add(root, "00041001")
    places = odd(tiles(root)[0]).meta["id"].str.split("-", n=1)
    assert len({tuple(p) for p in places}) == len(places) and places.str[1].is_unique  # not the same on every board


def test_a_drawn_place_holds_the_box_parts_no_mate_and_touches_no_other():
    rng = np.random.default_rng(0)
    image = np.tile(np.uint8([0, 255]), (200, 100))
    image[:, 130:] = 0
    light = light_before(image)
    drawn = 0
    for _ in range(200):
        x, y = rng.integers(0, 180, (2, 6))
        w, h = rng.integers(5, 20, (2, 6))
        boxes = np.stack([x, y, x + w, y + h], axis=1).clip(0, 200)
        place = draw_place(light, boxes[0], boxes[1:3], boxes[3:], 64, rng)
        windows = [(c, r, c + 64, r + 64) for r in range(137) for c in range(137) if 130 - c >= 0.02 * 64 * 2]
        good = {w for w in windows if contains(w, boxes[0]) and not touches(w, boxes[3:]).any()
                and (contains(w, boxes[1:3]) | ~touches(w, boxes[1:3])).all()}  # fmt: skip
        drawn += place is not None
        assert (place is None) == (not good)
        assert place is None or (place[1], place[0], place[1] + 64, place[0] + 64) in good
        if drawn >= 8:
            break
    plain = light_before(np.zeros_like(image))
    assert draw_place(plain, np.array([9, 9, 20, 20]), np.zeros((0, 4)), np.zeros((0, 4)), 64, rng) is None


@pytest.mark.parametrize(
    "box, reason",
    [
        (("x", 30, 29, 39, "spur"), "x1 y1 x2 y2 and a type of open"),
        ((20, 30, 29, 39, "scratch"), "and a type of open, short"),
        ((20, 30, 29, -1, "spur"), "x1 y1 x2 y2 and a type"),
        ((20, 30, 20, 39, "spur"), "must lie in the image of 192 x 192"),
        ((20, 30, 193, 39, "spur"), "must lie in the image of 192 x 192"),
    ],
)
def test_a_board_with_a_bad_box_is_left_out_whole(root: Path, box: tuple, reason: str):
    add(root, "00041001", listed=[*SPURS[:2], box])
    left_out(root, "00041001", reason)
    assert set(tiles(root)[0].meta["id"].str[:8]) == {"00041000"}


def test_a_box_without_a_marked_pixel_is_left_out_and_kept_away_from(root: Path):
    add(root, "00041001", listed=[*SPURS, (100, 100, 109, 109, "short")])
    left_out(root, "00041001 box 4", "must hold a marked pixel, got 0")
    blank = np.array([100, 100, 110, 110])
    for name in tiles(root)[0].meta["id"]:
        id, top, left = name.split("-")
        window = (int(left), int(top), int(left) + TILE, int(top) + TILE)
        assert id != "00041001" or not touches(window, blank + MARGIN * np.array([-1, -1, 1, 1]))


def test_unpaired_and_unreadable_files_are_left_out(root: Path):
    add(root, "00041001")
    template = root / "template/00041001_temp.png"
    good = template.read_bytes()
    colour = np.dstack([boards()[0]] * 3)
    for change, reason in (
        (lambda: template.write_bytes(good[:60]), "the image must be whole"),
        (lambda: save(template, boards()[0][:-1]), "of one size, got uint8 (192, 192) and uint8 (191, 192)"),
        (lambda: save(template, colour), "must be grey, 8 bit"),
        (lambda: save(root / "derived_mask/00041001_mask.png", boards()[2][:-1]), "mask must have the image's size"),
    ):
        change()
        left_out(root, "00041001", reason)
        template.write_bytes(good)
    (root / "derived_mask/00041001_mask.png").unlink()
    template.unlink()
    left_out(root, "00041001", "must have a *_temp image, found none")
    template.write_bytes(good)
    (root / "test/00041001_test.png").unlink()
    left_out(root, "00041001", "must have a *_test image, found none")
    template.unlink()
    rows = (root / "boxes.csv").read_text().replace("00041001", "00041000").splitlines()
    (root / "boxes.csv").write_text("\n".join(rows[:4]) + "\n")
    save(root / "test/00042000_test.png", boards()[1])
    save(root / "template/00042000_temp.png", boards()[0])
    left_out(root, "00042000", "must have a box, found none")


def test_what_is_no_set_of_pairs_is_refused_on_one_line(root: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "outside.png").write_bytes((root / "test/00041000_test.png").read_bytes())
    for path, message in ((tmp_path / "empty", r"found no \*_test image; check"), (root / "boxes.csv", "in a folder")):
        with pytest.raises(InputError, match=message):
            tiles(path)
    (root / "test/00041009_test.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match="leads out"):
        tiles(root)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tile": 31}, "tile must be 32 to 640 pixels, got 31; mend it"),
        ({"tile": 641}, "tile must be 32 to 640 pixels, got 641"),
        ({"tile": True}, "tile must be 32 to 640 pixels, got True"),
        ({"tile": 64.0}, "tile must be 32 to 640 pixels, got 64.0"),
        ({"normals": "tests"}, "normals must be one of test, template, both, got 'tests'; did you mean 'test'"),
        ({"tiles": 64}, "unknown option 'tiles'; did you mean 'tile'"),
    ],
)
def test_bad_options_are_told_on_one_line(root: Path, options: dict, message: str):
    with pytest.raises(SettingsError, match=message) as caught:
        tiles(root, **options)
    assert "\n" not in str(caught.value)


def test_the_real_boards_read_and_split_by_board():
    if not SHARED.exists():
        pytest.skip("deeppcb is not here")
    records, quarantine = SOURCES["deeppcb"](SHARED, modality="image")
    meta = records.meta
    assert set(meta["kind"]) == {"normal", *TYPES} and meta["group"].nunique() == 11 and meta["id"].is_unique
    assert len({x.tobytes() for x in records.x}) == len(records)  # no tile is a copy of another
    told = {tuple(row["item"].split(" box ")) for row in quarantine}
    assert len(told) == len(quarantine) and all("none of another kind" in row["reason"] for row in quarantine)
    windows = {}
    for name, kind in zip(meta["id"], meta["kind"]):
        id, top, left = name.split("-")
        windows.setdefault(id, []).append((int(left), int(top), int(left) + 128, int(top) + 128, kind))
    number = Counter()
    with open(SHARED / "boxes.csv") as file:
        for row in csv.DictReader(file):  # every one of the 539 boxes lies in one tile of its kind, or was told
            number[row["id"]] += 1
            box = tuple(int(row[name]) for name in ("x1", "y1", "x2", "y2"))
            holding = [w[4] for w in windows.get(row["id"], []) if touches(w[:4], box)]
            left = (row["id"], str(number[row["id"]])) in told
            assert holding == ([] if left else [row["type"]]), (row, holding)
    parts = split(records, seeds=3, support=10, folds=2, test_share=0.5, calib_share=0.2)
    sides = [set(part.meta["group"]) for part in (parts.test, parts.calib)] + [
        set(parts.fit.meta["group"]) | set(parts.support.meta["group"])]  # fmt: skip
    assert sum(map(len, sides)) == len(set().union(*sides)) == 11
    assert set(parts.support.meta["kind"]) == set(parts.test.meta["kind"]) - {"normal"} == set(TYPES)
    kinds = dict(zip(meta["id"], meta["kind"]))
    assert all(set(Counter(kinds[name] for name in chosen).values()) == {1, 2} for chosen in parts.plan["supports"])


def test_the_masks_of_the_real_boards_are_their_differences(tmp_path: Path):
    if not SHARED.exists():
        pytest.skip("deeppcb is not here")
    ids = ["00041021", "50600008", "92000014"]
    with open(SHARED / "boxes.csv") as file:
        rows = [row for row in csv.reader(file) if row[0] in ("id", *ids)]
    for folder, ending in (("test", "_test.jpg"), ("template", "_temp.jpg"), ("derived_mask", "_mask.png")):
        (tmp_path / folder).mkdir()
        for id in ids:
            shutil.copy(SHARED / folder / f"{id}{ending}", tmp_path / folder)
    with open(tmp_path / "boxes.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    stored = SOURCES["deeppcb"](tmp_path, modality="image")[0]
    shutil.rmtree(tmp_path / "derived_mask")
    derived = SOURCES["deeppcb"](tmp_path, modality="image")[0]
    assert stored.meta.equals(derived.meta) and stored.meta["label"].sum() > 10
    for one, other in zip(stored.mask, derived.mask):
        np.testing.assert_array_equal(one, other)
