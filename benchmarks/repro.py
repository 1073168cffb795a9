"""Time and memory of `dvc repro`: from nothing, with nothing to do, and after a changed filter setting.

    python benchmarks/repro.py [params.yaml]     # writes benchmarks/results/repro-<name>.json

Runs in a copy of the tracked files beside the repository, so that relative data paths keep their meaning; the copy is
removed afterwards. Memory is the largest sum of resident sizes of dvc and all its children, sampled twice a second.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from pipelines.repro import Clock

ROOT = Path(__file__).resolve().parent.parent


def run(command: list[str], folder: Path) -> dict:
    """Seconds, peak bytes and stages of a command that must succeed."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    began, peaks, told = time.monotonic(), [0], []
    with tempfile.TemporaryDirectory() as scratch:
        clock = Clock(Path(scratch) / "times.json")
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors="replace")  # fmt: skip
        watcher = threading.Thread(target=watch, args=(process, peaks), daemon=True)
        watcher.start()
        for line in process.stdout:
            clock.hear(line)
            told.append(line)
        code = process.wait()
        clock.stop()
    seconds = time.monotonic() - began
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)}: exit {code}\n{''.join(told)[-3000:]}")
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(max(peaks) / 2**30, 2),
        "stages_run": len(clock.times),
        "stages": clock.seconds(),
    }


def watch(process: subprocess.Popen, sizes: list[int]) -> None:
    """Adds the resident bytes of a process and all its children, twice a second until it ends."""
    watched, began = psutil.Process(process.pid), time.monotonic()
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            sizes.append(sum(p.memory_info().rss for p in [watched, *watched.children(recursive=True)]))
        time.sleep(0.1 if time.monotonic() - began < 10 else 0.5)


def main() -> None:
    params = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "params.yaml")
    name = "demo" if params.name == "params.yaml" else params.stem
    copy = Path(tempfile.mkdtemp(prefix=".bench-", dir=ROOT.parent))
    try:
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for file in files:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, copy / file)
        shutil.copyfile(params, copy / "params.yaml")
        subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
        results = {"first": run(["dvc", "repro"], copy)}
        results["nothing_to_do"] = run(["dvc", "repro"], copy)
        text = (copy / "params.yaml").read_text()
        (copy / "params.yaml").write_text(text.replace("min_overlap: 0.2", "min_overlap: 0.25"))
        results["filter_changed"] = run(["dvc", "repro"], copy)
        metrics = {f.stem: json.loads(f.read_text()) for f in sorted((copy / "metrics").glob("*.json"))}
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    target = ROOT / "benchmarks" / "results" / f"repro-{name}.json"
    target.write_text(
        json.dumps({**results, "cores": len(os.sched_getaffinity(0)), "metrics": metrics}, indent=1) + "\n"
    )
    for what, r in results.items():
        if isinstance(r, dict):
            print(f"{what:15s} {r['seconds']:7.1f} s, {r['peak_gib']:.2f} GiB, {r['stages_run']} stages")


if __name__ == "__main__":
    main()
