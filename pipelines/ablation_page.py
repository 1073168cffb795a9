"""The cells of ablate.yaml as a page of Markdown: what each changes, and which fidelity goes with gains."""

from __future__ import annotations

from pipelines import tables
from pipelines.markdown import signed, table

ABOUT = """Means over supports of the head metric. A cell changes what its name says, and nothing else; its change from
the base is paired by support, and no interval is corrected for how many cells there are. *Seconds* are of the stages
that a cell ran itself: the others it shares with the base."""


def page(found: dict) -> str:
    """Markdown of the cells that have run: a table a data set, then the correlations over all of them."""
    parts = []
    for name in dict.fromkeys(row["dataset"] for row in found["rows"]):
        own = [row for row in found["rows"] if row["dataset"] == name and row["status"] != "not run"]
        if not own:
            continue
        arms = list(dict.fromkeys(arm for row in own for arm in row["metrics"]))
        head = ["cell", *arms, *(f"{arm} - base's (95 %)" for arm in tables.CHANGES), "seconds"]
        parts.append(f"## {tables.inert(name)}\n\n{table(head, [line(row, arms) for row in own])}")
    gains = list(dict.fromkeys(c["gain"] for c in found["correlations"]))
    known = {(c["fidelity"], c["gain"]): c for c in found["correlations"] if c["rho"] is not None}
    measures = list(dict.fromkeys(measure for measure, _ in known))
    if measures:
        lines = [[m, *(signed(known.get((m, gain)), "rho") for gain in gains)] for m in measures]
        parts.append(f"## Fidelity and gain\n\n{table(['measure', *gains], lines)}")
    return "# Ablation\n\n" + ABOUT + "\n\n" + "\n\n".join(parts) + "\n"


def line(row: dict, arms: list[str]) -> list[str]:
    cell = row["cell"] if row["status"] == "done" else f"{row['cell']} ({row['status']})"
    means = (f"{row['metrics'][arm]:.3f}" if arm in row["metrics"] else "–" for arm in arms)
    gains = (signed(row["change"].get(arm)) for arm in tables.CHANGES)
    return [tables.inert(cell), *means, *gains, f"{row['seconds']:.0f}"]
