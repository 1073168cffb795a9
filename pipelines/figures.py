"""Figures of the report as inline SVG and WebP data URIs: no plotting library, colours from the page's CSS.

Every chart is `markupsafe.Markup`; every name drawn is escaped here, so user-given text stays inert.
"""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH = 440  # of every chart in SVG units: text stays readable when a phone shrinks it to 330 px
CARD = 320  # of a strip of a series card
LABEL = 128  # room for the names left of the dots
POINTS = 240  # drawn per line at most
MARK = (255, 82, 54)  # RGB of masks laid over pictures
GAIN = 2  # times that differences are brightened
LOSSLESS = 101  # OpenCV's WebP quality for no loss at all


def plain(text: object, limit: int = 80) -> str:
    """The text as one short line: control and direction-changing characters shown as codes, cut at `limit`."""
    shown = "".join(
        c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else f"\\u{ord(c):04x}"
        for c in str(text)[: 4 * limit]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def number(value: float | None, digits: int = 3) -> str:
    """`0.031`, `12,000`, `1.2e-07`, or a dash for a missing or infinite value."""
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e9 and not isinstance(value, float):
        return f"{value:,}"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{max(digits - 1, 1)}g}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """log10 of 1, 2 and 5 times the powers of ten inside 10**[low, high]; of the powers alone over many decades."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    marks = [k + math.log10(m) for k in powers for m in ((1, 2, 5) if high - low < 2.5 else (1,))]
    return [m for m in marks if low - 1e-9 <= m <= high + 1e-9]


def _text(x: float, y: float, text: object, kind: str = "", anchor: str = "start", limit: int = 80) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(plain(text, limit))}</text>'


def _svg(body: list[str], height: float, title: str, width: float = WIDTH, kind: str = "") -> Markup:
    label = escape(plain(title, 200))
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{''.join(body)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(xs: np.ndarray, ys: np.ndarray, kind: str) -> str:
    """An SVG path through the points, broken where a value is missing; empty without two points."""
    parts, pen = [], "M"
    for x, y in zip(xs, ys):
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return f'<path d="{"".join(parts)}" class="{kind}"/>' if parts else ""


def thin(
    xs: np.ndarray, ys: np.ndarray, points: int = POINTS, how: str = "mean"
) -> tuple[np.ndarray, np.ndarray]:
    """The curve in at most `points` points: bin means ("mean"), every n-th ("pick") or bin extremes ("peaks")."""
    xs, ys = np.asarray(xs, float), np.asarray(ys, float)
    if len(xs) <= points:
        return xs, ys
    if how == "pick":
        keep = np.unique(np.linspace(0, len(xs) - 1, points).round().astype(int))
        return xs[keep], ys[keep]
    if how == "mean":
        bins = np.array_split(np.arange(len(xs)), points)
        return np.array([xs[b].mean() for b in bins]), np.array([ys[b].mean() for b in bins])
    keep = []
    for b in np.array_split(np.arange(len(xs)), points // 2):
        finite = b[np.isfinite(ys[b])]
        keep += sorted({finite[ys[finite].argmin()], finite[ys[finite].argmax()]}) if len(finite) else [b[0]]
    return xs[keep], ys[keep]


def intervals(
    title: str,
    rows: Sequence[dict],
    *,
    reference: float | None = None,
    highlight: str = "",
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Markup:
    """Dot-and-interval chart: a row per {"name", "mean", "low", "high", "values"}, each seed a small tick.

    `reference` draws a dashed upright; intervals that leave `bounds`, the metric's own range, end there in an arrow.
    """
    finite = [
        v
        for row in rows
        for v in (row["mean"], *row["values"], row["low"], row["high"])
        if v is not None and math.isfinite(v)
    ] + ([] if reference is None else [reference])
    if not finite:
        return Markup("")
    low, high = min(finite), max(finite)
    if bounds and all(bounds[0] <= r["mean"] <= bounds[1] for r in rows if r["mean"] is not None):
        low, high = max(low, bounds[0]), min(high, bounds[1])
    pad = (high - low) * 0.06 or 0.05
    low, high = low - pad, high + pad
    step, top, left, right = 26, 10, LABEL, WIDTH - 58
    foot = top + step * len(rows)

    def at(v: float) -> float:
        return left + (min(max(v, low), high) - low) / (high - low) * (right - left)

    body = []
    for t in ticks(low, high):
        body += [
            _line(at(t), top, at(t), foot, "grid"),
            _text(at(t), foot + 16, f"{t:g}".replace("-", "−"), "tick", "middle"),
        ]
    if reference is not None:
        body.append(_line(at(reference), top - 4, at(reference), foot, "reference"))
    for i, row in enumerate(rows):
        y, kind = top + step * (i + 0.5), "hot" if row["name"] == highlight else "cool"
        body.append(_text(left - 10, y + 4, row["name"], f"name {kind}", "end", 17))
        if row["mean"] is None:
            body.append(_text(left, y + 4, "no value", "tick"))
            continue
        if row["low"] is not None and row["high"] is not None:
            body.append(_line(at(row["low"]), y, at(row["high"]), y, f"whisker {kind}"))
            body += [
                f'<path d="M{at(v) - s * 5:.1f} {y - 4:.1f}L{at(v):.1f} {y:.1f}L{at(v) - s * 5:.1f} {y + 4:.1f}" '
                f'class="arrow {kind}"/>'
                for v, s in ((row["low"], -1), (row["high"], 1))
                if not low <= v <= high
            ]
        body += [
            _line(at(v), y + 5, at(v), y + 9, "seed")
            for v in row["values"]
            if v is not None and math.isfinite(v)
        ]
        body.append(f'<circle cx="{at(row["mean"]):.1f}" cy="{y:.1f}" r="4.5" class="dot {kind}"/>')
        body.append(_text(WIDTH, y + 4, number(row["mean"]), f"value {kind}", "end"))
    return _svg(body, foot + 24, title, kind="chart")


def funnel(title: str, start: int, steps: Sequence[tuple[str, int]]) -> Markup:
    """Bars of what is left after every gate (name, lost), from `start` records on; what a gate took is outlined."""
    if not start:
        return Markup("")
    step, left, right, rest = 26, 160, WIDTH - 96, start
    rows = [("generated", 0), *steps, ("kept", 0)]
    body = []
    for i, (name, lost) in enumerate(rows):
        y, rest, last = 4 + step * i, rest - lost, i == len(rows) - 1
        scale = (right - left) / start
        kept, gone = scale * rest, scale * lost
        kind = "hot" if last else "cool"
        body += [
            _text(left - 10, y + 15, name, f"name {kind}", "end", 21),
            f'<rect x="{left}" y="{y + 3}" width="{max(kept, 1):.1f}" height="16" class="bar {kind}"/>',
            f'<rect x="{left + kept:.1f}" y="{y + 3}" width="{gone:.1f}" height="16" class="lost"/>' if lost else "",
            _text(left + kept + gone + 8, y + 15, f"{rest:,}" + (f" (−{lost:,})" if lost else ""), "value"),
        ]
    return _svg(body, 8 + step * len(rows), title, kind="chart")


def ridges(
    title: str, rows: Sequence[tuple[str, np.ndarray]], edges: np.ndarray, marks: Sequence[tuple[float, str]],
    uprights: Sequence[tuple[float, str]] = (), *, x: str = "",
) -> Markup:  # fmt: skip
    """One histogram a row (name, values), on shared bins, each to its own height; its count stands beside it.

    marks: (position, label) of the axis; uprights: (position, label) of dashed lines through all rows.
    """
    if not rows:
        return Markup("")
    strip, top, left, right = 40, 24, LABEL + 32, WIDTH - 44
    foot = top + strip * len(rows)

    def at(v: float) -> float:
        return left + (min(max(v, edges[0]), edges[-1]) - edges[0]) / (edges[-1] - edges[0]) * (right - left)

    body = []
    for v, label in marks:
        body += [_line(at(v), top, at(v), foot, "grid"), _text(at(v), foot + 16, label, "tick", "middle")]
    for i, (name, values) in enumerate(rows):
        base, count = top + strip * (i + 1), len(values)
        heights = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        kind = "cool" if name.startswith("real") else "hot"
        body += [
            f'<rect x="{at(a):.1f}" y="{base - h:.1f}" width="{max(at(b) - at(a) - 0.5, 0.5):.1f}" height="{h:.1f}" '
            f'class="bar {kind}"/>'
            for a, b, h in zip(edges[:-1], edges[1:], (strip - 8) * heights / max(int(heights.max()), 1))
            if h
        ]
        body += [
            _line(left, base, right, base, "base"),
            _text(left - 10, base - 8, name, f"name {kind}", "end", 24),
            _text(WIDTH, base - 8, f"{count:,}", "value", "end"),
        ]
    for i, (v, label) in enumerate(uprights):
        body += [_line(at(v), top - 4, at(v), foot, "reference"),
                 _text(at(v) + (4 if i else -4), top - 9, label, "tick", "start" if i else "end")]  # fmt: skip
    body.append(_text(right, foot + 32, x, "axis", "end"))
    return _svg(body, foot + 38, title, kind="chart")


def lines(
    title: str,
    curves: Sequence[tuple[str, np.ndarray, np.ndarray]],
    *,
    x: str,
    y: str,
    highlight: str | None = None,
    log: bool = False,
    domain: tuple[float, float, float, float] | None = None,
    width: float = WIDTH,
    height: float = 240,
    how: str = "mean",
    bands: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = (),
) -> Markup:
    """Line chart of (name, xs, ys) curves; those named `highlight` (None: all) in the accent, the rest faint behind.

    `log` draws log10 y where every value is positive; `domain` (x0, x1, y0, y1) fixes the axes; bands (name, xs, low,
    high) are drawn as whiskers on the highlighted curves.
    """
    curves = [(name, *thin(xs, ys, how=how)) for name, xs, ys in curves]
    values = np.concatenate([ys[np.isfinite(ys)] for _, _, ys in curves] or [np.zeros(0)])
    if not len(values):
        return Markup("")
    log = log and bool((values > 0).all())
    if domain is None:
        across = np.concatenate([xs for _, xs, _ in curves])
        domain = (float(across.min()), float(across.max()), float(values.min()), float(values.max()))
    x0, x1, y0, y1 = domain
    if log:
        y0, y1 = math.log10(y0), math.log10(y1)
        curves = [(name, xs, np.log10(ys)) for name, xs, ys in curves]
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 0.1)
    left, right, top, foot = 46, width - 10, 22, height - 38
    body = [_text(0, 12, y + (" (log scale)" if log else ""), "axis")]
    for t in ticks(x0, x1):
        px = left + (t - x0) / (x1 - x0) * (right - left)
        body.append(_text(px, foot + 16, f"{t:g}", "tick", "middle"))
    for t in decades(y0, y1) if log else ticks(y0, y1):
        py = foot - (t - y0) / (y1 - y0) * (foot - top)
        body += [
            _line(left, py, right, py, "grid"),
            _text(left - 8, py + 4, f"{10**t:.3g}" if log else f"{t:g}", "tick", "end"),
        ]
    body.append(_text(right, foot + 34, x, "axis", "end"))
    for faint in (True, False):
        for name, xs, ys in curves:
            if (highlight is not None and name != highlight) == faint:
                body.append(
                    path(
                        left + (xs - x0) / (x1 - x0) * (right - left),
                        foot - (ys - y0) / (y1 - y0) * (foot - top),
                        "faint" if faint else "curve",
                    )
                )
    for name, xs, low, high in bands:
        for v, bottom, over in zip(xs, low, high):
            if (highlight is None or name == highlight) and math.isfinite(bottom) and math.isfinite(over):
                px, ends = left + (v - x0) / (x1 - x0) * (right - left), np.clip([bottom, over], y0, y1)
                py = foot - (ends - y0) / (y1 - y0) * (foot - top)
                body.append(_line(px, py[0], px, py[1], "whisker hot"))
    return _svg(body, height, title, width, "chart")


def eight_bit(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The image as uint8; deeper ones by the 0.5 and 99.5 percentiles of `like`, the scale all panels share."""
    if image.dtype == np.uint8:
        return image
    low, high = np.percentile(like, (0.5, 99.5))
    return (np.clip((image - low) / max(high - low, 1e-9), 0, 1) * 255).round().astype(np.uint8)


