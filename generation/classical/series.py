"""Classical anomalies in series: a real exemplar's deviation pasted, or a textbook change of its size and channels.

Both measure a deviation in the channel's own robust units (median and 1.4826 MAD of its normal steps around), so
that an exemplar from one recording fits another; that of a flag, a state or a coarse converter as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.records import Records
from data.records.series import CONTEXT, SeriesCodec, shown
from data.records.table import decimals
from generation.classical.provenance import check_sets, provenance
from generation.masks import pick_span

SCALE = (0.5, 1.5)  # deviation over the exemplar's; beats .2-1 in the pilots
STRETCH = (0.8, 1.25)  # duration over the exemplar's
TAPER = (0.05, 0.10)  # share of the span that fades in, and out
RATIO = (0.2, 5.0)  # least and most that a deviation is scaled between recordings
LEAST = 2.0  # robust z: a textbook change smaller than this is no anomaly, another one is tried
CLEAR = 6.0  # spreads that a step takes to be seen whatever the channel does
MARGIN = 0.5  # how far values may leave the range seen, over its width
LEVELS, SEEN = 32, 20  # a channel of so few values, each seen so often on average, takes no others


@dataclass(frozen=True)
class Channels:
    """What all hosts and exemplars say about the channels; every field (C,), `steps` a list of C.

    level, scale, still: the codec's. unit: the scale; of a still channel what makes the farthest anomaly CLEAR units.
    low, high: hard limits. decimals: the codec's, more where anomalies are written with more. steps: the ascending
    values of a flag, a state or a coarse converter, None of others.
    """

    level: np.ndarray
    scale: np.ndarray
    still: np.ndarray
    unit: np.ndarray
    low: np.ndarray
    high: np.ndarray
    decimals: list[int | None]
    steps: list[np.ndarray | None]

    @classmethod
    def of(cls, hosts: Records, support: Records, codec: SeriesCodec, most: int = 256) -> Channels:
        """Limits and steps from at most `most` evenly spaced hosts and the exemplars."""
        normal = np.concatenate(hosts.x[:: max(1, len(hosts.x) // most)])
        both = np.concatenate([normal, *support.x])
        low, high = both.min(0), both.max(0)
        room = MARGIN * (high - low)
        floor = np.where(low >= 0, np.maximum(0.0, low - room), low - room)  # a count stays a count
        values = [np.unique(v) for v in both.T]
        steps = [v if len(v) <= max(1, min(LEVELS, len(both) // SEEN)) else None for v in values]
        far = np.maximum(high - codec.centre, codec.centre - low)
        unit = np.where(codec.still & (far > 0), far / CLEAR, codec.scale)
        told = zip(codec.decimals, values)
        places = [p if p is None or (np.round(v, p) == v).all() else decimals(v) for p, v in told]
        return cls(codec.centre, codec.scale, codec.still, unit, floor, high + room, places, steps)

    def tidy(self, values: np.ndarray, host: np.ndarray, c: int) -> np.ndarray:
        """Values of channel c, where they are not the host's own, made ones that it can take: within its limits and
        rounded to its decimals, or the nearest of its few."""
        steps = self.steps[c]
        if steps is not None:
            neat = steps[np.searchsorted((steps[1:] + steps[:-1]) / 2, values)]
        else:
            neat = np.clip(values, self.low[c], self.high[c])
            neat = neat if self.decimals[c] is None else np.round(neat, self.decimals[c]) + 0.0  # no negative zero
        return np.where(values != host, neat, values)

    def tidied(self, values: np.ndarray, hosts: np.ndarray) -> np.ndarray:
        """(.., T, C) of `tidy`, all channels."""
        return np.stack([self.tidy(values[..., c], hosts[..., c], c) for c in range(values.shape[-1])], axis=-1)


def robust_std(x: np.ndarray) -> np.ndarray:
    """1.4826 times the median absolute deviation from the median along time, (T, C) -> (C,)."""
    return 1.4826 * np.median(np.abs(x - np.median(x, axis=0)), axis=0)


def local(x: np.ndarray, odd: np.ndarray, start: int, end: int, seen: Channels) -> tuple[np.ndarray, ...]:
    """(level, scale, alone), each (C,), around [start, end) in x (T, C): the level local, the scale the whole window's.

    Of each channel's steps that are not `odd` (T, C): for the level those within one span length, for the scale all (a
    short stretch of a cycle says little about its size). All hosts' level and unit where there are fewer than CONTEXT:
    `alone`. The scale never falls below a twentieth of that unit, so that a quiet window does not blow a deviation up.
    """
    level, scale, alone = seen.level.copy(), seen.unit.copy(), (~odd).sum(0) < CONTEXT
    reach = max(end - start, CONTEXT)
    near = np.zeros(len(x), bool)
    near[max(0, start - reach) : end + reach] = True
    for pattern in np.unique(odd[:, ~alone], axis=1).T:
        own, normal = ~alone & (odd == pattern[:, None]).all(0), ~pattern
        close = near & normal if (near & normal).sum() >= CONTEXT else normal
        level[own] = np.median(x[np.ix_(close, own)], axis=0)
        scale[own] = np.maximum(robust_std(x[np.ix_(normal, own)]), seen.unit[own] / 20)
    return level, scale, alone


@dataclass(frozen=True)
class Exemplar:
    """A real anomalous span as deviation from its level.

    dev (L, C): in robust units. marked (L, C): the label. scale (C,): the value of one unit. alone (C,): where too few
    normal steps lie around it for a level of its own: level and scale are then those of all hosts.
    """

    dev: np.ndarray
    marked: np.ndarray
    scale: np.ndarray
    alone: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, x: np.ndarray, mask: np.ndarray, seen: Channels) -> Exemplar:
        """A span of one support window x (T, C), in the channels that it shows in."""
        mask = np.asarray(mask, bool)
        start, end = pick_span(rng, mask)
        level, scale, alone = local(x, mask, start, end, seen)
        own = shown(((x - seen.level) / seen.scale).T, mask.T, seen.still)[1].T
        return cls((x[start:end] - level) / scale, own[start:end], scale, alone)

    def stretched(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """(dev, marked) resampled to `length` steps by linear interpolation."""
        old = len(self.dev)
        if length == old:
            return self.dev, self.marked
        at = np.linspace(0, old - 1, length)
        dev = np.stack([np.interp(at, np.arange(old), column) for column in self.dev.T], axis=1)
        marked = self.marked[np.rint(at).astype(int)]
        lost = self.marked.any(0) & ~marked.any(0)
        marked[:, lost] = True
        return dev, marked


def fade(length: int, share: float) -> np.ndarray:
    """A cosine taper (length,) in (0, 1], rising over `share` of the length at both ends; short spans stay whole."""
    n = int(share * length)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 1) / (n + 1))
    out = np.ones(length)
    out[:n], out[length - n :] = ramp, ramp[::-1]
    return out


def write(
    host: np.ndarray, first: int, c: int, values: np.ndarray, out: np.ndarray, mask: np.ndarray, gap: int | None = None
) -> None:
    """Put values into channel c of `out` from `first` on; mark from the first to the last step that changed.

    gap: marks part where more than `gap` steps in a row did not change; None: one mark, for a value met by chance is
    as anomalous as its neighbours.
    """
    moved = np.flatnonzero(values != host[first : first + len(values), c])
    if not len(moved):
        return
    breaks = np.flatnonzero(np.diff(moved) > gap + 1) if gap is not None else np.zeros(0, int)
    for low, high in zip(moved[np.r_[0, breaks + 1]], moved[np.r_[breaks, len(moved) - 1]] + 1):
        out[first + low : first + high, c] = values[low:high]
        mask[first + low : first + high, c] = True


def place(
    rng: np.random.Generator, host: np.ndarray, exemplar: Exemplar, seen: Channels,
    stretch: tuple[float, float] = STRETCH,
):  # fmt: skip
    """(first, length, level, unit): where a stretched exemplar goes, the level and the value of a unit there.

    Level and unit are the host's; those of all hosts where the exemplar was measured so: its size says nothing of a
    host's. stretch: least and most of the length over the exemplar's.
    """
    length = int(np.clip(round(len(exemplar.dev) * rng.uniform(*stretch)), 1, len(host)))
    first = int(rng.integers(len(host) - length + 1))
    level, scale, brief = local(host, np.zeros(host.shape, bool), first, first + length, seen)
    few = np.array([steps is not None for steps in seen.steps])  # a flag flips by one, however still its host
    ratio = np.where(few | brief | exemplar.alone, 1.0, np.clip(scale / exemplar.scale, *RATIO))
    return first, length, np.where(exemplar.alone, seen.level, level), ratio * exemplar.scale  # level, unit (C,)


def paste_one(
    rng: np.random.Generator, host: np.ndarray, exemplar: Exemplar, seen: Channels, severity: float,
    stretch: tuple[float, float] = STRETCH,
):  # fmt: skip
    """(window, mask, factor): the exemplar's deviation instead of the host's, on the exemplar's channels."""
    first, length, level, unit = place(rng, host, exemplar, seen, stretch)
    factor = float(rng.uniform(*SCALE)) * severity
    taper = fade(length, float(rng.uniform(*TAPER)))
    dev, marked = exemplar.stretched(length)
    out, mask = host.copy(), np.zeros(host.shape, bool)
    for c in np.flatnonzero(marked.any(0)):
        on = np.flatnonzero(marked[:, c])
        piece = slice(on[0], on[-1] + 1)
        under = host[first + piece.start : first + piece.stop, c]
        weight = taper[piece] if len(on) == length else fade(piece.stop - piece.start, TAPER[0])
        values = under + weight * (level[c] + factor * unit[c] * dev[piece, c] - under)
        write(host, first + piece.start, c, seen.tidy(values, under, c), out, mask)
    return out, mask, factor


