"""What every stage shares: from argv to settings and paths, one run at a time, and how each kind of failure ends."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.atomic import FULL, human
from data.errors import OddsmithError, ResourceError, SettingsError, closest
from data.files import read_json
from pipelines.config import ROUNDS, Settings
from pipelines.explain import Model
from pipelines.settings import load_settings
from pipelines.work import ROOT, Work, fingerprint

WITH_ROUND = ("tune", "generate", "judge", "filter")
OVER_ALL = ("report", "publish")  # stages of all data sets together
OR_ONE = ("publish",)  # of them, those that also take the name of one
CODE = ("data", "generation", "detection")
LOCK_SECONDS = 600.0  # how long a second run waits; ODDSMITH_LOCK_SECONDS overrides it
NEED = {"image": 3 * 2**30, "series": 2**30, "row": 2**30}  # bytes that a unit may take
LINE_SECONDS = 20.0  # between progress lines where there is no terminal
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOWER = {
    "image": "fit.image.batch, fit.image.size or fit.image.widths",
    "series": "fit.series.batch, fit.series.width or prepare.series.window",
    "row": "fit.row.batch, fit.row.width or generate.row.count",
    None: "the batch, size or count of the data set at hand",
}


class Terminated(BaseException):
    """SIGTERM, raised where the program stands, so that temporaries are removed on the way out."""


class Paths:
    """Where everything of a data set lies, below the repository's root."""

    def __init__(self, dataset: str, root: Path = Path(".")):
        self.root, self.folder = root, root / "artifacts" / dataset
        self.records = self.folder / "records"  # stores fit, support, calib
        self.test, self.splits = self.folder / "test", self.folder / "splits.json"
        self.summary, self.base = self.folder / "summary.json", self.folder / "base"
        self.adapters, self.judges = self.folder / "adapters", self.folder / "judges"
        self.detectors, self.evaluation = self.folder / "detectors", self.folder / "evaluation"
        self.metrics, self.report = root / "metrics" / f"{dataset}.json", root / "reports" / "index.html"

        self.gate, self.training = self.folder / "gate.json", self.folder / "training"

    def round(self, number: int) -> Path:
        """Folder of a round: generated, scores, kept, verdicts, steer.json."""
        return self.folder / f"r{number}"

    def adapters_of(self, number: int) -> Path:
        """The adapters that a round generates with: the first ones, later those tuned on the verdicts before."""
        return self.adapters if number == 1 else self.round(number) / "adapters"


@dataclass(frozen=True)
class Run:
    """One stage on one data set: names, settings of its section, modality and round, and paths."""

    section: str
    dataset: str
    modality: str | None
    round: int | None
    settings: Model
    params: Settings

    @property
    def name(self) -> str:
        """The stage as dvc.yaml calls it: fit, generate-r1."""
        return f"{self.section}-r{self.round}" if self.round else self.section

    @property
    def paths(self) -> Paths:
        return Paths(self.dataset)

    @cached_property
    def plan(self) -> dict:
        """splits.json: supports a seed, folds a seed."""
        return read_json(self.paths.splits)

    @property
    def seeds(self) -> range:
        """Numbers of the supports that were drawn."""
        return range(len(self.plan["supports"]))

    @property
    def jobs(self) -> int:
        """Units of this stage that run side by side: one with a GPU, else as many as there are cores and memory for.

        Small networks and trees make little of a second core, and threads that wait for each other stand still where
        the cores have other work too.
        """
        if self.threads is None:
            return 1
        import psutil

        room = psutil.virtual_memory().available // NEED[self.modality]
        return max(1, min(self.threads, room))

    @property
    def threads(self) -> int | None:
        """What the units of this stage share: the cores; None with a GPU."""
        from generation.model import pick_device

        return int(os.environ.get("OMP_NUM_THREADS") or cores()) if pick_device(self.params.device) == "cpu" else None

    def work(self, *inputs: Path, also: Any = None) -> Work:
        """Resumable units of this stage, void when settings, inputs or code change. also: further settings in use."""
        here = Path(__file__).resolve().parent
        code = [*(here.parent / name for name in CODE), here / f"{self.section}.py"]
        return Work(self.name, self.dataset, fingerprint([self.settings, also], inputs, code))


