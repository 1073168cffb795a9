"""Stage report: one self-contained page that says first whether generated anomalies helped, then what is behind it.

Reads metrics/<data set>.json and artifacts/<data set>/ (never its test store); writes reports/index.html and
report.json beside it. Whatever a data set has not run yet is said in a line. The page loads nothing and runs no script.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pipelines import figures, findings, gallery
from pipelines.work import atomic_file, manifest, sha256

LIMIT = 9_500_000  # bytes of the page; galleries shrink until it fits under 10 MB
SIZES = ((128, 12), (96, 12), (64, 8), (48, 4), (32, 1), (32, 0))  # (picture side, cards per group) tried in turn
BARS = 16
GROUPS = ("real", "accepted", "rejected", "unjudged")
PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "safetensors", "datasets", "pyarrow", "numpy", "pandas",
    "scikit-learn", "scikit-image", "albumentations", "lightgbm", "opencv-python-headless", "dvc", "jinja2",
)  # fmt: skip


def hashes(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """{path under root: SHA-256 of the file, or of the names and hashes of a folder's files} of those that exist."""
    found = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_file():
            found[name] = sha256(path)
        elif path.is_dir():
            listed = "".join(f"{digest}  {file}\n" for file, digest in manifest(path).items())
            found[name] = hashlib.sha256(listed.encode()).hexdigest()
    return found


def versions() -> dict[str, str]:
    """Python's and the installed packages' versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gather(name: str, modality: str, root: Path, cards: int) -> dict:
    """Everything the page says about one data set; nothing is required to exist."""
    folder, file = root / "artifacts" / name, root / "metrics" / f"{name}.json"
    rounds = [r for r in folder.glob("r*") if r.is_dir() and r.name[1:].isdigit()]
    rounds.sort(key=lambda r: int(r.name[1:]))
    summary = findings.read_json(folder / "summary.json") or {}
    found = findings.measured(findings.read_json(file))
    arm = found["head"]["arm"] if found["head"] else ""
    counts = findings.counted(rounds, found["counts"])
    bars = list(counts["reasons"].items())[:BARS]
    left_out = [{"item": q.get("item", ""), "reason": q.get("reason", "")} for q in summary.get("quarantine") or []]
    traced = [folder / "splits.json", folder / "base", folder / "adapters", *(r / "kept" for r in rounds), file]
    return found | {
        "name": name,
        "modality": modality,
        "run": folder.is_dir(),
        "counts": counts,
        "reasons": figures.bars(f"records of {name} by verdict", bars, highlight="kept"),
        "prepared": bool(summary),
        "inputs": findings.flat(summary.get("counts") or {})[: findings.LISTED],
        "quarantine": left_out[: findings.LISTED],
        "quarantined": len(left_out),
        "losses": findings.losses(folder),
        "curves": findings.precision_recall(folder / "evaluation" / "pr.csv", arm),
        "picked": gallery.pick(folder, rounds, findings.read_json(folder / "splits.json"), cards),
        "hashes": hashes(root, traced),
    }


def render(sections: list[dict], side: int, cards: int, **shared: object) -> str:
    """The page as HTML, pictures at most `side` pixels, at most `cards` cards per group."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    world = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    world.filters |= {"plain": figures.plain, "number": figures.number}
    def shown(section: dict) -> dict:
        return {group: gallery.cards(section["picked"], group, side)[:cards] for group in GROUPS}

    told = [section | {"cards": shown(section)} for section in sections]
    return world.get_template("report.html.j2").render(sections=told, **shared)


def main(out: Path, datasets: dict[str, str], root: Path = Path("."), *, command: str = "dvc repro",
         cards: int = 12) -> dict:  # fmt: skip
    """The report's figures, also written to report.json beside the page `out`.

    datasets: {name: modality}; root: where artifacts/ and metrics/ lie; cards: records shown of each outcome.
    """
    out, root = Path(out), Path(root)
    sections = [gather(name, modality, root, cards) for name, modality in datasets.items()]
    settings = [root / name for name in ("params.yaml", "dvc.yaml", "constraints.txt")]
    shared = {"command": command, "versions": versions(), "hashes": hashes(root, settings)}
    for side, most in SIZES:
        page = render(sections, side, min(most, cards), **shared)
        if len(page.encode()) <= LIMIT:
            break
    keys = ("modality", "head", "best", "arms", "detectors", "counts", "quarantined", "hashes")
    told = shared | {"datasets": {s["name"]: {key: s[key] for key in keys} for s in sections}}
    figures_told = json.dumps(told, indent=1, allow_nan=False) + "\n"
    for path, text in ((out, page), (out.with_name("report.json"), figures_told)):
        with atomic_file(path) as file:
            file.write_text(text, encoding="utf-8")
    return told


if __name__ == "__main__":
    from pipelines.stage import Run, stage

    def call(run: Run) -> dict:
        """Every data set of params.yaml on one page."""
        datasets = {name: dataset.modality for name, dataset in run.params.datasets.items()}
        told = main(run.paths.report, datasets, cards=run.settings.examples)
        return {name: found["head"]["outcome"] for name, found in told["datasets"].items() if found["head"]}

    stage(call, section="report")
