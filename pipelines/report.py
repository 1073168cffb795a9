"""Stage report: one self-contained page that says first whether generated anomalies helped, then what is behind it.

Reads metrics/<data set>.json, artifacts/<data set>/ (never its test store), decisions.json and, where it was run,
reports/ablation.json; writes reports/index.html and report.json beside it. What a data set has not run yet is said in a
line. The page loads nothing: its style and script are named by their hashes, pictures and records lie inside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from data.atomic import atomic_file
from data.errors import InputError
from pipelines import evidence, figures, findings, gallery, ledger, origin
from pipelines.filter import unused

LIMIT = 9_500_000  # bytes of the page; pictures and then galleries shrink until it fits under 10 MB
SIZES = ((112, 85), (96, 80), (80, 75), (64, 75), (48, 70), (40, 60), (32, 50))  # (picture side, WebP quality) in turn
CARDS = 2000  # on the page
SAMPLE = 24  # cards encoded to learn which size fits
SLOT = '<script type="application/json" id="data"></script>'
HERE = Path(__file__).parent

if TYPE_CHECKING:
    from jinja2 import Environment


def gather(name: str, modality: str, root: Path, *, each: int, most: int, limits: dict | None, ablated: list,
           decisions: dict[str, str]) -> dict:  # fmt: skip
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
        "findings": [str(finding) for finding in summary.get("findings") or []],
        "stale": len(set(decisions) - set(() if table is None else table["id"])),
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
            got = f"got {wrong!r:.60}; export it from the report again"
            raise InputError(f"{file}: {figures.plain(name)}: {rule}, {got}")
    return read


def embedded(value: object) -> str:
    """The value as JSON that may stand inside a script element: no `<`, `>`, `&` or line separator is left in it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def galleries(sections: list[dict], side: int, quality: int) -> list[dict]:
    """What the page's script draws, per data set."""
    made = []
    for s in sections:
        picked = s["picked"]
        shown = {name: [gallery.encoded(card, side, quality) for card in picked[name]] for name in ("cards", "real")}
        told = {"name": s["name"], "modality": s["modality"], "columns": picked["columns"], "judged": picked["judged"]}
        made.append(told | shown)
    return made


@cache
def world() -> tuple[Environment, dict]:
    """(the templates, what they share: the style and script and the hashes that the page's policy names them by)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    own = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    own.filters |= {"plain": figures.plain, "number": figures.number, "figure": evidence.told}
    parts = {name: (HERE / f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    named = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in parts.items()}
    return own, {name: Markup(text) for name, text in parts.items()} | {"hashes_of": named}


def render(sections: list[dict], **shared: object) -> str:
    """The page as HTML, but for the data of its script."""
    own, parts = world()
    return own.get_template("report.html.j2").render(sections=sections, listed=findings.LISTED, **parts, **shared)


def fitted(sections: list[dict], decisions: dict, **shared: object) -> tuple[str, list[dict]]:
    """(page, sections as shown): at the largest picture size, and then the largest share of the cards, below LIMIT."""

    def page(side: int, quality: int, bare: str) -> str:
        data = embedded({"decisions": decisions, "datasets": galleries(sections, side, quality)})
        return bare.replace(SLOT, SLOT.replace("><", f">{data}<"))

    bare = render(sections, **shared)
    counts = [len(s["picked"]["cards"]) for s in sections]
    samples = [s["picked"]["cards"][:: max(1, n // SAMPLE)] for s, n in zip(sections, counts)]
    for side, quality in SIZES:
        size = len(bare.encode()) + sum(
            n * len(embedded([gallery.encoded(card, side, quality) for card in own])) / max(len(own), 1)
            for own, n in zip(samples, counts)
        )
        if size < LIMIT and len((made := page(side, quality, bare)).encode()) <= LIMIT:
            return made, sections
    share = 0.9
    while len((made := page(*SIZES[-1], bare)).encode()) > LIMIT and any(s["picked"]["cards"] for s in sections):
        sections = [s | {"picked": gallery.first(s["picked"], share)} for s in sections]
        bare = render(sections, **shared)
        share = max(0.0, share - 0.1)
    return made, sections


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
                       ablated=ablated, decisions=decisions.get(name, {})) for name, modality in datasets.items()]
    settings = [root / name for name in ("params.yaml", "dvc.yaml", "constraints.txt", "decisions.json")]
    shared = {
        "command": command, "commands": origin.commands(root / "dvc.yaml", datasets), "ablation": ablation,
        "unused": unused(decisions, datasets),
        "packages": origin.packages(), "hashes": origin.hashes(root, settings),
    }  # fmt: skip
    page, sections = fitted(sections, decisions, **shared)
    told = shared | {"decisions": decisions, "datasets": {s["name"]: summed(s) for s in sections}}
    figures_told = json.dumps(told, indent=1, allow_nan=False) + "\n"
    for path, text in ((out, page), (out.with_name("report.json"), figures_told)):
        with atomic_file(path) as file:
            file.write_text(text, encoding="utf-8")
    return told


def summed(section: dict) -> dict:
    """What report.json says of a data set: the page's figures, without what is drawn."""
    keys = ("modality", "head", "gate", "audit", "exported", "best", "arms", "detectors", "counts", "copies",
            "fidelity", "feedback", "inputs", "quarantine", "quarantined", "hashes")  # fmt: skip
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