def stage(call: Callable[[Run], dict | None], section: str) -> None:
    """Run a stage from the command line and exit: `python -m pipelines.<section> <dataset> [<round>] [--debug]`.

    What `call` returns, counts and figures, is printed in one line at the end.
    """
    gc.set_threshold(20_000, 20, 50)  # importing torch and diffusers is faster if they are looked through less
    code = execute(call, section, sys.argv[1:])
    gc.freeze()  # or Python looks for garbage in all that the libraries leave behind, for half a second and more
    sys.exit(code)


def execute(call: Callable[[Run], dict | None], section: str, argv: list[str]) -> int:
    """The exit code of a stage; every failure is told in one line on stderr."""
    debug = "--debug" in argv or os.environ.get("ODDSMITH_DEBUG", "") not in ("", "0")
    argv = [a for a in argv if a != "--debug"]
    title = " ".join([section, *(a if a.isprintable() else repr(a) for a in argv)])
    began, modality = time.monotonic(), None
    try:
        listen()
        run = parse(section, argv)
        modality = run.modality
        environment(run.params, run.modality)
        with locked(f"{run.name}-{run.dataset}" if run.dataset else run.name, title):
            figures = call(run) or {}
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code, message = diagnose(error, f"python -m pipelines.{' '.join([section, *argv])}", modality)
        if debug and not isinstance(error, KeyboardInterrupt | Terminated):
            traceback.print_exc()
        tell(f"{title}: {one_line(message)}")
        return code
    seconds = time.monotonic() - began
    told = "".join(f", {key} {value}" for key, value in figures.items() if isinstance(value, int | float | str))
    print(f"{title}: done in {duration(seconds)}, peak memory {human(peak_memory())}{told}", flush=True)
    return 0


def parse(section: str, argv: list[str]) -> Run:
    """The run that argv asks for; SettingsError where it does not fit the stage or params.yaml."""
    names = ["dataset", "round"] if section in WITH_ROUND else ["dataset"]
    if section in OVER_ALL and not (section in OR_ONE and argv):
        names = []
    if len(argv) != len(names):
        usage = " ".join([f"python -m pipelines.{section}", *(f"<{name}>" for name in names)])
        raise SettingsError(f"arguments must be: {usage}, got {len(argv)} of {len(names)}")
    params = load_settings()
    if not names:
        return Run(section, "", None, None, getattr(params, section), params)
    if argv[0] not in params.datasets:
        hint = closest(argv[0], params.datasets)
        raise SettingsError(f"data set must be one of params.yaml, got {argv[0]!r}; {hint}")
    round_ = None
    if "round" in names:
        if argv[1] not in [str(r) for r in ROUNDS]:
            raise SettingsError(f"round must be one of {', '.join(map(str, ROUNDS))}, got '{argv[1]}'")
        round_ = int(argv[1])
    modality = params.datasets[argv[0]].modality
    return Run(section, argv[0], modality, round_, params.section(section, modality, round_), params)


# failures


