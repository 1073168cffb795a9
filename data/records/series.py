"""Series as channels of about unit spread and back onto their hosts, rounded as the recording was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.records import Records
from data.records.table import decimals

IQR = 1.349  # quartile distance of the standard normal
# spreads, and ratio to the largest among its window's normal steps, from which a marked channel counts as anomalous
DEVIATES, CLEARLY = 3.0, 1.2
LEAST = 0.5  # least scale over the standard deviation: channels that hardly ever move are not blown up
CONTEXT = 8  # least normal steps of a window that give a level of its own


def spread(values: np.ndarray) -> float:
    """A robust standard deviation: quartiles / 1.349, at least half the plain one; 1 for a constant."""
    low, high = np.quantile(values, [0.25, 0.75])
    scale = max((high - low) / IQR, LEAST * float(np.std(values)))
    return float(scale) if values.max() > values.min() and scale > 0 else 1.0


def spans(line: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) of every run of True in a bool (T,)."""
    turns = np.flatnonzero(np.diff(np.r_[False, line, False].astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(turns[::2], turns[1::2])]


def own_channels(peak: np.ndarray, usual: np.ndarray, still: np.ndarray) -> np.ndarray:
    """(C,) which channels an anomaly shows in, where a label marks them all.

    peak, usual: (C,) the largest deviation at marked and at normal steps, in spreads of the channel. still: (C,) those
    that never move in the normals: any move counts. Where none deviates it is the one that does most, or those where
    several do alike.
    """
    own = peak > np.maximum(np.where(still, 0.0, DEVIATES), CLEARLY * usual)
    return own if own.any() else peak >= peak.max()


def shown(x: np.ndarray, mask: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(size, mask), each (C, T), of a window in codec units: how far every value is from the median of its channel's
    normal steps, or, where these are fewer than CONTEXT, from the codec's centre; and the mask, where a span marks all
    channels at all its steps in those alone that it shows in: a label that names channels is believed. still: (C,)."""
    rest = np.array([np.median(c[~m]) if (~m).sum() >= CONTEXT else 0.0 for c, m in zip(x, mask)])
    size, own = np.abs(x - rest[:, None]), mask.copy()
    usual = np.where(mask, 0.0, size).max(1)
    for start, end in spans(mask.any(0)):
        if mask[:, start:end].all():
            own[:, start:end] = own_channels(size[:, start:end].max(1), usual, still)[:, None]
    return size, own


@dataclass(frozen=True)
class SeriesCodec:
    """Series as x (N, C, T): (value - centre) / scale a channel.

    centre, scale: (C,). decimals: of each channel as recorded, None for full precision. still: (C,) which never move.
    """

    channels: list[str]
    centre: np.ndarray
    scale: np.ndarray
    decimals: list[int | None]
    still: np.ndarray

    @classmethod
    def fit(cls, records: Records) -> SeriesCodec:
        """Median, robust spread and decimals of every channel over all records; ValueError without any."""
        if not len(records):
            raise ValueError("a series codec must be fitted on at least one record, got none")
        check(records, list(records.schema["channels"]))
        values = np.concatenate(records.x)  # (all steps, C)
        places = [decimals(column) for column in values.T]
        scale = np.array([spread(column) for column in values.T])
        still = values.max(0) == values.min(0)
        return cls(list(records.schema["channels"]), np.median(values, axis=0), scale, places, still)

    def encode(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """x (N, C, T) float64, mask (N, C, T) bool; ValueError where lengths differ, InputError for NaN."""
        count = len(self.channels)
        if not len(records):
            return np.zeros((0, count, 0)), np.zeros((0, count, 0), bool)
        check(records, self.channels)
        lengths = {len(x) for x in records.x}
        if len(lengths) > 1:
            raise ValueError(f"series of one call must be equally long, got {sorted(lengths)} steps")
        x = (np.stack(records.x) - self.centre) / self.scale  # (N, T, C)
        return x.transpose(0, 2, 1), np.stack(list(records.mask)).astype(bool).transpose(0, 2, 1)

    def decode(self, x: np.ndarray, hosts: Records, mask) -> list[np.ndarray]:
        """The hosts with their masked values taken from x (N, C, T), rounded to the channel's decimals.

        mask: (N, C, T) or N masks (T, C). Unmasked values, and those whose x is the host's own, are its own
        bit for bit. ValueError for NaN or infinity in the mask.
        """
        x = np.asarray(x)
        if not len(hosts):
            return []
        hole = np.stack([m.T for m in mask]) if isinstance(mask, list) else np.asarray(mask, bool)
        hole = hole & (x != self.encode(hosts)[0].astype(x.dtype))
        if not np.isfinite(x[hole]).all():
            raise ValueError("series values must be finite, got NaN or infinity")
        value = x.transpose(0, 2, 1).astype(np.float64) * self.scale + self.centre  # (N, T, C)
        for c, places in enumerate(self.decimals):
            if places is not None:
                value[..., c] = np.round(value[..., c], places) + 0.0  # no negative zero
        return [np.where(keep.T, new, host) for keep, new, host in zip(hole, value, hosts.x, strict=True)]

    def state(self) -> dict:
        return {"channels": self.channels, "centre": self.centre.tolist(), "scale": self.scale.tolist(),
                "decimals": self.decimals, "still": self.still.tolist()}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict) -> SeriesCodec:
        centre, scale = (np.array(state[key], np.float64) for key in ("centre", "scale"))
        still = np.array(state.get("still", [False] * len(centre)), bool)  # states of before it was told
        return cls(list(state["channels"]), centre, scale, list(state["decimals"]), still)


def check(records: Records, channels: list[str]) -> None:
    """InputError where a record has other channels than these, or values that are not finite."""
    for name, x in zip(records.meta["id"], records.x):
        if x.ndim != 2 or x.shape[1] != len(channels):
            raise InputError(f"{name}: a series must have the channels {channels}, got shape {x.shape}")
        bad = ~np.isfinite(x)
        if bad.any():
            step, c = np.argwhere(bad)[0]
            raise InputError(f"{name}: series values must be finite, got {x[step, c]} at step {step} of "
                             f"'{channels[c]}'; impute it")  # fmt: skip
