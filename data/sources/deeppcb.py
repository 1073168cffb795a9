"""DeepPCB: pairs of a tested board and its clean template, cut into tiles that hold defects of one kind, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np

from data.errors import InputError, SettingsError, closest
from data.records import Records, make_meta
from data.sources.common import Quarantine, call, entries, fit_name, inside, show
from data.sources.pixels import BadImage, read_image, read_lines, read_mask

TYPES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # the source numbers them from 1
NORMALS = ("test", "template", "both")
GROUP = 5  # leading digits of an id: the board that the pair was cut from
CUT = 128  # dark below, light from here on
MARGIN = 4  # pixels between a defect's box and what may not touch it
PLAIN = 0.02  # a tile with less than this of either tone shows nothing, and looks like those of other boards
SPECK, THICK = 2, 4  # side of the least difference that is a defect; of one that is no misaligned edge
Box = tuple[int, int, int, int]  # left, top, right, bottom; the ends are outside


@dataclass(frozen=True)
class Pair:
    """The files of one board; boxes: x1, y1, x2, y2 and type as they stand in the file."""

    id: str
    test: Path
    template: Path
    mask: Path | None
    boxes: list[list[str]]


@dataclass(frozen=True)
class Board:
    """The pixels (H, W) of a pair, its mask, and (box, kind) of every defect."""

    id: str
    test: np.ndarray
    template: np.ndarray
    mask: np.ndarray
    boxes: list[tuple[Box, str]]


def read(path: Path | str, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """(records, quarantine) of the tiles of all pairs; options: tile, normals, strict."""
    return call({"image": read_tiles}, path, modality, options, "deeppcb")


def read_tiles(
    path: Path, *, tile: int = 128, normals: str = "test", strict: bool = False
) -> tuple[Records, list[dict]]:
    """Records of `tile` x `tile` pixels at native resolution; no split parts a board (first digits of the id).

    `path` holds boxes.csv, test/, template/ and perhaps derived_mask/, or it is PCBData as published. Every
    defect lies whole in one tile, beside none of another kind; one that fits no such tile is told in the
    quarantine. Its mask is derived_mask's, else what differs from the template inside its box. normals:
    "test" takes the parts of tested boards that equal the template, edges apart; "template" and "both" bring
    in the cleaned images, which their sharper edges alone give away.
    """
    if isinstance(tile, bool) or not isinstance(tile, int) or not 32 <= tile <= 640:
        raise SettingsError(f"source deeppcb: tile must be 32 to 640 pixels, got {show(tile)}; mend it")
    if normals not in NORMALS:
        raise SettingsError(
            f"source deeppcb: normals must be one of {', '.join(NORMALS)}, got '{show(normals)}'; "
            f"{closest(str(normals), NORMALS)}"
        )
    quarantine, rows = Quarantine(strict), []
    for pair in find_pairs(path, quarantine):
        try:
            board = load(pair)
        except BadImage as error:
            quarantine.add(pair.id, str(error))
            continue
        rows += defect_tiles(board, tile, quarantine)
        rows += normal_tiles(board, tile, normals)
    x, mask, ids, kinds = ([row[i] for row in rows] for i in range(4))
    odd = [kind != "normal" for kind in kinds]
    meta = make_meta(len(rows), id=ids, kind=kinds, label=[int(marked) for marked in odd], given="", source=path.name,
                     group=[f"board-{name[:GROUP]}" for name in ids],
                     mask_source=["file" if marked else "" for marked in odd])  # fmt: skip
    return Records("image", meta, x, mask, {}), quarantine.rows


# ---------------------------------------------------------------- files


def find_pairs(path: Path, quarantine: Quarantine) -> list[Pair]:
    """All pairs of a folder in order of their ids; what lacks its other half goes to the quarantine."""
    if not path.is_dir():
        raise InputError(f"{show(path)}: the pairs must lie in a folder, got a file; unpack it")
    if (path / "boxes.csv").is_file():
        tests, templates = files(path, path / "test", "_test"), files(path, path / "template", "_temp")
        masks, boxes = files(path, path / "derived_mask", "_mask"), boxes_of_table(path / "boxes.csv")
    else:
        tests, templates, masks, boxes = {}, {}, {}, {}
        for group in [folder for folder in entries(path) if folder.is_dir()]:
            name = group.name.removeprefix("group")
            tests |= files(path, group / name, "_test")
            templates |= files(path, group / name, "_temp")
            boxes |= {id: lines_of(file) for id, file in files(path, group / f"{name}_not", "").items()}
    if not tests:
        raise InputError(
            f"{show(path)}: the folder must hold boxes.csv, test and template, or PCBData's group folders, "
            "found no *_test image; check source.path"
        )
    pairs = []
    for id in sorted({*tests, *templates, *boxes}):
        there = {"a *_test image": id in tests, "a *_temp image": id in templates, "a box": bool(boxes.get(id))}
        lacking = [what for what, found in there.items() if not found]
        if lacking:
            quarantine.add(id, f"a pair must have {lacking[0]}, found none; restore it")
        else:
            pairs.append(Pair(id, tests[id], templates[id], masks.get(id), boxes[id]))
    return pairs


def files(root: Path, folder: Path, ending: str) -> dict[str, Path]:
    """The files of a folder whose stem ends so, by the stem before it; {} where there is no such folder."""
    found = {}
    for file in entries(folder) if folder.is_dir() else []:
        if not file.stem.endswith(ending):
            continue
        if reason := fit_name(file.name):
            raise InputError(f"{show(file)}: {reason}")
        if not inside(root, file):
            raise InputError(f"{show(file)}: a link must stay inside the data, leads out; copy the file")
        found[file.stem.removesuffix(ending)] = file
    return found


def boxes_of_table(path: Path) -> dict[str, list[list[str]]]:
    """The boxes of every id: x1, y1, x2, y2, type."""
    boxes: dict[str, list[list[str]]] = {}
    for row in read_lines(path, ["id", "x1", "y1", "x2", "y2", "type"]):
        boxes.setdefault(row["id"], []).append([row[name] for name in ("x1", "y1", "x2", "y2", "type")])
    return boxes


def lines_of(path: Path) -> list[list[str]]:
    """The boxes of one board as published: a line each, x1 y1 x2 y2 and the number of the type."""
    return [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def load(pair: Pair) -> Board:
    """The pixels and boxes of a pair; BadImage with the rule that one of its files breaks."""
    test, template = read_image(pair.test), read_image(pair.template)
    for image in (test, template):
        if image.ndim != 2 or image.dtype != np.uint8 or image.shape != test.shape:
            raise BadImage(
                f"both images of a pair must be grey, 8 bit and of one size, got {test.dtype} {test.shape} "
                f"and {template.dtype} {template.shape}; convert them"
            )
    mask = difference(test, template, SPECK) if pair.mask is None else read_mask(pair.mask, test.shape)
    boxes = [parse_box(cells, test.shape) for cells in pair.boxes]
    return Board(pair.id, test, template, mask, boxes)


def parse_box(cells: list[str], shape: tuple[int, int]) -> tuple[Box, str]:
    """(box, kind); BadImage where a box is not inside the image or of no known type."""
    *corners, kind = cells
    kind = dict(zip("123456", TYPES)).get(kind, kind)
    if len(corners) != 4 or not all(corner.isdecimal() for corner in corners) or kind not in TYPES:
        raise BadImage(f"a box must be x1 y1 x2 y2 and a type of {', '.join(TYPES)}, got {show(cells, 60)}; mend it")
    x1, y1, x2, y2 = map(int, corners)
    height, width = shape
    if not (x1 < x2 <= width and y1 < y2 <= height):
        raise BadImage(f"a box must lie in the image of {width} x {height}, got {show(cells, 60)}; mend it")
    return (x1, y1, min(x2 + 1, width), min(y2 + 1, height)), kind  # the corners of the file are inside


def difference(test: np.ndarray, template: np.ndarray, side: int) -> np.ndarray:
    """(H, W) where tone differs in a patch of at least `side` x `side` pixels."""
    from scipy import ndimage

    return ndimage.binary_opening((test >= CUT) != (template >= CUT), np.ones((side, side)))


# ---------------------------------------------------------------- tiles

Row = tuple[np.ndarray, np.ndarray, str, str]  # pixels, mask, id, kind


def defect_tiles(board: Board, tile: int, quarantine: Quarantine) -> Iterator[Row]:
    """A tile for every defect that fits one, at a place drawn by the board's id and the defect's number."""
    boxes, kinds = np.array([box for box, _ in board.boxes]), np.array([kind for _, kind in board.boxes])
    wide = with_margin(boxes, board.mask.shape)
    free = np.array([board.mask[cut(box)].any() for box in boxes])  # not yet in a tile
    light = light_before(board.test)
    for number in np.flatnonzero(~free):
        quarantine.add(f"{board.id} box {number + 1}", "a box must hold a marked pixel, got 0; draw its mask")
    for number, kind in enumerate(kinds):
        if not free[number]:
            continue
        mates = free & (kinds == kind)
        rng = np.random.default_rng([crc32(board.id.encode()), number])
        place = draw_place(light, wide[number], wide[mates], wide[~mates], tile, rng)
        if place is None:
            quarantine.note(
                f"{board.id} box {number + 1}",
                f"a defect must fit a tile of {tile} pixels that is not plain and has none of another kind, got a "
                f"'{kind}' that does not; left out",
            )
            continue
        top, left = place
        window = (left, top, left + tile, top + tile)
        held = mates & contains(window, wide)
        free &= ~held
        mask = np.zeros(board.mask.shape, bool)
        for box in boxes[held]:
            mask[cut(box)] = board.mask[cut(box)]
        yield board.test[cut(window)].copy(), mask[cut(window)].copy(), f"{board.id}-{top:03d}-{left:03d}", str(kind)


def normal_tiles(board: Board, tile: int, normals: str) -> Iterator[Row]:
    """The tiles of a grid that show no defect and are not plain, of the test board, the template, or both."""
    odd = difference(board.test, board.template, THICK)
    for box in with_margin(np.array([box for box, _ in board.boxes]), odd.shape):
        odd[cut(box)] = True
    nothing = np.zeros(odd.shape, bool)
    images = {"test": ("", board.test, odd), "template": ("temp-", board.template, nothing)}
    height, width = odd.shape
    for name in images if normals == "both" else [normals]:
        prefix, image, taken = images[name]
        for top, left in product(range(0, height - tile + 1, tile), range(0, width - tile + 1, tile)):
            part = cut((left, top, left + tile, top + tile))
            if not taken[part].any() and PLAIN <= (image[part] >= CUT).mean() <= 1 - PLAIN:
                yield image[part].copy(), nothing[part].copy(), f"{board.id}-{prefix}{top:03d}-{left:03d}", "normal"


def draw_place(
    light: np.ndarray, box: np.ndarray, mates: np.ndarray, others: np.ndarray, tile: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """(top, left) of a tile that holds the box, parts none of `mates` (N, 4) and touches none of `others`, or None.

    light: (H + 1, W + 1), how many light pixels lie above and left of a corner; a plain tile is none.
    """
    height, width = light.shape[0] - 1, light.shape[1] - 1
    left, top, right, bottom = box
    tops = np.arange(max(bottom - tile, 0), min(top, height - tile) + 1)
    lefts = np.arange(max(right - tile, 0), min(left, width - tile) + 1)
    top, left = (axis.ravel() for axis in np.meshgrid(tops, lefts, indexing="ij"))
    windows = np.stack([left, top, left + tile, top + tile], axis=-1)  # (places, 4)
    good = np.ones(len(windows), bool)
    for mate in mates:
        good &= contains(windows, mate) | ~touches(windows, mate)
    for other in others:
        good &= ~touches(windows, other)
    places = np.flatnonzero(good)
    top, left = top[places], left[places]
    pixels = light[top + tile, left + tile] - light[top, left + tile] - light[top + tile, left] + light[top, left]
    places = np.flatnonzero((pixels >= PLAIN * tile**2) & (pixels <= (1 - PLAIN) * tile**2))
    if not len(places):
        return None
    place = rng.choice(places)
    return int(top[place]), int(left[place])


def light_before(image: np.ndarray) -> np.ndarray:
    """(H + 1, W + 1) light pixels above and left of every corner, the sums that tiles are counted by."""
    import cv2

    return cv2.integral((image >= CUT).astype(np.uint8))


def with_margin(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The boxes (N, 4) grown by MARGIN on every side, inside an image of `shape`."""
    height, width = shape
    return np.clip(boxes + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN]), 0, [width, height, width, height])


def contains(outer, inner) -> np.ndarray:
    """Whether a box (.., 4) holds another (.., 4) wholly."""
    a, b = np.asarray(outer), np.asarray(inner)
    return ((a[..., :2] <= b[..., :2]) & (a[..., 2:] >= b[..., 2:])).all(-1)


def touches(one, other) -> np.ndarray:
    """Whether two boxes (.., 4) share a pixel."""
    a, b = np.asarray(one), np.asarray(other)
    return ((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1)


def cut(box) -> tuple[slice, slice]:
    """The slices of a box."""
    left, top, right, bottom = (int(edge) for edge in box)
    return slice(top, bottom), slice(left, right)
