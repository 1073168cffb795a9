"""Series detectors: sub-windows are scored and their scores spread back over the steps they cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data.errors import InputError
from data.records import Records
from data.records.series import SeriesCodec
from detection.forests import Trees, balanced_weights, grow_balanced
from detection.rows import normals_of, training_weights, weights_of

WIDTH = 24  # most steps of a sub-window, unless set
DILATIONS = (1, 2, 4, 8)
TAPS = 9  # steps of a kernel
TOGETHER = 32  # records of a stack
PARTS = 9  # statistics of a channel in a sub-window
HIGH = 3  # taps of weight 2, the others have -1: each kernel sums to zero (sec. 3.2, arXiv:2012.08791)


def width_of(records: Records, width: int | None) -> int:
    """The sub-window length: as set, else the lesser of 24 and half the shortest record; 2 at the least."""
    if width is None:
        width = min(WIDTH, min(len(x) for x in records.x) // 2)
    return max(int(width), 2)


def positions(length: int, width: int, stride: int) -> np.ndarray:
    """First steps (S,) of sub-windows every `stride`, with one at the very end."""
    last = max(length - width, 0)
    return np.unique(np.r_[np.arange(0, last + 1, stride), last])


def cut(z: np.ndarray, at: np.ndarray, width: int) -> np.ndarray:
    """Sub-windows (.., S, width * C) of z (.., T, C); one shorter than `width` is lengthened by its last value."""
    if (lack := width - z.shape[-2]) > 0:
        z = np.concatenate([z, *[z[..., -1:, :]] * lack], axis=-2)
    found = np.moveaxis(sliding_window_view(z, width, axis=-2)[..., at, :, :], -1, -2)  # (.., S, width, C)
    return found.reshape(*z.shape[:-2], len(at), -1)


def spread_back(
    values: np.ndarray, at: np.ndarray, width: int, length: int, weight: np.ndarray | None = None
) -> np.ndarray:
    """Per timestamp (.., length) float32 the mean of the values (.., S) of the sub-windows covering it, weighted by
    `weight` (width,) where the timestamp lies in them. Every timestamp must be covered."""
    weight = np.ones(width) if weight is None else weight
    total, count = np.zeros((*values.shape[:-1], length + width)), np.zeros(length + width)
    for j, first in enumerate(at):
        total[..., first : first + width] += values[..., j, None] * weight
        count[first : first + width] += weight
    return (total[..., :length] / count[:length]).astype(np.float32)


def scaled(codec: SeriesCodec, records: Records) -> list[np.ndarray]:
    """The records as float64 (T, C) of about unit spread; lengths may differ."""
    lengths = np.array([len(x) for x in records.x])
    out: list[np.ndarray] = [np.empty(0)] * len(records)
    for length in np.unique(lengths):
        index = np.flatnonzero(lengths == length)
        for i, z in zip(index, codec.encode(records.take(index))[0]):
            out[i] = z.T
    return out


def stacked(call: Callable[[np.ndarray], np.ndarray], windows: list[np.ndarray]) -> list[np.ndarray]:
    """call((n, T, C)) -> (n, ..) of every window, given as stacks of one length, at most TOGETHER at once: the same as
    of each alone, only with less overhead."""
    out: list[np.ndarray] = [np.empty(0)] * len(windows)
    lengths = np.array([len(z) for z in windows])
    for length in np.unique(lengths):
        index = np.flatnonzero(lengths == length)
        for low in range(0, len(index), TOGETHER):
            some = index[low : low + TOGETHER]
            for i, found in zip(some, call(np.stack([windows[i] for i in some]))):
                out[i] = found
    return out


def peaks(maps: list[np.ndarray]) -> np.ndarray:
    """The highest score (N,) of every map: a window is as odd as its oddest timestamp."""
    return np.array([m.max() for m in maps], np.float32)


def bank_of(windows: list[np.ndarray], width: int, stride: int, most: int, seed: int) -> np.ndarray:
    """At most `most` sub-windows (n, width * C) of the windows, drawn by the seed."""
    every = [(i, at) for i, z in enumerate(windows) for at in positions(len(z), width, stride)]
    if len(every) > most:
        chosen = np.random.default_rng(seed).choice(len(every), most, replace=False)
        every = [every[i] for i in np.sort(chosen)]
    return np.concatenate([cut(windows[i], np.array([at]), width) for i, at in every])


def principal(bank: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and orthonormal directions (D, k) of the fewest components with at least `share` of the
    variance."""
    mean = bank.mean(0)
    values, directions = np.linalg.eigh(np.cov(bank - mean, rowvar=False, bias=True).reshape(len(mean), -1))
    values, directions = np.maximum(values[::-1], 0), directions[:, ::-1]
    total = values.sum()
    count = int(np.searchsorted(np.cumsum(values), share * total - 1e-9 * total) + 1) if total > 0 else 0
    return mean, np.ascontiguousarray(directions[:, :count])


