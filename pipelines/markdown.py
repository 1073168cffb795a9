"""Tables and figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence, rows: Iterable[Sequence]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def signed(found: dict | None, middle: str = "mean") -> str:
    """'+0.012 (-0.003 to +0.027)' of {middle, "low", "high"}, or a dash where nothing is known."""
    if not found or found.get(middle) is None:
        return "–"
    bounds = f" ({found['low']:+.3f} to {found['high']:+.3f})" if found.get("low") is not None else ""
    return f"{found[middle]:+.3f}{bounds}"