def window(mask: np.ndarray, least: int = 64) -> tuple[slice, slice]:
    """The part of the picture to show: a square twice the marked box (at least `least` pixels), inside the picture."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    side = max(least, 2 * int(max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1))
    parts = []
    for marked, length in ((rows, mask.shape[0]), (cols, mask.shape[1])):
        start = min(max(int(marked[0] + marked[-1] + 1 - side) // 2, 0), max(length - side, 0))
        parts.append(slice(start, min(start + side, length)))
    return parts[0], parts[1]


def veil(mask: np.ndarray) -> np.ndarray:
    """The mask as a picture to lay over another, (H, W, 4) RGBA: tinted inside, its rim opaque, clear elsewhere."""
    import cv2

    out = np.zeros((*mask.shape, 4), np.uint8)
    rim = mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) == 0)
    out[mask] = (*MARK, 36)
    out[rim] = (*MARK, 255)
    return out


def difference(image: np.ndarray, host: np.ndarray) -> np.ndarray:
    """GAIN times the largest difference over channels of two uint8 pictures, (H, W) uint8; 0 where they are equal."""
    apart = np.abs(image.astype(np.int16) - host.astype(np.int16))
    return np.minimum(GAIN * (apart if apart.ndim == 2 else apart.max(2)), 255).astype(np.uint8)


def shrink(image: np.ndarray, side: int, *, marks: bool = False) -> np.ndarray:
    """The picture with its longer side at most `side`, averaged down (masks: any marked pixel of a cell counts)."""
    import cv2

    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    if marks:
        return (cv2.resize((image > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0).astype(
            np.uint8
        )
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def webp(image: np.ndarray, quality: int = LOSSLESS) -> str:
    """A WebP data URI of a uint8 picture: (H, W), RGB (H, W, 3) or RGBA (H, W, 4); quality 1..100, above lossless."""
    import cv2

    swapped = image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(".webp", np.ascontiguousarray(swapped), [cv2.IMWRITE_WEBP_QUALITY, quality])
    assert done
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode()