def residual(rows: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What of rows (.., S, D) lies outside the subspace."""
    centred = rows - mean
    return centred - (centred @ basis) @ basis.T


class PCAResidual:
    """Distance of sub-windows to the linear subspace of normal ones, per element; needs no anomaly.

    width: steps of a sub-window. share: of the normal variance that the subspace keeps. bank: most
    sub-windows.
    """

    def __init__(self, *, width: int | None = None, share: float = 0.95, bank: int = 20_000):
        self.options = {"width": width, "share": share, "bank": bank}

    def fit(self, records: Records, *, seed: int) -> PCAResidual:
        normals = normals_of(records)
        self.codec, self.width = SeriesCodec.fit(normals), width_of(records, self.options["width"])
        windows = scaled(self.codec, normals)
        bank = bank_of(windows, self.width, 1, self.options["bank"], seed)
        self.mean, self.basis = principal(bank, self.options["share"])
        return self

    def score_map(self, records: Records) -> list[np.ndarray]:
        """(T,) float32 per record, in units of a channel's spread."""

        def of(z: np.ndarray) -> np.ndarray:
            at = positions(z.shape[1], self.width, 1)
            outside = residual(cut(z, at, self.width), self.mean, self.basis)
            return spread_back(np.sqrt((outside**2).mean(-1)), at, self.width, z.shape[1])

        return stacked(of, scaled(self.codec, records))

    def score(self, records: Records) -> np.ndarray:
        """The highest timestamp (N,)."""
        return peaks(self.score_map(records))

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        return {"mean": self.mean, "basis": self.basis}, {
            "options": self.options, "width": self.width, "codec": self.codec.state()}  # fmt: skip

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> PCAResidual:
        out = cls(**config["options"])
        out.codec, out.width = SeriesCodec.from_state(config["codec"]), config["width"]
        out.mean, out.basis = arrays["mean"], arrays["basis"]
        return out


class SubsequenceKNN:
    """Distance of sub-windows to their k-th nearest normal one, per element; needs no anomaly.

    width: steps of a sub-window. bank: most normal sub-windows kept, drawn by the seed.
    """

    def __init__(self, *, width: int | None = None, k: int = 3, bank: int = 5000):
        self.options = {"width": width, "k": k, "bank": bank}

    def fit(self, records: Records, *, seed: int) -> SubsequenceKNN:
        normals = normals_of(records)
        self.codec, self.width = SeriesCodec.fit(normals), width_of(records, self.options["width"])
        windows = scaled(self.codec, normals)
        self.bank = bank_of(windows, self.width, 1, self.options["bank"], seed).astype(np.float32)
        return self

    def _distances(self, rows: np.ndarray) -> np.ndarray:
        """(n, S) from rows (n, S, D): candidates by |a|^2 - 2ab + |b|^2, then their exact distances."""
        rows = rows.astype(np.float32)
        k = min(self.options["k"], len(self.bank))
        near = min(k + 3, len(self.bank))
        rough = (self.bank**2).sum(1) - 2 * (rows @ self.bank.T)
        found = np.argpartition(rough, near - 1, axis=-1)[..., :near] if near < len(self.bank) else np.broadcast_to(
            np.arange(near), (*rows.shape[:2], near))  # fmt: skip
        exact = np.stack([((self.bank[found[..., j]] - rows) ** 2).mean(-1) for j in range(near)], axis=-1)
        return np.sqrt(np.sort(exact, axis=-1)[..., k - 1])

    def score_map(self, records: Records) -> list[np.ndarray]:
        """(T,) float32 per record, in units of a channel's spread."""

        def of(z: np.ndarray) -> np.ndarray:
            at = positions(z.shape[1], self.width, max(1, self.width // 8))
            return spread_back(self._distances(cut(z, at, self.width)), at, self.width, z.shape[1])

        return stacked(of, scaled(self.codec, records))

    def score(self, records: Records) -> np.ndarray:
        """The highest timestamp (N,)."""
        return peaks(self.score_map(records))

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        config = {"options": self.options, "width": self.width, "codec": self.codec.state()}
        return {"bank": self.bank}, config

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> SubsequenceKNN:
        out = cls(**config["options"])
        out.codec, out.width = SeriesCodec.from_state(config["codec"]), config["width"]
        out.bank = np.asarray(arrays["bank"])
        return out


def draw_kernels(channels: int, count: int, seed: int) -> np.ndarray:
    """Random kernels (dilations, TAPS * channels, count) float64: three taps of 2 and six of -1, on 1 to all
    channels (their number uniform on a log scale, as in sec. 3.1, arXiv:1910.13051), each channel with a
    random sign."""
    rng = np.random.default_rng(seed)
    out = np.zeros((len(DILATIONS), TAPS, channels, count))
    for d in range(len(DILATIONS)):
        for k in range(count):
            taps = np.full(TAPS, -1.0)
            taps[rng.choice(TAPS, HIGH, replace=False)] = 2.0
            several = int(2 ** rng.uniform(0, np.log2(channels + 1)))
            chosen = rng.choice(channels, min(max(several, 1), channels), replace=False)
            signs = rng.choice([-1.0, 1.0], len(chosen)) if len(chosen) > 1 else np.ones(1)
            out[d, :, chosen, k] = (signs / np.sqrt(len(chosen)))[:, None] * taps
    return out.reshape(len(DILATIONS), TAPS * channels, count)


def convolve(z: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Responses (.., T, dilations * count) of z (.., T, C), its ends lengthened by their values."""
    reach, length = TAPS // 2, z.shape[-2]
    out = []
    for dilation, weights in zip(DILATIONS, kernels):
        step = np.arange(length)[:, None] + dilation * np.arange(-reach, reach + 1)
        out.append(z[..., np.clip(step, 0, length - 1), :].reshape(*z.shape[:-1], -1) @ weights)
    return np.concatenate(out, axis=-1)


class ConvForest:
    """The chance in [0, 1], by balanced trees, that sub-windows like those around a timestamp were anomalous.

    Features of a sub-window: maximum and share of positive responses of fixed random convolutions
    (MiniRocket, arXiv:2012.08791), level, spread, slope and jumps of every channel and over channels, and how
    far it lies from the subspace of normals. Half of the trees see all features, half only that distance and
    what is taken over channels: few anomalies do not tell which channels the next one takes. A sub-window's
    label is that of its middle half; where only its ends are anomalous it is left out.
    width, share: as in PCAResidual. kernels: per dilation. leaf: least sub-windows of a leaf. most: normal
    sub-windows trained on. real_share: least part of the anomalous weight on real anomalies.
    """

    def __init__(self, *, width: int | None = None, share: float = 0.95, kernels: int = 32, trees: int = 300,
                 leaf: int = 10, most: int = 20_000, real_share: float = 0.5):  # fmt: skip
        self.options = {"width": width, "share": share, "kernels": kernels, "trees": trees, "leaf": leaf,
                        "most": most, "real_share": real_share}  # fmt: skip

    def fit(self, records: Records, *, seed: int) -> ConvForest:
        weight = training_weights(records, 0.0)  # checks labels and weights before the work
        normals, options = normals_of(records), self.options
        self.codec, self.width = SeriesCodec.fit(normals), width_of(records, options["width"])
        windows = scaled(self.codec, normals)
        bank = bank_of(windows, self.width, max(1, self.width // 4), options["most"], seed)
        self.mean, self.basis = principal(bank, options["share"])
        self.kernels = draw_kernels(len(self.codec.channels), options["kernels"], seed)
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(windows))[:64]
        seen = np.concatenate([convolve(windows[i], self.kernels) for i in some])
        self.bias = np.diagonal(np.quantile(seen, rng.uniform(0.1, 0.9, seen.shape[1]), axis=0)).copy()
        x, label, owner = self._examples(records, weight, rng)
        synthetic, weight = records.meta["synthetic"].to_numpy(bool)[owner], weights_of(records)[owner]
        weight = balanced_weights(label, synthetic, weight, real_share=options["real_share"])
        grow = {"leaf": options["leaf"], "seed": seed}
        self.trees = grow_balanced(x, label, weight, trees=options["trees"] - options["trees"] // 2, **grow)
        if options["trees"] > 1:
            general = x.shape[1] - len(self.codec.channels) - 2 * PARTS  # where residuals and `across` begin
            fewer = grow_balanced(x[:, general:], label, weight, trees=options["trees"] // 2, **grow)
            self.trees = self.trees.joined(fewer, general)
        return self

    def _examples(
        self, records: Records, weight: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features (n, F), labels (n,) and the record (n,) of the sub-windows to train on."""
        label, owner, place = [], [], []
        quarter = self.width // 4
        for i in np.flatnonzero(weight > 0):
            odd = np.asarray(records.mask[i], bool).any(1)
            for j, at in enumerate(self._positions(len(odd))):
                first = 0 if at == 0 else at + quarter
                last = len(odd) if at + self.width >= len(odd) else at + self.width - quarter
                middle, whole = odd[first:last].any(), odd[at : at + self.width].any()
                if middle or not whole:
                    label.append(int(middle))
                    owner.append(i)
                    place.append(j)
        label, owner, place = np.array(label), np.array(owner), np.array(place)
        if not label.any():
            raise InputError("records: a supervised series detector needs masks that mark the anomalies, "
                             "got only empty ones; add masks or use an unsupervised detector")  # fmt: skip
        normal = np.flatnonzero(label == 0)
        dropped = rng.permutation(normal)[self.options["most"] :]
        kept = np.setdiff1d(np.arange(len(label)), dropped)
        label, owner, place = label[kept], owner[kept], place[kept]
        parts = []
        owners = np.unique(owner)
        for low in range(0, len(owners), TOGETHER):  # all features at once would not fit
            some = owners[low : low + TOGETHER]
            every = stacked(self._features, scaled(self.codec, records.take(some)))
            parts += [features[place[owner == i]] for i, features in zip(some, every)]
        return np.concatenate(parts), label, owner

    def _positions(self, length: int) -> np.ndarray:
        return positions(length, self.width, max(1, self.width // 4))

    def _features(self, z: np.ndarray) -> np.ndarray:
        """(n, S, F) float32 of windows z (n, T, C), each by itself: a batch cannot change a bit."""
        at, width = self._positions(z.shape[1]), self.width
        rows = cut(z, at, width)  # (n, S, w * C)
        sub = rows.reshape(*rows.shape[:2], width, -1)
        jump = np.abs(np.diff(sub, axis=2))
        time = np.linspace(-1, 1, width)
        outside = residual(rows, self.mean, self.basis).reshape(sub.shape)
        mean = sub.mean(2)
        slope = (sub * time[:, None]).sum(2) / (time**2).sum()
        distance, shift = np.sqrt((outside**2).mean(2)), mean - np.median(z, axis=1, keepdims=True)
        parts = [mean, sub.std(2), sub.min(2), sub.max(2), slope, jump.mean(2), jump.max(2), shift, distance]
        assert len(parts) == PARTS
        size = [np.abs(part) for part in parts]
        across = [part.max(2) for part in size] + [part.mean(2) for part in size]
        response = convolve(z, self.kernels)  # (n, T, K)
        inside = cut(response, at, width).reshape(*rows.shape[:2], width, -1)
        pooled = [inside.max(2), (inside > self.bias).mean(2)]
        columns = [*parts[:-1], *pooled, parts[-1], np.stack(across, axis=2)]
        return np.concatenate(columns, axis=2).astype(np.float32)

    def score_map(self, records: Records) -> list[np.ndarray]:
        """(T,) float32 per record; a sub-window counts most at its middle."""
        if not len(records):
            return []
        windows = scaled(self.codec, records)
        parts = stacked(self._features, windows)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        chance = np.split(self.trees.mean(np.concatenate(parts)), ends)
        weight = 1.0 + np.minimum(np.arange(self.width), np.arange(self.width)[::-1])
        return [spread_back(p, self._positions(len(z)), self.width, len(z), weight)
                for p, z in zip(chance, windows)]  # fmt: skip

    def score(self, records: Records) -> np.ndarray:
        """The highest timestamp (N,)."""
        return peaks(self.score_map(records))

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, forest = self.trees.state()
        own = {name: getattr(self, name) for name in ("mean", "basis", "kernels", "bias")}
        return arrays | own, {"options": self.options, "width": self.width, "forest": forest,
                              "codec": self.codec.state()}  # fmt: skip

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> ConvForest:
        out = cls(**config["options"])
        out.codec, out.width = SeriesCodec.from_state(config["codec"]), config["width"]
        for name in ("mean", "basis", "kernels", "bias"):
            setattr(out, name, np.asarray(arrays[name]))
        out.trees = Trees.from_state(arrays, config["forest"])
        return out
