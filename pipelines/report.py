"""Stage report: one self-contained page that says first whether generated anomalies helped, then what is behind it.

Reads metrics/<data set>.json, artifacts/<data set>/ (never its test store), decisions.json and, where it was run,
reports/ablation.json; writes reports/index.html and report.json beside it. What a data set has not run yet is said in a
line. The page loads nothing: its own style and script are named by their hashes, and pictures and records lie inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from data.errors import InputError
from pipelines import evidence, figures, findings, gallery, ledger, origin
from pipelines.work import atomic_file

LIMIT = 9_500_000  # bytes of the page; pictures and then galleries shrink until it fits under 10 MB
SIZES = ((112, 85), (96, 80), (80, 75), (64, 75), (48, 70), (40, 60), (32, 50))  # (picture side, WebP quality) in turn
CARDS = 2000  # on the page
SAMPLE = 24  # cards encoded to learn which size fits
HERE = Path(__file__).parent


def gather(name: str, modality: str, root: Path, *, each: int, most: int, limits: dict | None, ablated: list) -> dict:
    """Everything the page says about one data set; nothing is required to exist."""
    folder, file = root / "artifacts" / name, root / "metrics" / f"{name}.json"
    rounds = [r for r in folder.glob("r*") if r.is_dir() and r.name[1:].isdigit()]
    rounds.sort(key=lambda r: int(r.name[1:]))
    summary = findings.read_json(folder / "summary.json") or {}
    found = findings.measured(findings.read_json(file))
    arm = found["head"]["arm"] if found["head"] else ""
    table = ledger.read(rounds)
    counts = ledger.counted(rounds, table, found["counts"])
    left_out = [{"item": q.get("item", ""), "reason": q.get("reason", "")} for q in summary.get("quarantine") or []]
    made = ("gate.json", "audit.json", "fidelity.json", "splits.json", "base", "adapters", "training")
    traced = [*(folder / name for name in made), *(r / "kept" for r in rounds), file]
    splits = findings.read_json(folder / "splits.json")
    return found | {
        "name": name,
        "modality": modality,
        "run": folder.is_dir(),
        "gate": evidence.gate(folder),
        "audit": evidence.audit(folder),
        "exported": evidence.exported(folder),
        "counts": counts,
        "funnel": figures.funnel(f"records of {name} left after every gate", counts["generated"] or 0, counts["steps"]),
        "scores": ledger.histograms(name, folder / "judges", table),
        "copies": ledger.copies(table, limits or {}),
        "fidelity": evidence.fidelity(folder),
        "feedback": ledger.feedback(rounds, table, folder / "judges"),
        "efficiency": evidence.efficiency(ablated, name),
        "prepared": bool(summary),
        "inputs": findings.flat(summary.get("counts") or {})[: findings.LISTED],
        "quarantine": left_out[: findings.LISTED],
        "quarantined": len(left_out),
        "losses": findings.losses(folder),
        "curves": findings.precision_recall(folder / "evaluation" / "pr.csv", arm),
        "picked": gallery.pick(folder, rounds, table, splits, each=each, most=most, limits=limits),
        "hashes": origin.hashes(root, traced),
    }


def decided(file: Path) -> dict[str, dict[str, str]]:
    """decisions.json, {data set: {record id: "accept" | "reject"}}, empty without it; InputError where it is not so."""
    read = findings.read_json(file) or {}
    for name, own in read.items():
        wrong = own if not isinstance(own, dict) else [v for v in own.values() if v not in ("accept", "reject")]
        if wrong:
            rule = "must map record ids to accept or reject"
            raise InputError(f"{file}: {figures.plain(name)}: {rule}, got {wrong!r:.60}; export it from the report again")
    return read


def embedded(value: object) -> str:
    """The value as JSON that may stand inside a script element: no `<`, `>`, `&` or line separator is left in it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def galleries(sections: list[dict], side: int, quality: int, share: float = 1.0) -> list[dict]:
    """What the page's script draws, per data set; of the cards only the first `share`."""
    made = []
    for s in sections:
        picked = s["picked"]
        cards = picked["cards"][: round(share * len(picked["cards"]))]
        near = {card["nearest"] for card in cards}
        pool = [card for card in picked["real"] if card["shown"] or card["id"] in near]
        shown = [[gallery.encoded(card, side, quality) for card in own] for own in (cards, pool)]
        made.append({
            "name": s["name"], "modality": s["modality"], "columns": picked["columns"], "total": picked["total"],
            "judged": picked["judged"], "cards": shown[0], "real": shown[1],
        })  # fmt: skip
    return made


