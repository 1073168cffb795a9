"""How far an anomaly stands out from its surroundings, as one number a record."""

from __future__ import annotations

import numpy as np

from data.records import Records
from data.records.series import shown


def contrast(records: Records, codec) -> np.ndarray:
    """(N,) how far an anomaly stands out: images, mean |pixel - median of its ring| in the mask, of the full range;
    series, mean |value - median of the rest of its window| in the mask, in codec units, of the channels it shows in
    (a generation marks those that it changed, a real label as often as not all); rows, NaN."""
    out = np.full(len(records), np.nan)
    if records.modality == "row":
        return out
    if records.modality == "series":
        x, mask = codec.encode(records)
        for i, window in enumerate(zip(x, mask)):
            size, own = shown(*window, codec.still)
            out[i] = size[own].mean() if own.any() else 0.0
        return out
    from scipy.ndimage import binary_dilation

    from data.records.image import grey, to_float

    for i, (image, mask) in enumerate(zip(records.x, records.mask)):
        value = to_float(image)
        value = grey(value) if value.ndim == 3 else value
        ring = binary_dilation(mask, iterations=6) & ~binary_dilation(mask, iterations=2)
        around = np.median(value[ring]) if ring.any() else np.median(value)
        out[i] = np.abs(value[mask] - around).mean() / 2 if mask.any() else 0.0
    return out
