"""The embedded demo data sets: real photographs, a real recording, a real table, small and without download.

image   two photographs of scikit-image, `brick` and `gravel` (CC0Textures, CC0 1.0), cut into tiles;
        the scratches, pits and stains are drawn here
series  weekly CO2 at Mauna Loa from statsmodels (Keeling & Whorf 2004, CDIAC; public domain); the sensor
        incidents are added here
row     Breast Cancer Wisconsin (Diagnostic) from scikit-learn (UCI, CC BY 4.0; Wolberg, Mangasarian,
        Street and Street), unchanged: malignant counts as anomalous

What is drawn here stands for real labelled anomalies, so nothing that generates or detects may import it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import SettingsError, closest
from data.records import Records, make_meta
from data.records.table import decimals

SEED = 20240607
PHOTOS, TILE, BLOCK = ("brick", "gravel"), 64, 2  # a group is a block of 2 x 2 tiles
DEFECTS_A_BLOCK = 2  # of its four tiles
EDGE = 0.35  # share of defects that may lie anywhere
VISIBLE = 5  # least change of a masked pixel in grey levels: 2 % of the range
LEAST_PIXELS, LEAST_PART, MOST_HOLE = 60, 6, 9  # of a defect, of a part of it, of a hole filled in it
ENTITIES, CLEAN = 4, 0.4  # stretches of the recording, share of each without incidents
TWO_YEARS = 105  # weeks of the running mean
WEEKS = {"spike": (3, 4), "shift": (6, 16), "flat": (7, 14), "noise": (5, 12)}  # least and most length
APART = 4  # least weeks between an incident and the ends of its slot
PLACES, LEAST_PPM = 2, 0.15  # decimals of the series; least change at an incident's ends, 2 % of its range


def read(
    path: Path | None = None, *, modality: str, strict: bool = False, **options
) -> tuple[Records, list[dict]]:
    """(records, nothing quarantined) of the demo set; `path` and `strict` make no difference."""
    if options:
        option = next(iter(options))
        raise SettingsError(f"source demo: unknown option '{option}'; {closest(option, ['strict'])}")
    if modality not in DEMOS:
        raise SettingsError(f"source demo: unknown modality '{modality}'; {closest(modality, DEMOS)}")
    return DEMOS[modality](), []


# images: shapes are drawn as distances in pixels, so that their edges are antialiased at any place and angle


def step(x: np.ndarray, width: float = 1.0) -> np.ndarray:
    """0 below -width/2, 1 above width/2, smooth between."""
    t = np.clip(x / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def smooth(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise blurred by sigma, of unit spread."""
    from scipy import ndimage

    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return field / field.std()