def render(sections: list[dict], data: dict, **shared: object) -> str:
    """The page as HTML: sections drawn here, `data` (galleries and decisions) by its script."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    world = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    world.filters |= {"plain": figures.plain, "number": figures.number, "figure": evidence.told}
    parts = {name: (HERE / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    named = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in parts.items()}
    return world.get_template("report.html.j2").render(
        sections=sections, listed=findings.LISTED, data=Markup(embedded(data)), hashes_of=named,  # noqa: S704
        **{name: Markup(text) for name, text in parts.items()}, **shared)  # fmt: skip


def fitted(sections: list[dict], decisions: dict, **shared: object) -> str:
    """The page at the largest picture size, and then the largest share of the cards, that stays below LIMIT."""

    def page(side: int, quality: int, share: float) -> str:
        data = {"decisions": decisions, "datasets": galleries(sections, side, quality, share), "side": side}
        return render(sections, data, **shared)

    bare, counts = len(page(*SIZES[-1], 0.0).encode()), [len(s["picked"]["cards"]) for s in sections]
    samples = [s["picked"]["cards"][:: max(1, n // SAMPLE)] for s, n in zip(sections, counts)]
    for side, quality in SIZES:
        size = bare + sum(len(embedded([gallery.encoded(c, side, quality) for c in own])) / max(len(own), 1) * n
                          for own, n in zip(samples, counts))  # fmt: skip
        if size < LIMIT or (side, quality) == SIZES[-1]:
            made = page(side, quality, min(1.0, 0.98 * max(LIMIT - bare, 0) / max(size - bare, 1)))
            if len(made.encode()) <= LIMIT:
                return made
    share = 0.5
    while len(made.encode()) > LIMIT and share > 1e-4:
        made, share = page(*SIZES[-1], share), share / 2
    return made


def main(out: Path, datasets: dict[str, str], root: Path = Path("."), *, command: str = "dvc repro", each: int = 12,
         limits: dict[str, dict[str, dict]] | None = None) -> dict:  # fmt: skip
    """The report's figures, also written to report.json beside the page `out`.

    datasets: {name: modality}; root: where artifacts/ and metrics/ lie; each: records shown of every kind, reason and
    round; limits: {name: {"r1": settings of filter}}, for the borderline.
    """
    out, root = Path(out), Path(root)
    ablation, decisions = evidence.ablation(root), decided(root / "decisions.json")
    ablated = ablation["label_efficiency"] if ablation else []
    sections = [gather(name, modality, root, each=each, most=CARDS // len(datasets), limits=(limits or {}).get(name),
                       ablated=ablated) for name, modality in datasets.items()]  # fmt: skip
    settings = [root / name for name in ("params.yaml", "dvc.yaml", "constraints.txt", "decisions.json")]
    shared = {
        "command": command, "commands": origin.commands(root / "dvc.yaml", datasets), "ablation": ablation,
        "packages": origin.packages(), "hashes": origin.hashes(root, settings),
    }  # fmt: skip
    page = fitted(sections, decisions, **shared)
    told = shared | {"decisions": decisions, "datasets": {s["name"]: summed(s) for s in sections}}
    figures_told = json.dumps(told, indent=1, allow_nan=False) + "\n"
    for path, text in ((out, page), (out.with_name("report.json"), figures_told)):
        with atomic_file(path) as file:
            file.write_text(text, encoding="utf-8")
    return told


def summed(section: dict) -> dict:
    """What report.json says of a data set: the page's figures, without what is drawn."""
    keys = ("modality", "head", "gate", "audit", "exported", "best", "arms", "detectors", "counts", "copies", "fidelity",
            "feedback", "inputs", "quarantine", "quarantined", "hashes")  # fmt: skip
    picked = section["picked"]
    return {key: section[key] for key in keys} | {
        "scores": section["scores"]["rows"],
        "records": [gallery.told(card) for card in picked["cards"]],
        "real": [gallery.told(card) for card in picked["real"]],
    }


if __name__ == "__main__":
    from pipelines.config import ROUNDS
    from pipelines.stage import Run, stage

    def call(run: Run) -> dict:
        """Every data set of params.yaml on one page."""
        datasets = {name: dataset.modality for name, dataset in run.params.datasets.items()}
        limits = {name: {f"r{r}": run.params.section("filter", modality, r).model_dump(by_alias=True) for r in ROUNDS}
                  for name, modality in datasets.items()}  # fmt: skip
        told = main(run.paths.report, datasets, each=run.settings.examples, limits=limits)
        return {name: found["head"]["outcome"] for name, found in told["datasets"].items() if found["head"]}

    stage(call, section="report")
