"""The `oddsmith` command: what to know before a run (check) and after it (results)."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from data.atomic import human
from data.errors import InputError, OddsmithError
from pipelines.config import Dataset, Settings
from pipelines.settings import check_licence, load_settings
from pipelines.stage import Paths, diagnose, one_line, tell

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="A few labelled anomalies in, a judged training set out. `dvc repro` runs everything params.yaml describes.",
)  # fmt: skip
Params = Annotated[Path, typer.Option("--params", help="settings to read")]

MOST_LINES = 60  # of a data set's check
# Rough seconds on two CPU cores, from runs of the demo, magnetic_tile and deeppcb: of images per pixel, of a crop for
# train and sample; detect: of the whole images that a detector learns from or scores; ratio: of the windows and rows
# that the likelihood ratio scores
SECONDS = {
    "image": {"train": 2.2e-6, "sample": 1.2e-6, "detect": 5e-7, "ratio": 0.0, "start": 60},
    "series": {"train": 6e-4, "sample": 1e-4, "detect": 0.0, "ratio": 1 / 80, "start": 20},
    "row": {"train": 8e-5, "sample": 2e-5, "detect": 0.0, "ratio": 1 / 670, "start": 15},
}
DETECTORS = 9  # trained and measured a support: seven arms and the pair that the gate compared


@app.command()
def check(params: Params = Path("params.yaml")) -> None:
    """Read and split every data set in memory, and tell what a run would make of it; nothing is written."""
    settings = load_settings(params)
    check_licence(settings, params)
    if settings.device == "cuda":  # or torch need not be there yet
        from generation.model import pick_device

        pick_device(settings.device)
    worst = 0
    for name, dataset in settings.datasets.items():
        try:
            lines = inspect(name, dataset, settings)
        except Exception as error:  # the other data sets are still checked
            code, message = diagnose(error, "oddsmith check", dataset.modality)
            tell(f"{name}: {one_line(message)}")
            worst = worst or code
        else:
            print(f"{name}: {lines[0]}", *(f"  {line}" for line in lines[1:]), sep="\n", flush=True)
    raise typer.Exit(worst)


def inspect(name: str, dataset: Dataset, settings: Settings) -> list[str]:
    """What is worth knowing of a data set, a line each; raises what `prepare` would."""
    from data.check import lines, summarise
    from pipelines.prepare import divide, load

    raw, quarantine = load(name, dataset, settings.prepare)
    parts = divide(raw, settings.prepare, quarantine)
    told = lines(summarise(raw, quarantine, parts, dataset.source.path))
    if len(told) > MOST_LINES:
        told[MOST_LINES:] = [f"and {len(told) - MOST_LINES} lines more; prepare writes all to summary.json"]
    seconds, size = estimate(settings, dataset.modality, parts)
    free = shutil.disk_usage(Path.cwd()).free
    if size > free:
        told.append(f"look at: the disk has {human(free)} free, less than a run needs")
    return [*told, f"expect about {max(1, round(seconds / 60))} min on 2 CPU cores and {human(size)} of disk"]


def estimate(settings: Settings, modality: str, parts: Any) -> tuple[float, int]:
    """(seconds, bytes) of a full run, good to a factor of two or three."""
    from pipelines.config import ROUNDS
    from pipelines.evaluate import REFERENCE

    fit, adapt, own = settings.section("fit", modality), settings.section("adapt", modality), SECONDS[modality]
    seeds, area = settings.prepare.seeds, fit.size**2 if modality == "image" else 1
    seen = fit.steps * fit.batch + seeds * adapt.steps * adapt.batch  # records that pass through training
    seconds = own["start"] * (2 + seeds) + own["train"] * area * seen
    if modality == "image" and fit.latent.kind == "train":
        seconds += own["train"] * area * fit.latent.steps * fit.batch
    made = [settings.section("generate", modality, r) for r in ROUNDS]
    seconds += sum(own["sample"] * area * 2 * g.count * seeds * 2 * g.steps for g in made)
    whole = [x.shape[0] * x.shape[1] for name in ("fit", "calib", "test") for x in getattr(parts, name).x if area > 1]
    seconds += own["detect"] * sum(whole) * seeds * DETECTORS
    if settings.section("evaluate", modality).likelihood:
        seconds += own["ratio"] * (min(len(parts.calib), REFERENCE[modality]) + len(parts.test)) * seeds
    record = payload(parts.fit)
    real = record * sum(len(getattr(parts, name)) for name in ("fit", "support", "calib", "test"))
    generated = record * 2 * seeds * sum(g.count for g in made)  # with its adapter-off twin
    return seconds, int(2 * (real + 2 * generated)) + 40_000_000 * (1 + seeds)  # artefacts and DVC's cache of them


def payload(records: Any) -> float:
    """Mean bytes of a record in memory."""
    if not len(records):
        return 0.0
    if records.modality == "row":
        return 9.0 * records.x.shape[1]
    return sum(x.nbytes for x in records.x) / len(records)


@app.command()
def results(params: Params = Path("params.yaml")) -> None:
    """Print the arms of every data set with their intervals, the gain, and where the report lies."""
    import json

    from rich.console import Console

    settings = load_settings(params)
    console, found = Console(markup=False, highlight=False), 0
    for name, dataset in settings.datasets.items():
        path = Paths(name).metrics
        if not path.exists():
            tell(f"{path}: not there yet; run dvc repro")
            continue
        try:
            metrics = json.loads(path.read_text())
            show(console, name, dataset.modality, metrics)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: must be what evaluate writes ({error!r}); run dvc repro") from error
        found += 1
    report = Paths("").report
    if report.exists():
        console.print(f"Report: {report}", soft_wrap=True)
    raise typer.Exit(0 if found else 3)


def show(console: Any, name: str, modality: str, metrics: dict) -> None:
    """The table of one data set and a sentence on its gain."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(key for arm in metrics["arms"].values() for key in arm))
    table = Table("arm", *names, title=f"{name} ({modality})", title_justify="left", box=box.SIMPLE_HEAD)
    for arm, values in (metrics["arms"] | metrics.get("detectors", {})).items():
        table.add_row(arm, *(interval(values.get(key)) for key in names))
    console.print(table)
    console.print(gain(metrics["gain"]), soft_wrap=True)
    counts = metrics.get("counts", {})
    if counts:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts.get("reasons", {}).items() if reason != "kept")
        console.print(f"{counts['kept']} of {counts['generated']} generated records kept"
                      + (f"; rejected: {reasons}" if reasons else ""), soft_wrap=True)  # fmt: skip
    console.print()