def blob(rng: np.random.Generator, centre: np.ndarray, radius: float, rough: float) -> np.ndarray:
    """Depth in pixels (positive inside) of a round shape with an uneven, drawn-out outline, (TILE, TILE)."""
    rows, columns = np.indices((TILE, TILE)) - np.reshape(centre, (2, 1, 1))
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
    along = (rows * np.cos(turn) + columns * np.sin(turn)) / np.sqrt(squeeze)
    across = (columns * np.cos(turn) - rows * np.sin(turn)) * np.sqrt(squeeze)
    angle = np.arctan2(along, across)
    outline = sum(
        rng.normal(0, rough / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        for order in range(2, 7)
    )
    return radius * (1 + outline) - np.hypot(along, across)


def place(rng: np.random.Generator, reach: float) -> np.ndarray:
    """A place whose surroundings of `reach` pixels lie in the tile; sometimes any, so over the edge too."""
    margin = 3 if rng.random() < EDGE else reach + 2
    return rng.uniform(margin, TILE - margin, 2)


def busy(tile: np.ndarray) -> float:
    """Spread of the tile's fine texture: a defect on gravel must be stronger than on brick to be seen."""
    from scipy import ndimage

    return float((tile - ndimage.gaussian_filter(tile, 4)).std())


def scratch(rng: np.random.Generator, tile: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A thin bent line whose width and strength vary, with a lit and a shaded rim."""
    from scipy import ndimage

    length, heading = int(rng.integers(22, 50)), rng.uniform(0, 2 * np.pi)
    bend = rng.normal(0, 0.007) + 0.009 * smooth(rng, (2 * length,), 12)  # per half pixel
    angle = heading + np.cumsum(bend)
    line = np.cumsum(np.column_stack([np.sin(angle), np.cos(angle)]) / 2, axis=0)  # two points a pixel
    line += place(rng, np.ptp(line, axis=0).max() / 2) - (line.max(0) + line.min(0)) / 2
    taper = np.sin(np.linspace(0.12, np.pi - 0.05, len(line))) ** 0.4
    width = rng.uniform(1.4, 2.8) * taper * (1 + 0.25 * smooth(rng, (len(line),), 6))
    power = np.clip(1 + 0.3 * smooth(rng, (len(line),), 4), 0.35, 1.4)
    offset = np.indices((TILE, TILE)).transpose(1, 2, 0)[:, :, None] - line  # (TILE, TILE, points, 2)
    nearest = np.hypot(*np.moveaxis(offset, -1, 0)).argmin(-1)
    offset = np.take_along_axis(offset, nearest[..., None, None], axis=2)[:, :, 0]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    core = step(width[nearest] / 2 - distance) * power[nearest]
    side = (offset @ light) / np.maximum(distance, 0.5)
    rim = np.exp(-(((distance - width[nearest] / 2 - 0.8) / 0.8) ** 2)) * side * np.minimum(power[nearest], 1)
    ground = ndimage.gaussian_filter(tile, 3)
    dark = rng.random() < 0.6
    strength = 1.5 * busy(tile)
    aim = ground - rng.uniform(0.2, 0.32) - strength if dark else ground + rng.uniform(0.22, 0.34) + strength
    lit = (rng.uniform(0.08, 0.14) + 0.8 * strength) * rim * (1 - np.minimum(core, 1))
    change = core * 0.9 * (np.clip(aim, 0.03, 0.97) - tile) + lit
    return ndimage.gaussian_filter(change, 0.4)


def pit(rng: np.random.Generator, tile: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A rounded hole: the wall towards the light lies in shade, the far one and part of the rim are lit."""
    from scipy import ndimage

    radius, strength = rng.uniform(4.5, 9), 1.5 * busy(tile)
    depth = blob(rng, place(rng, 1.2 * radius), radius, 0.16)
    inside = step(depth, 1.6)
    bowl = np.sqrt(np.clip(depth / max(depth.max(), 1), 0, 1))
    slope = np.stack(np.gradient(ndimage.gaussian_filter(bowl, 1.0)), axis=-1) @ light
    floor = ndimage.gaussian_filter(tile, 1.5 + 12 * strength) * (rng.uniform(0.5, 0.72) - strength)
    floor += 0.05 * smooth(rng, tile.shape, 1.2) * bowl
    rim = np.exp(-(((depth + 1.0) / 1.1) ** 2)) * np.clip(0.7 - 0.5 * smooth(rng, tile.shape, 5), 0.1, 1.3)
    lit = (rng.uniform(0.1, 0.18) + 0.8 * strength) * rim * (1 - inside)
    change = inside * (floor - tile - rng.uniform(0.9, 1.5) * slope) + lit
    return ndimage.gaussian_filter(change, 0.5)


def stain(rng: np.random.Generator, tile: np.ndarray, light: np.ndarray) -> np.ndarray:
    """A soft patch of another tone, denser towards its uneven edge; the texture shows through."""
    from scipy import ndimage

    radius, strength = rng.uniform(8, 15), 2.2 * busy(tile)
    depth = blob(rng, place(rng, radius), radius, 0.14) + 1.5 * smooth(rng, tile.shape, 4)
    tide = np.exp(-(((depth - 2.5) / 2.0) ** 2))
    amount = step(depth, rng.uniform(4, 8)) * (1 + 0.3 * tide + 0.12 * smooth(rng, tile.shape, 6))
    ground = 0.6 * ndimage.gaussian_filter(tile, 6) + 0.4 * tile
    share = rng.uniform(0.16, 0.26) + strength
    return amount * share * (-ground if rng.random() < 0.6 else 1 - ground)


DEFECTS: dict[str, Callable] = {"scratch": scratch, "pit": pit, "stain": stain}


def without_specks(mask: np.ndarray, least: int) -> np.ndarray:
    """The mask without its connected parts of fewer than `least` pixels."""
    from scipy import ndimage

    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return mask & (np.bincount(parts.ravel()) >= least)[parts]


def spoil(tile: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(tile with one defect, mask): each masked pixel changed by 2 % of the range at least, no other at all.

    Where a defect's change passes through zero, between a shaded and a lit flank, it is raised to that least:
    the mask has no pinholes.
    """
    from scipy import ndimage

    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.sin(angle), np.cos(angle)])  # towards the light
    while True:
        change = DEFECTS[kind](rng, tile / 255, light)
        change = np.clip(np.rint(tile + 255 * change), 0, 255).astype(int) - tile
        mask = ndimage.binary_closing(np.pad(np.abs(change) >= VISIBLE, 2), np.ones((3, 3)))[2:-2, 2:-2]
        mask = without_specks(~without_specks(~mask, MOST_HOLE + 1), LEAST_PART)
        sign = np.where(tile < VISIBLE, 1, np.where(tile > 255 - VISIBLE, -1, np.where(change < 0, -1, 1)))
        change = np.where(np.abs(change) < VISIBLE, VISIBLE * sign, change)
        if mask.sum() >= LEAST_PIXELS:
            return np.where(mask, tile + change, tile).astype(np.uint8), mask


def photographs() -> dict[str, np.ndarray]:
    """The photographs by name, (512, 512) uint8."""
    from skimage import data

    return {name: getattr(data, name)() for name in PHOTOS}


def images() -> Records:
    """128 tiles (64, 64) uint8: in every block of four neighbours two are normal, two carry a defect."""
    x, masks, columns = [], [], {"id": [], "group": [], "source": [], "kind": []}
    for number, (name, photo) in enumerate(photographs().items()):
        side = photo.shape[0] // TILE
        kind = assign(np.random.default_rng([SEED, number]), side)
        for row, column in np.ndindex(side, side):
            tile = photo[row * TILE :, column * TILE :][:TILE, :TILE].copy()
            mask = np.zeros(tile.shape, bool)
            if kind[row, column] != "normal":
                rng = np.random.default_rng([SEED, number, row, column])
                tile, mask = spoil(tile, kind[row, column], rng)
            x.append(tile)
            masks.append(mask)
            columns["id"].append(f"{name}-r{row}c{column}")
            columns["group"].append(f"{name}-b{row // BLOCK}{column // BLOCK}")
            columns["source"].append(f"skimage.data.{name}")
            columns["kind"].append(str(kind[row, column]))
    odd = [kind != "normal" for kind in columns["kind"]]
    drawn = ["drawn" if o else "" for o in odd]
    meta = make_meta(len(x), **columns, label=np.array(odd, np.int8), mask_source=drawn, given="")
    return Records("image", meta, x, masks, {})


def assign(rng: np.random.Generator, side: int) -> np.ndarray:
    """(side, side) kinds of a photograph's tiles: every kind as often, as many defects in every block."""
    blocks = (side // BLOCK) ** 2
    kinds = rng.permutation(np.resize(list(DEFECTS), blocks * DEFECTS_A_BLOCK)).reshape(blocks, -1)
    out = np.full((side, side), "normal", dtype=object)
    for b in range(blocks):
        top, left = BLOCK * (b // (side // BLOCK)), BLOCK * (b % (side // BLOCK))
        for kind, cell in zip(kinds[b], rng.permutation(BLOCK * BLOCK)):
            out[top + cell // BLOCK, left + cell % BLOCK] = kind
    return out


# series


def recording() -> pd.Series:
    """The weekly CO2 in ppm about its centred two-year mean, gaps interpolated in time, 2,180 weeks."""
    from statsmodels.datasets import co2

    level = co2.load_pandas().data["co2"].interpolate("time")
    return (level - level.rolling(TWO_YEARS, center=True).mean()).dropna().round(PLACES)


def spike(rng: np.random.Generator, x: np.ndarray, before: float) -> np.ndarray:
    """A peak of a few weeks, up or down."""
    peak = 1 - np.abs(np.linspace(-1, 1, len(x) + 2)[1:-1] - rng.uniform(-0.3, 0.3)) * 0.9
    return x + rng.choice([-1, 1]) * rng.uniform(2.5, 5) * peak


def shift(rng: np.random.Generator, x: np.ndarray, before: float) -> np.ndarray:
    """A constant offset."""
    return x + rng.choice([-1, 1]) * rng.uniform(1.5, 3.5)


def flat(rng: np.random.Generator, x: np.ndarray, before: float) -> np.ndarray:
    """A stuck sensor: the last value before, repeated."""
    return np.full(len(x), before)


def noise(rng: np.random.Generator, x: np.ndarray, before: float) -> np.ndarray:
    """A burst of noise several times the usual one."""
    return x + rng.normal(0, rng.uniform(1.2, 2.2), len(x))


INCIDENTS: dict[str, Callable] = {"spike": spike, "shift": shift, "flat": flat, "noise": noise}


def disturb(x: np.ndarray, kinds: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list[list]]:
    """(x with one incident in each of len(kinds) equal slots, [[start, end, kind], ..]), end exclusive.

    An incident is drawn again until its first and last week changed by LEAST_PPM, so its span is exact.
    """
    x, edges, spans = x.copy(), np.linspace(0, len(x), len(kinds) + 1).astype(int), []
    for kind, low, high in zip(kinds, edges[:-1], edges[1:]):
        while True:
            length = int(rng.integers(WEEKS[kind][0], WEEKS[kind][1] + 1))
            start = int(rng.integers(low + APART, high - APART - length + 1))
            part = slice(start, start + length)
            new = np.round(INCIDENTS[kind](rng, x[part], x[start - 1]), PLACES)
            change = np.abs(new - x[part])
            if min(change[0], change[-1]) >= LEAST_PPM and change.max() >= 1:
                break
        x[part] = new
        spans.append([start, start + length, kind])
    return x, spans


def series() -> Records:
    """Four stretches of the recording, each a clean `train` part and a `test` part with ten incidents.

    Every half of a test part holds each kind once and one of them twice. `segments` in meta: the incidents of
    the record as JSON [[start, end, kind], ..], positions in the record, end exclusive.
    """
    values = recording()
    time = values.index.astype("datetime64[ns]").astype(np.int64).to_numpy()
    records, x, masks, times = [], [], [], []
    for entity, rows in enumerate(np.array_split(np.arange(len(values)), ENTITIES)):
        cut, rng, kinds = int(CLEAN * len(rows)), np.random.default_rng([SEED, entity]), list(INCIDENTS)
        halves = [rng.permutation([*kinds, kinds[(entity + half) % len(kinds)]]) for half in range(2)]
        odd, spans = disturb(values.to_numpy()[rows[cut:]], [str(k) for k in np.concatenate(halves)], rng)
        for given, part, part_x, segments in [
            ("train", rows[:cut], values.to_numpy()[rows[:cut]], []),
            ("test", rows[cut:], odd, spans),
        ]:
            mask = np.zeros((len(part), 1), bool)
            for low, high, _ in segments:
                mask[low:high] = True
            x.append(part_x[:, None].astype(np.float64))
            masks.append(mask)
            times.append(time[part])
            records.append({"id": f"co2-{entity + 1}-{given}", "group": f"co2-{entity + 1}", "given": given,
                            "start": int(part[0] - rows[0]), "label": int(bool(segments)),
                            "kind": "mixed" if segments else "normal",
                            "mask_source": "drawn" if segments else "",
                            "segments": json.dumps(segments)})  # fmt: skip
    columns = {key: [record[key] for record in records] for key in records[0]}
    meta = make_meta(len(x), source="statsmodels.datasets.co2", **columns)
    return Records("series", meta, x, masks, {"channels": ["co2"]}, times)


# rows


def rows() -> Records:
    """569 rows of 30 numeric columns; which cells of a malignant row deviate is unknown: all are masked."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer(as_frame=True)
    frame = table.data.rename(columns=lambda name: name.replace(" ", "_")).astype(np.float64)
    odd = table.target.to_numpy() == list(table.target_names).index("malignant")
    columns = [{"name": name, "type": "numeric", "nullable": False, "decimals": decimals(values.to_numpy())}
               for name, values in frame.items()]  # fmt: skip
    ids = [f"wdbc-{i:03d}" for i in range(len(frame))]
    meta = make_meta(len(frame), id=ids, group=ids, source="sklearn.datasets.load_breast_cancer", given="",
                     label=odd.astype(np.int8), kind=list(np.where(odd, "malignant", "normal")),
                     mask_source=list(np.where(odd, "row", "")))  # fmt: skip
    return Records("row", meta, frame, np.repeat(odd[:, None], frame.shape[1], axis=1), {"columns": columns})


DEMOS = {"image": images, "series": series, "row": rows}