def diagnose(error: BaseException, command: str, modality: str | None = None) -> tuple[int, str]:
    """(exit code, message) of whatever ended a stage. command: what was run, to tell how to resume."""
    if isinstance(error, OddsmithError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt | Terminated):
        again = "dvc repro" if "DVC_STAGE" in os.environ else command
        return (130 if isinstance(error, KeyboardInterrupt) else 143,
                f"interrupted; what is finished is kept, resume with: {again}")
    if isinstance(error, OSError) and error.errno in FULL:
        what, free = error.filename or "a file", human(free_space(error.filename))
        return 4, f"disk full while writing {what}, free {free}; make room and run {command}"
    if out_of_memory(error):
        device = "device memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        return 4, f"{device} ran out (peak {human(peak_memory())}); lower {LOWER[modality]}"
    if isinstance(error, FileNotFoundError) and error.filename:
        return 3, f"{error.filename}: must be there; run dvc repro, or mend the path in params.yaml"
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError) and error.filename:
        name = error.filename2 or error.filename
        return 3, f"{name}: must be what is read or written here, got {error.strerror}; mend its kind or permissions"
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}" if frames else "an unknown place"
    place = getattr(error, "place", place)  # of one that another process met
    return 1, f"unexpected {type(error).__name__}: {error} at {place}; set ODDSMITH_DEBUG=1 for the traceback"


def out_of_memory(error: BaseException) -> bool:
    """Whether the host or a GPU ran out of memory; torch is not imported for it."""
    names = {t.__name__ for t in type(error).__mro__}
    refused = isinstance(error, RuntimeError) and re.search(r"can't allocate memory|out of memory", str(error))
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or bool(refused)


def free_space(name: str | None) -> int:
    """Bytes free where a file would lie."""
    import shutil

    folder = Path(name).parent if isinstance(name, str) else Path(".")
    return shutil.disk_usage(folder if folder.exists() else Path(".")).free


def tell(line: str) -> None:
    """A line on stderr; nobody may be listening any more."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    return " ".join(text.split())


def listen() -> None:
    """SIGTERM ends the stage in order, and so does the death of the dvc that started it."""

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough: let the cleaning up finish
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    if "DVC_STAGE" not in os.environ or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    between = shell(parent)  # one that stays between dvc and its command, as dash does, outlives dvc
    above = parent_of(parent)
    if os.getppid() != parent or (between and (above is None or (above == 1 and "dvc" not in told_of(1, "cmdline")))):
        os.kill(os.getpid(), signal.SIGTERM)  # it died in between
    if between:
        threading.Thread(target=watch, args=(parent, above), daemon=True).start()


def parent_of(pid: int) -> int | None:
    """The process that a process was started by, None where it is gone (Linux)."""
    told = told_of(pid, "stat").rpartition(")")[2].split()
    return int(told[1]) if told else None


def shell(pid: int) -> bool:
    return told_of(pid, "comm").strip() in ("sh", "dash", "bash", "zsh", "ksh", "fish", "busybox")


def told_of(pid: int, what: str) -> str:
    """What the kernel tells of a process, "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:
        return ""


def watch(parent: int, above: int) -> None:
    """End this process as SIGTERM does once its parent is no longer the child of `above`."""
    while parent_of(parent) == above:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