def interval(value: dict | None) -> str:
    """'0.812 [0.790, 0.834]'; a single seed has no interval."""
    if value is None or value.get("mean") is None:
        return "-"
    low, high = value.get("low"), value.get("high")
    return f"{value['mean']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def gain(value: dict) -> str:
    """Whether the arm helped, by its paired interval: gain, loss, or neither shown."""
    if value.get("mean") is None:
        return f"{value.get('arm')} over {value.get('over')}: not measured"
    low, high = value.get("low"), value.get("high")
    if low is None or high is None:
        word = "one seed, no interval"
    else:
        word = "gain" if low > 0 else "loss" if high < 0 else "no gain shown"
    bounds = f" [{low:+.3f}, {high:+.3f}]" if low is not None and high is not None else ""
    return f"{value['arm']} over {value['over']}, {value['metric']}: {value['mean']:+.3f}{bounds}: {word}"


@app.command()
def export(
    stores: Annotated[list[Path], typer.Argument(help="record stores: folders of part-*.parquet")],
    out: Annotated[Path, typer.Argument(help="the folder to make")],
    to: Annotated[str, typer.Option(help="mvtec, anomalib-folder, coco, yolo-seg, labelstudio, csv or jsonl")],
    shape: Annotated[str | None, typer.Option(help="of masks in coco and labelstudio: rle or polygon")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a folder that is not empty")] = False,
) -> None:
    """Write record stores as files that other tools train on or label with; see docs/export.md."""
    from pipelines.export import run

    raise typer.Exit(run(stores, out, to=to, shape=shape, force=force))


def run() -> None:
    """Entry point: an error of the user's is one line and its exit code, --debug shows the traceback."""
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ["ODDSMITH_DEBUG"] = "1"
    try:
        app()
    except OddsmithError as error:
        if os.environ.get("ODDSMITH_DEBUG"):
            raise
        tell(f"oddsmith: {one_line(str(error))}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