# the taxonomy: f(rng, x, a) -> the span's new values; x (L,) the host's, a the signed amplitude


def spike(rng, x, a):
    """One to three short peaks."""
    out, width = x.copy(), max(1, int(rng.integers(1, max(2, len(x) // 8) + 1)))
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(x)))
        shape = np.maximum(0, 1 - np.abs(np.arange(len(x)) - at) / width)
        out = np.where(shape > 0, x + a * shape * rng.uniform(0.7, 1.0), out)
    return out


def level_shift(rng, x, a):
    """A platform."""
    return x + a


def trend(rng, x, a):
    """A ramp that ends in a fall back, or, run the other way, a jump that fades."""
    ramp = np.linspace(0, 1, len(x) + 1)[1:]
    return x + a * (ramp if rng.random() < 0.7 else ramp[::-1])


def noise(rng, x, a):
    """Variance: noise of half the amplitude's std."""
    return x + abs(a) / 2 * rng.standard_normal(len(x))


def flat_line(rng, x, a):
    """A stuck sensor: the first value, at times at the shifted level."""
    return np.full(len(x), x[0] + (a if rng.random() < 0.3 else 0.0))


def amplitude(rng, x, a):
    """Swings about the local median enlarged by the amplitude over their own size, or damped as much."""
    middle = np.median(x)
    swing = max(np.abs(x - middle).max(), 1e-12)
    gain = np.clip(abs(a) / swing, 1.0, 10.0)
    return middle + (x - middle) * (1 + gain if rng.random() < 0.7 else 1 / (1 + 2 * gain))


def frequency(rng, x, a):
    """The same values run 1.5 to 4 times as fast, to and fro, or as slow."""
    speed = np.exp(rng.uniform(np.log(1.5), np.log(4))) ** rng.choice([-1, 1])
    at = np.arange(len(x)) * speed
    last = max(len(x) - 1, 1)
    at = last - np.abs(at % (2 * last) - last)  # reflected at the ends
    return np.interp(at, np.arange(len(x)), x)


def reversal(rng, x, a):
    """The pattern back to front, or upside down."""
    return x[::-1].copy() if rng.random() < 0.5 else 2 * np.median(x) - x


TAXONOMY = {
    "spike": spike, "level_shift": level_shift, "trend": trend, "noise": noise, "flat_line": flat_line,
    "amplitude": amplitude, "frequency": frequency, "reversal": reversal,
}  # fmt: skip


def taxonomy_one(rng: np.random.Generator, host: np.ndarray, exemplar: Exemplar, seen: Channels, severity: float):
    """(window, mask, factor, name): a textbook change with the exemplar's channels, amplitudes and duration.

    Types are tried in random order until one moves a channel by LEAST robust units, or a flag or a state by half its
    width if that is less: a flat line on a flat host does not.
    """
    first, length, _, unit = place(rng, host, exemplar, seen)
    factor = float(rng.uniform(*SCALE)) * severity
    dev, marked = exemplar.stretched(length)
    strongest = np.take_along_axis(dev, np.abs(np.where(marked, dev, 0)).argmax(0)[None], axis=0)[0]  # (C,) signed
    size = np.where(np.abs(strongest) < LEAST, np.where(strongest < 0, -LEAST, LEAST), strongest)
    signed = factor * unit * size
    chosen = np.flatnonzero(marked.any(0))
    width = np.array([np.inf if steps is None or len(steps) < 2 else steps[-1] - steps[0] for steps in seen.steps])
    least = np.minimum(LEAST * unit, width / 2) * min(1.0, factor)
    for name in [*rng.permutation(list(TAXONOMY)), "level_shift"]:
        out, mask, enough = host.copy(), np.zeros(host.shape, bool), False
        for c in chosen:
            x = host[first : first + length, c]
            values = seen.tidy(TAXONOMY[name](rng, x, signed[c]), x, c)
            write(host, first, c, values, out, mask, gap=0 if name == "spike" else None)
            enough |= bool(np.abs(values - x).max() >= least[c])
        if enough:
            break
    return out, mask, factor, str(name)


def last_resort(host: np.ndarray, exemplar: Exemplar, seen: Channels) -> tuple[np.ndarray, np.ndarray]:
    """A step of CLEAR spreads, to where there is more room, on the exemplar's channels, where nothing else changes the
    host; to the value farthest from the host's in channels of few. A value that was never seen only where all of them
    are constant."""
    out, mask = host.copy(), np.zeros(host.shape, bool)
    middle = slice(len(host) // 2, min(len(host), len(host) // 2 + len(exemplar.dev)))
    chosen = np.flatnonzero(exemplar.marked.any(0))
    for c in chosen:
        own, steps = host[middle, c], seen.steps[c]
        if steps is not None:
            new = np.where(np.abs(own - steps[0]) > np.abs(own - steps[-1]), steps[0], steps[-1])
        else:
            places = seen.decimals[c]
            size = max(CLEAR * seen.unit[c], 0.0 if places is None else 10.0**-places)
            both = [seen.tidy(own + sign * size, own, c) for sign in (1, -1)]
            less, more = sorted(both, key=lambda values: np.abs(values - own).sum())
            new = np.where(more != own, more, less)
        write(host, middle.start, c, new, out, mask)
    for c in chosen if not mask.any() else ():
        up = host[middle, c] + CLEAR * seen.unit[c]
        write(host, middle.start, c, np.where(up != host[middle, c], up, np.nextafter(up, np.inf)), out, mask)
    return out, mask


def make(
    name: str, hosts: Records, support: Records, seeds: list[int], severity: float, seen: Channels | None = None
) -> Records:
    """Records of one of the two generators. seen: what the channels can take and are measured by, default hosts'."""
    usable = check_sets(hosts, support, need_mask=True)
    seen = seen or Channels.of(hosts, support, SeriesCodec.fit(hosts))
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        parent, at = usable[int(rng.integers(len(usable)))], int(rng.integers(len(hosts)))
        host = hosts.x[at]
        exemplar = Exemplar.draw(rng, support.x[parent], support.mask[parent], seen)
        one = paste_one if name == "paste" else taxonomy_one
        out, mask, factor, *what = one(rng, host, exemplar, seen, severity)
        if not mask.any():
            out, mask = last_resort(host, exemplar, seen)
        label = ":".join([name, *what, str(support.meta["id"].iloc[parent])])
        rows.append((out, mask, at, [parent], factor, label))
    x, masks, host, parents, factors, source = (list(column) for column in zip(*rows)) if rows else [[]] * 6
    meta = provenance(
        name, hosts, support, seeds, host=host, parents=parents, severity=factors, mask_source=source
    )
    time = None if hosts.time is None else [hosts.time[i].copy() for i in host]
    return Records("series", meta, x, masks, hosts.schema, time)


def paste(
    hosts: Records, support: Records, seeds: list[int], *, severity: float = 1.0, seen: Channels | None = None
) -> Records:
    """One normal window a seed with a support anomaly's deviation in it: scaled, stretched, tapered, somewhere in time.

    seen: what the channels can take and are measured by, where the hosts are some of the normals; default theirs.
    severity multiplies the drawn scale (SCALE). The mask spans, per channel, what changed. InputError without a parent.
    """
    return make("paste", hosts, support, seeds, severity, seen)


def taxonomy(hosts: Records, support: Records, seeds: list[int], *, severity: float = 1.0) -> Records:
    """One normal window a seed with a textbook anomaly (TAXONOMY) of a support anomaly's size, duration and channels.

    The mask_source names the type; the kind stays the parent's. InputError without a parent.
    """
    return make("taxonomy", hosts, support, seeds, severity)