# surroundings


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(params: Settings, modality: str | None) -> None:
    """Set what libraries read on import: no telemetry, no network unless the settings name a hub id, our CPU cores,
    no GPU that the settings do not want."""
    values = {"NO_ALBUMENTATIONS_UPDATE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    values |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(cores()))
    if modality == "image":
        values["ODDSMITH_FEATURES"] = ".cache/features"  # detection/features.py; pruned to 2 GiB
    if not hub_ids(getattr(params.fit, modality) if modality else None):
        values["HF_HUB_OFFLINE"] = "1"
    for name, value in values.items():
        os.environ.setdefault(name, value)
    if params.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # or detectors, which take what is there, would run on a GPU


def hub_ids(settings: Model | None) -> list[str]:
    """Models that the settings of `fit` name by hub id ("owner/name") and that are no local folder."""
    if settings is None:
        return []
    named = [getattr(settings, "pretrained", None), getattr(getattr(settings, "latent", None), "source", None)]
    return [name for name in named if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()]


@contextmanager
def locked(name: str, title: str) -> Iterator[None]:
    """Holds .work/locks/<name>.lock, alone; a second run says that it waits, and ResourceError ends a long wait."""
    path = ROOT / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = float(os.environ.get("ODDSMITH_LOCK_SECONDS", LOCK_SECONDS))
    began, waiting = time.monotonic(), False
    with path.open("a+") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                if time.monotonic() - began >= limit:
                    raise ResourceError(
                        f"{path}: one run at a time, process {owner} still holds it after {limit:.0f} s; "
                        "stop it or try again later"
                    ) from None
                if not waiting:
                    tell(f"{title}: waiting for process {owner}, which runs the same stage")
                    waiting = True
                time.sleep(0.1)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def peak_memory() -> int:
    """Bytes this process, or the largest of its children, has had in memory at most."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def duration(seconds: float) -> str:
    """'0.4 s', '2 min 05 s', '1 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


# progress


class Progress:
    """How far a loop is: a bar on a terminal, elsewhere a line every LINE_SECONDS.

    Iterate it, or use it as a context. holds: one that begins while it runs is told in its bar; not for a generator,
    which may be left. threaded: False where the process forks while it runs: no thread redraws the bar, `to` does.
    """

    running = None  # of this process, the one that holds others, or what stands for it (pipelines/pool.py)

    def __init__(self, items: Iterable | int, label: str, total: int | None = None, *, holds: bool = False,
                 threaded: bool = True):  # fmt: skip
        self.items, self.label, self.holds, self.threaded = items, label, holds, threaded
        self.total = items if isinstance(items, int) else total
        if self.total is None and hasattr(items, "__len__"):
            self.total = len(items)
        self.count, self.note, self.bar = 0, "", None

    def __enter__(self) -> Progress:
        self.start()
        if self.holds:
            Progress.running = self
        return self

    def __exit__(self, *_) -> None:
        if self.holds:
            Progress.running = self.outer
        self.stop()

    def start(self) -> None:
        self.began = self.told = time.monotonic()
        self.first = self.count
        self.terminal = sys.stderr.isatty()
        self.outer = Progress.running
        if self.terminal and not self.outer:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                       TimeRemainingColumn())
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True, auto_refresh=self.threaded)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()

    def __iter__(self) -> Iterator[Any]:
        self.start()
        try:
            for item in range(self.items) if isinstance(self.items, int) else self.items:
                yield item
                self.advance()
        finally:
            self.stop()

    def advance(self, by: int = 1, note: str = "") -> None:
        self.to(self.count + by, note)

    def to(self, count: int, note: str = "") -> None:
        """`count` steps are done in all; the first count of a resumed run does not enter the rate."""
        self.count, self.note = count, note or self.note
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, completed=count, description=f"{self.label} {self.note}".strip(),
                            refresh=not self.threaded)  # fmt: skip
        elif self.outer and self.outer.bar:
            self.outer.to(self.outer.count, self.line(now - self.began))
        elif not self.terminal and now - self.told >= LINE_SECONDS:
            self.told = now
            tell(self.line(now - self.began))

    def line(self, elapsed: float) -> str:
        """'fit textures: 300/1200 (25 %), 4.1/s, 3 min 40 s left, loss 0.123'."""
        rate = max(self.count - self.first, 1) / max(elapsed, 1e-9)
        parts = [f"{self.label}: {self.count}", f"{rate:.2g}/s"]
        if self.total:
            parts[0] += f"/{self.total} ({100 * self.count / self.total:.0f} %)"
            parts.append(f"{duration(max(0, self.total - self.count) / rate)} left")
        return ", ".join([*parts, *([self.note] if self.note else [])])


def progress(items: Iterable | int, label: str, total: int | None = None) -> Progress:
    """`for x in progress(xs, "judge")`, or `with progress(1200, "fit") as bar: ... bar.to(step, "loss 0.1")`."""
    return Progress(items, label, total)


__all__ = ["Paths", "Progress", "Run", "progress", "stage"]
