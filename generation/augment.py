"""Standard augmentation of labelled anomalies: the arm that any generator must beat."""

from __future__ import annotations

import os

import numpy as np

from data.records import Records, bare, concat
from generation.classical.provenance import check_sets, provenance
from generation.limits import within

JITTER = 0.05  # std of the noise on series, in the channel's robust units, and on rows, in standard normal units
SCALING = (0.9, 1.1)  # swings of a series about its median
WARP = 0.05  # most that time runs ahead or behind, over the window's length


def image_transform(shape: tuple[int, ...], seed: int):
    """An albumentations pipeline: flips, quarter turns (of squares), small affine, light, blur, noise.

    shape: of the image. Masks follow the geometry alone.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    turn = [A.RandomRotate90(p=0.5)] if shape[0] == shape[1] else []
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), *turn,
            A.Affine(scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), rotate=(-10, 10), p=0.5,
                     border_mode=cv2.BORDER_REFLECT_101, mask_interpolation=cv2.INTER_NEAREST),
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.15, p=0.7),
            A.GaussianBlur(blur_limit=3, sigma_limit=(0.3, 0.8), p=0.2),
            A.GaussNoise(std_range=(0.005, 0.02), p=0.3),
        ]
    )  # fmt: skip
    # a seed given to Compose is every step's: all would fire together
    seeds = np.random.SeedSequence(int(seed)).generate_state(len(pipeline.transforms))
    for step, own in zip(pipeline.transforms, seeds):
        step.set_random_seed(int(own))
    return pipeline


def image_one(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask) of the same dtype and size; a defect that the geometry would push out is left where it is."""
    white = np.iinfo(image.dtype).max
    x = (image / white).astype(np.float32)
    x = x[..., None] if x.ndim == 2 else x
    out = image_transform(image.shape, seed)(image=x, mask=mask.astype(np.uint8))
    if mask.any() and not out["mask"].any():
        return image.copy(), mask.copy()
    value = np.rint(np.clip(out["image"].astype(np.float64), 0, 1) * white).astype(image.dtype)
    return value.reshape(image.shape), out["mask"].astype(bool)


def images(records: Records, chosen: Records, seeds: list[int], normals: Records) -> tuple[list, list]:
    pairs = [image_one(x, np.asarray(m, bool), s) for x, m, s in zip(chosen.x, chosen.mask, seeds)]
    return [x for x, _ in pairs], [m for _, m in pairs]


def series_one(x: np.ndarray, mask: np.ndarray, rng: np.random.Generator, units: np.ndarray):
    """(x, mask), (T, C): time shifted and warped smoothly, swings scaled, a little noise. units: (C,) robust std."""
    length = len(x)
    knots = rng.uniform(-WARP, WARP, 4) * length
    at = np.arange(length) + np.interp(np.arange(length), np.linspace(0, length - 1, 4), knots)
    at = np.clip(np.maximum.accumulate(at), 0, length - 1)
    warped = np.stack([np.interp(at, np.arange(length), column) for column in x.T], axis=1)
    label = mask[np.rint(at).astype(int)]
    if mask.any() and not label.any():
        warped, label = x.copy(), mask.copy()
    middle = np.median(warped, axis=0)
    warped = middle + rng.uniform(*SCALING, x.shape[1]) * (warped - middle)
    return warped + JITTER * units * rng.standard_normal(x.shape), label


def series(records: Records, chosen: Records, seeds: list[int], normals: Records) -> tuple[list, list]:
    """Windows in values that their channels can take: a flag stays one, a count whole and not below 0."""
    from data.records.series import SeriesCodec
    from generation.classical.series import Channels

    whole = np.concatenate(records.x)
    units = 1.4826 * np.median(np.abs(whole - np.median(whole, axis=0)), axis=0)
    rngs = [np.random.default_rng([int(s), 1]) for s in seeds]
    pairs = [series_one(x, np.asarray(m, bool), r, units) for x, m, r in zip(chosen.x, chosen.mask, rngs)]
    seen = Channels.of(normals, records, SeriesCodec.fit(normals))
    made = [seen.tidied(new, old) for (new, _), old in zip(pairs, chosen.x)]
    return made, [m for _, m in pairs]


def rows(records: Records, chosen: Records, seeds: list[int], normals: Records):
    """Noise on the numbers alone, in the quantiles of normals and anomalies; missing cells and categories stay."""
    from data.records.codecs import CODECS

    if not len(chosen):
        return chosen.x, chosen.mask
    real = concat([bare(normals), bare(records)])
    codec = CODECS["row"].fit(real)
    x = codec.encode(chosen)[0]
    column = np.asarray(codec.feature_column)
    numeric = np.array(["quantile" in spec for spec in codec.columns])
    cells = numeric & np.column_stack([chosen.x[spec["name"]].notna() for spec in codec.columns])  # (N, D)
    value = np.r_[True, column[1:] != column[:-1]]
    noise = [np.random.default_rng([int(s), 1]).standard_normal(len(column)) for s in seeds]
    x = x + JITTER * np.array(noise).reshape(x.shape) * (cells[:, column] & value)
    return within(codec.decode(x, chosen, cells), real), np.asarray(chosen.mask, bool).copy()


AUGMENT = {"image": images, "series": series, "row": rows}


def augment(records: Records, seeds: list[int], normals: Records) -> Records:
    """One augmented copy a seed of a record that the seed picks; label, kind and (moved with the data) mask stay.

    records: labelled anomalies. normals: what rows are measured by beside them. Output i depends on seeds[i] and on the
    sets. InputError where there are no anomalies.
    """
    check_sets(records, records, need_mask=False)
    picked = [int(np.random.default_rng(int(s)).integers(len(records))) for s in seeds]
    chosen = records.take(np.array(picked, dtype=int))
    x, mask = AUGMENT[records.modality](records, chosen, list(seeds), normals)
    meta = provenance(
        "standard", records, records, seeds, host=picked, parents=[[p] for p in picked], severity=[1.0] * len(picked),
        mask_source=[f"moved:{records.meta['id'].iloc[p]}" for p in picked],
    )  # fmt: skip
    meta["label"] = chosen.meta["label"].to_numpy()
    time = None if chosen.time is None else [t.copy() for t in chosen.time]
    return Records(records.modality, meta, x, mask, records.schema, time)
