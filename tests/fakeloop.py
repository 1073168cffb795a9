"""A loop whose stages only write numbers, below a root of its own: what runs cells is tested without training."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DVC = """
stages:
  fit:
    foreach: ${datasets}
    do:
      cmd: python pipelines/fake.py fit ${key}
      deps: ["${item.source.path}", pipelines/fake.py]
      params: ["datasets.${key}", adapt.row.rank]
      outs: ["artifacts/${key}/base"]
  evaluate:
    foreach: ${datasets}
    do:
      cmd: python pipelines/fake.py evaluate ${key}
      deps: ["artifacts/${key}/base", pipelines/fake.py]
      params: [prepare, filter.row]
      outs: ["artifacts/${key}/gate.json"]
      metrics:
        - metrics/${key}.json: {cache: false}
  fidelity:
    foreach: ${datasets}
    do:
      cmd: python pipelines/fake.py fidelity ${key}
      deps: ["artifacts/${key}/base", pipelines/fake.py]
      params: [fidelity.row]
      outs: ["artifacts/${key}/fidelity.json"]
  never:
    cmd: "false"
"""
# arms rise with rank and support; min_overlap 0.99 fails; seam 3.0 waits for a signal
FAKE = """
import ctypes, json, os, pathlib, sys, time
import yaml
ctypes.CDLL(None).prctl(1, 15)  # ends with its dvc, as every stage does
stage, name = sys.argv[1:]
params, home = yaml.safe_load(open("params.yaml")), pathlib.Path("artifacts") / name
with open(os.environ["FAKE_RUNS"], "a") as runs:
    runs.write(f"{stage} {name} {params['adapt']['row']['rank']}\\n")
if stage == "fit":
    home.joinpath("base").mkdir(parents=True, exist_ok=True)
    size = sum(len(f.read_text()) for f in pathlib.Path(params["datasets"][name]["source"]["path"]).glob("*"))
    home.joinpath("base", "rank").write_text(json.dumps([params["adapt"]["row"]["rank"], size]))
rank, size = json.loads(home.joinpath("base", "rank").read_text())
if stage == "evaluate":
    if params["filter"]["row"]["min_overlap"] == 0.99:
        sys.exit("evaluate: min_overlap must be lower, got 0.99; lower it")
    if params["filter"]["row"]["seam"] == 3.0:
        from pipelines.stage import listen

        listen()
    while params["filter"]["row"]["seam"] == 3.0 and not pathlib.Path(os.environ["FAKE_RUNS"] + ".go").exists():
        time.sleep(0.02)
    def told(*values):
        return {"ap": {"mean": sum(values) / 2, "low": min(values), "high": max(values), "values": list(values)}}
    k, kept = params["prepare"]["support"] / 100, params["filter"]["row"]["copy"] * size
    arms = {"real": told(0.4 + k, 0.5 + k), "classical": told(0.5 + k, 0.5 + k), "dropped": told(0.45 + k, 0.5 + k)}
    arms |= {"generated": told(0.5 + k, 0.52 + k), "filtered": told(0.5 + k + rank / 100, 0.55 + k + rank / 100)}
    pathlib.Path("metrics").mkdir(exist_ok=True)
    pathlib.Path("metrics", name + ".json").write_text(json.dumps({
        "modality": "row", "arms": arms, "detectors": {"knn": told(0.3, 0.3)},
        "gain": {"metric": "ap", "arm": "filtered", "over": "classical", "mean": rank / 100},
        "gate": {"accepted": rank > 4, "holds_at": 0.85 if rank > 4 else 0.4,
                 "chosen": {"arm": "filtered" if rank > 4 else "classical", "detector": "forest"},
                 "best": {"arm": "filtered", "detector": "forest"}, "reference": {"arm": "classical",
                 "detector": "forest", "weight": 0.5}, "gain": {"metric": "ap", "mean": 0.1, "low": -0.1, "high": 0.3},
                 "truly_helpful": True, "seeds": [{"accepted": True, "holds_at": 0.95, "gain": 0.2},
                                                   {"accepted": False, "holds_at": 0.0, "gain": 0.0}]},
        "counts": {"generated": 40, "kept": 30, "reasons": {"kept": 30, "copy": 10}}}))
    home.joinpath("gate.json").write_text(json.dumps({"metric": "ap", "accepted": True}))
if stage == "fidelity":
    home.joinpath("fidelity.json").write_text(json.dumps({
        "all": {"real": 9, "generated": 30, "fid": 10 - rank, "c2st": 0.5 + rank % 3 / 10, "kid": None}, "kinds": {}}))
"""


def make_root(folder: Path, monkeypatch, names: tuple[str, ...] = ("cells",)) -> Path:
    """A repository's root with the fake loop and the demo's settings of row data sets `names`; the working folder.

    Data lies beside the root, at ../shared/<name>.
    """
    root = folder / "root"
    (root / "pipelines").mkdir(parents=True)
    (root / "dvc.yaml").write_text(DVC)
    (root / "pipelines" / "fake.py").write_text(FAKE)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["datasets"] = {}
    for name in names:
        source = {"reader": "demo", "path": f"../shared/{name}"}
        params["datasets"][name] = {"modality": "row", "source": source}
        (folder / "shared" / name).mkdir(parents=True)
        (folder / "shared" / name / "a.csv").write_text("12345")
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FAKE_RUNS", str(folder / "runs"))
    return root


def runs(folder: Path) -> list[str]:
    """What ran so far, 'stage data-set rank' each, in order; then forgotten."""
    path = folder / "runs"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found
