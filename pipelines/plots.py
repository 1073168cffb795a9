"""Plots that stand alone as SVG files: fidelity against gain, and an arm's metric over the number of labels."""

from __future__ import annotations

from markupsafe import escape

from pipelines.figures import number, plain, ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, FOOT = 480, 330, 62, 130, 44, 46
COLOURS = ("#0b6e99", "#d9480f", "#5c940d", "#862e9c", "#c2255c", "#495057", "#e67700", "#087f5b", "#364fc7", "#a61e4d",
           "#0ca678", "#846358", "#5f3dc4", "#2b8a3e")  # fmt: skip
STYLE = "font:12px system-ui,sans-serif"


def scatter(points: list[dict], told: dict) -> str:
    """A dot a cell, {"dataset", "cell", "x", "y"}, a colour a data set; told: the correlation, written above."""
    title = f"{told['gain']} against {told['fidelity']}"
    if told["rho"] is None:
        said = f"{told['n']} cells: too few, or nothing varies"
    else:
        interval = f"{told['low']:+.2f} to {told['high']:+.2f}"
        said = f"Spearman {told['rho']:+.2f} (95 % bootstrap {interval}), {told['n']} cells"
    x, y, body = frame([p["x"] for p in points], [p["y"] for p in points], told["fidelity"], "gain")
    names = list(dict.fromkeys(p["dataset"] for p in points))
    for p in points:
        label = f"{p['dataset']} {p['cell']}: {number(p['x'])}, {number(p['y'])}"
        body.append(f'<circle cx="{x(p["x"]):.1f}" cy="{y(p["y"]):.1f}" r="4" fill="{colour(names, p["dataset"])}" '
                    f'fill-opacity=".75"><title>{safe(label)}</title></circle>')  # fmt: skip
    return page(title, said, body + legend(names))


def curves(rows: list[dict], dataset: str) -> str:
    """A line an arm over k, {"arm", "k", "mean", "low", "high"}, with its intervals."""
    values = [v for r in rows for v in (r["mean"], r["low"], r["high"]) if v is not None]
    x, y, body = frame([r["k"] for r in rows], values, "labelled anomalies", "metric")
    names = list(dict.fromkeys(r["arm"] for r in rows))
    for i, name in enumerate(names):
        own = sorted((r for r in rows if r["arm"] == name), key=lambda r: r["k"])
        at = [(x(r["k"]) + 2 * (i - len(names) / 2), r) for r in own]  # side by side
        line = " ".join(f"{px:.1f},{y(r['mean']):.1f}" for px, r in at)
        paint = colour(names, name)
        body.append(f'<polyline points="{line}" fill="none" stroke="{paint}" stroke-width="1.5"/>')
        for px, r in at:
            if r["low"] is not None and r["high"] is not None:
                body.append(stroke(px, y(r["low"]), px, y(r["high"]), paint))
            label = safe(f"{name}, {r['k']} labels: {number(r['mean'])}")
            body.append(f'<circle cx="{px:.1f}" cy="{y(r["mean"]):.1f}" r="3" fill="{paint}">'
                        f"<title>{label}</title></circle>")  # fmt: skip
    said = "means and 95 % intervals over supports"
    return page(f"{dataset}: metric over labelled anomalies", said, body + legend(names))


def frame(xs: list[float], ys: list[float], across: str, up: str):
    """(x, y, body): functions from values to pixels, and the axes drawn."""
    (x0, x1), (y0, y1) = padded(xs), padded(ys)

    def x(value: float) -> float:
        return LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - FOOT - (value - y0) / (y1 - y0) * (HEIGHT - FOOT - TOP)

    body = []
    for t in ticks(x0, x1):
        body += [stroke(x(t), TOP, x(t), HEIGHT - FOOT, "#e9ecef"), text(x(t), HEIGHT - FOOT + 16, f"{t:g}", "middle")]
    for t in ticks(y0, y1):
        paint = "#868e96" if t == 0 else "#e9ecef"
        body += [stroke(LEFT, y(t), WIDTH - RIGHT, y(t), paint), text(LEFT - 6, y(t) + 4, f"{t:g}", "end")]
    return x, y, [*body, text(WIDTH - RIGHT, HEIGHT - 12, across, "end"), text(4, TOP - 8, up)]


def padded(values: list[float]) -> tuple[float, float]:
    """The range of the values with some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def legend(names: list[str]) -> list[str]:
    out = []
    for i, name in enumerate(names):
        top = TOP + 8 + 18 * i
        out.append(f'<circle cx="{WIDTH - RIGHT + 14}" cy="{top}" r="4" fill="{colour(names, name)}"/>')
        out.append(text(WIDTH - RIGHT + 24, top + 4, plain(name, 15)))
    return out


def colour(names: list[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def stroke(x1: float, y1: float, x2: float, y2: float, paint: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{paint}"/>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe(words)}</text>'


def safe(words: str) -> str:
    return str(escape(plain(words, 120)))


def page(title: str, said: str, body: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="{STYLE}">'
        f'<title>{safe(title)}</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="4" y="16" font-weight="600">{safe(title)}</text>'
        f'<text x="{WIDTH - 4}" y="32" text-anchor="end" fill="#495057">{safe(said)}</text>{"".join(body)}</svg>\n'
    )
