"""Time and memory of `dvc repro`: from nothing, with nothing to do, and after a changed filter setting.

    python benchmarks/repro.py [params.yaml]     # writes benchmarks/results/repro-<name>.json

Runs in a copy of the tracked files beside the repository, so that relative data paths keep their meaning; the copy is
removed afterwards. Seconds of a stage are its own, without the start of its process and what DVC does about it. Memory
is the largest sum of resident sizes of dvc and all its children, sampled twice a second.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def run(command: list[str], folder: Path) -> dict:
    """Seconds, peak bytes and output of a command."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in family))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.1 if time.monotonic() - began < 10 else 0.5)
        seconds = time.monotonic() - began
        out.seek(0)
        text = out.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{text[-3000:]}")
    ran = re.findall(r"Running stage '([^']+)'", text)
    spent = re.findall(r"^[a-z]+(?: [^:]+)?: done in (?:(\d+) min )?([\d.]+) s", text, re.MULTILINE)
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(peak / 2**30, 2),
        "stages_run": len(ran),
        "stages": dict(zip(ran, [60 * int(minutes or 0) + float(rest) for minutes, rest in spent])),
    }


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
