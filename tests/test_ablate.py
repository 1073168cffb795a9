"""Ablations: ablate.yaml is checked and becomes cells, DVC runs them, and the summary says what they say together."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import fakeloop
import numpy as np
import pytest
import yaml

from data.errors import SettingsError
from pipelines import ablate, ablation, tables
from pipelines.explain import read_yaml
from pipelines.overrides import settings_for
from pipelines.workcopy import stamp_of

ROOT = fakeloop.ROOT
AXES = {"rank": {"path": "adapt.*.rank", "values": [2, 8]}, "examples": {"path": "prepare.support", "values": [5]},
        "filter": {"settings": {"bad": {"filter.*.min_overlap": 0.99}}}}  # fmt: skip
REPORT = """
  report:
    cmd: test ! -e fail && cp reports/ablation.md reports/index.html
    deps: [metrics]
    outs: [reports/index.html]
"""


def planned(axes: dict, *, base=ROOT / "params.yaml", folder, **more) -> dict:
    """The plan of an ablate.yaml for the demo's row set."""
    path = folder / "ablate.yaml"
    path.write_text(yaml.safe_dump({"base": str(base), "datasets": ["cells"], "axes": axes, **more}))
    return ablation.plan(path, ROOT)["cells"]


# the plan


def test_one_axis_changes_at_a_time_and_what_the_base_has_is_the_base(tmp_path):
    cells = planned(AXES, folder=tmp_path)
    assert {key: cell["set"] for key, cell in cells.items()} == {
        "cells--base": {}, "cells--rank-2": {"adapt.row.rank": 2}, "cells--examples-5": {"prepare.support": 5},
        "cells--filter-bad": {"filter.row.min_overlap": 0.99},
    }  # fmt: skip
    assert cells["cells--filter-bad"]["axes"] == {"filter": "bad"} and cells["cells--rank-2"]["axes"] == {"rank": 2}
    assert {cell["data"] for cell in cells.values()} == {"data/demo.py"}


def test_a_value_that_the_base_leaves_to_its_default_is_the_base(tmp_path):
    cells = planned({"noise": {"path": "generate.*.kind_noise", "values": [0.0, 0.5]}}, folder=tmp_path)
    assert "kind_noise" not in (ROOT / "params.yaml").read_text()
    assert [cell["set"] for cell in cells.values()] == [{}, {"generate.row.kind_noise": 0.5}]


def test_a_grid_adds_the_combinations_that_are_new(tmp_path):
    axes = {"rank": {"path": "adapt.*.rank", "values": [2, 8]}, "steps": {"path": "adapt.*.steps", "values": [80, 9]}}
    cells = planned(axes, folder=tmp_path, grid=[["rank", "steps"]])
    both = {"adapt.row.rank": 2, "adapt.row.steps": 9}
    assert [cell["set"] for cell in cells.values()] == [{}, {"adapt.row.rank": 2}, {"adapt.row.steps": 9}, both]
    assert cells["cells--rank-2--steps-9"]["axes"] == {"rank": 2, "steps": 9}


def test_paths_for_other_modalities_are_left_out(tmp_path):
    axes = {"size": {"path": "fit.image.size", "values": [32]},
            "share": {"settings": {"low": {"train.row.forest.real_share": 0.1, "train.image.segmentation.steps": 3}}}}
    cells = planned(axes, folder=tmp_path)  # fmt: skip
    assert [cell["set"] for cell in cells.values()] == [{}, {"train.row.forest.real_share": 0.1}]


@pytest.mark.parametrize("axes, more, expected", [
    ({"rank": {"path": "adapt.*.rnak", "values": [2]}}, {},
     "axes.rank: adapt.row.rnak: unknown key; did you mean 'rank'?"),
    ({"rank": {"path": "adapt.*.rank", "values": [4, 0]}}, {}, "axes.rank: adapt.row.rank: must be >= 1, got 0"),
    ({"rank": {"pth": "adapt.*.rank", "values": [4]}}, {}, "axes.rank.pth: unknown key; did you mean 'path'?"),
    ({"rank": {"path": "adapt.*.rank"}}, {}, "axes.rank: must have path and values, or settings alone"),
    ({"rank": {"path": "a.b", "values": [1], "settings": {"x": {}}}}, {},
     "axes.rank: must have path and values, or settings alone"),
    ({"rank": {"path": "adapt.*.rank", "values": []}}, {}, "axes.rank.values: must have at least 1 items, got []"),
    ({}, {}, "axes: must have at least 1 items, got {}"),
    (AXES, {"grid": [["rank", "fliter"]]}, "grid: must name axes, got 'fliter'; did you mean 'filter'?"),
    (AXES, {"axis": {}}, "axis: unknown key; did you mean 'axes'?"),
    (AXES, {"datasets": ["cels"]}, "data set must be one of BASE, got 'cels'; did you mean 'cells'?"),
    ({"a": {"settings": {"x": {"adapt.*.rank": 2}, "X!": {"adapt.*.rank": 3}}}}, {},
     "axes.a: two values make the name 'a-x'; rename one"),
])  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_the_mend(tmp_path, axes, more, expected):
    with pytest.raises(SettingsError) as error:
        planned(axes, folder=tmp_path, **more)
    expected = expected.replace("BASE", str(ROOT / "params.yaml"))
    assert str(error.value) == f"{tmp_path / 'ablate.yaml'}: {expected}"


def test_the_command_ends_on_2_with_one_line(tmp_path, monkeypatch, capsys):
    fakeloop.make_root(tmp_path, monkeypatch)
    (tmp_path / "root" / "ablate.yaml").write_text("axes: {rank: {path: adapt.*.rnak, values: [1]}}")
    assert ablate.main(["plan"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "ablate: ablate.yaml: axes.rank: adapt.row.rnak: unknown key; did you mean 'rank'?"]  # fmt: skip


def test_what_is_shipped_is_planned_and_its_stages_depend_on_all_code(monkeypatch):
    monkeypatch.chdir(ROOT)
    told, shipped = ablation.plan(), read_yaml(ROOT / ablation.CELLS)
    assert told["cells"] == shipped["cells"], "run python -m pipelines.ablate plan"
    stage = read_yaml(ROOT / "ablate" / "dvc.yaml")["stages"]["cell"]["do"]
    code = {f"data/{f.name}" for f in (ROOT / "data").glob("*.py")} - {"data/__init__.py", "data/demo.py"}
    assert code | {"data/sources", "generation", "detection", "pipelines"} <= set(stage["deps"])


# what has run


def test_a_result_of_other_settings_code_or_data_has_not_run(tmp_path, monkeypatch, capsys):
    """A cell's own settings may be as they were, and those of the base others."""
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "ablate.yaml").write_text(yaml.safe_dump({"axes": {"examples": AXES["examples"], "rank": AXES["rank"]}}))
    found = {key: about | {"status": "done"} for key, about in ablation.plan()["cells"].items()}
    for cell in (ablation.cell_of(ablation.plan(), key) for key in found):
        stamp = stamp_of(Path("."), settings_for(Path(cell.params), cell.dataset, cell.set))
        told = result(cell.name.split("--")[1], found[cell.name]["axes"], 1, 0.1) | {"set": cell.set, "stamp": stamp}
        ablate.path_of(cell.name).parent.mkdir(parents=True, exist_ok=True)
        ablate.path_of(cell.name).write_text(json.dumps(told))
    unable = ablate.path_of("cells--rank-2")
    unable.write_text(json.dumps(result("rank-2", {"rank": 2}, None, 0, status="FAILED", set={"adapt.row.rank": 2})))

    def told() -> tuple[str, set]:
        ablate.main(["summary"])
        curve = json.loads((root / "reports" / "ablation.json").read_text())["label_efficiency"]
        return capsys.readouterr().out.split(";")[0], {point["k"] for point in curve}

    assert told() == ("3 cells: 2 done, 1 FAILED, 0 not run", {10, 5})
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("support: 10", "support: 20"))
    assert told() == ("3 cells: 1 done, 1 FAILED, 1 not run", {5})  # the base's; the other one sets it itself
    (root / "params.yaml").write_text(params.replace("folds: 2", "folds: 3"))
    assert told() == ("3 cells: 0 done, 1 FAILED, 2 not run", set())
    (root / "params.yaml").write_text(params)
    (tmp_path / "shared" / "cells" / "a.csv").write_text("123456")
    assert told() == ("3 cells: 0 done, 1 FAILED, 2 not run", set())


# run by DVC


def test_dvc_runs_every_cell_alone_and_a_plain_repro_none(tmp_path, monkeypatch, capfd):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text() + REPORT)
    (root / "metrics").mkdir()
    (root / "reports").mkdir()
    (root / "reports" / "index.html").write_text("of before")
    shutil.copytree(ROOT / "ablate", root / "ablate", ignore=shutil.ignore_patterns("cells.yaml"))
    for dep in read_yaml(root / "ablate" / "dvc.yaml")["stages"]["cell"]["do"]["deps"]:
        if "$" not in dep and not (root / dep).exists():
            (root / dep).mkdir(parents=True) if "." not in dep else (root / dep).parent.mkdir(exist_ok=True)
            (root / dep).touch()
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\nno_scm = true\ncheck_update = false\n")
    (root / "ablate.yaml").write_text(yaml.safe_dump({"axes": {name: AXES[name] for name in ("rank", "filter")}}))
    assert ablate.main(["run"]) == 1
    assert "3 cells: 2 done, 1 FAILED, 0 not run" in capfd.readouterr().out
    assert sorted(fakeloop.runs(tmp_path)) == [
        "evaluate cells 2", "evaluate cells 8", "evaluate cells 8", "fidelity cells 2", "fidelity cells 8",
        "fit cells 2", "fit cells 8"]  # fmt: skip
    told = json.loads((root / "reports" / "ablation.json").read_text())
    rows = {row["cell"]: row for row in told["rows"]}
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {"base": "done", "rank-2": "done", "filter-bad": "FAILED"}
    assert rows["filter-bad"]["error"].startswith("evaluate: min_overlap must be lower")
    assert rows["rank-2"]["fidelity"]["fid"] == 8 and rows["rank-2"]["seconds"] > 0
    assert rows["base"]["axes"] == {} and rows["rank-2"]["axes"] == {"rank": 2}
    table, page = root / "reports" / "ablation.md", root / "reports" / "index.html"
    assert page.read_text() == table.read_text()
    table.unlink()
    (root / "fail").touch()
    assert ablate.main(["run", "--only", "filter"]) == 1
    assert fakeloop.runs(tmp_path) == ["evaluate cells 8"]  # the failed one alone is tried again
    told = capfd.readouterr()
    assert "index.html: could not be made anew of the table; run dvc repro --force --single-item report" in told.err
    assert "3 cells: 2 done, 1 FAILED, 0 not run" in told.out and table.exists()
    (tmp_path / "shared" / "cells" / "a.csv").write_text("12345")  # the same bytes: to DVC nothing has changed
    ablate.main(["summary"])
    assert "3 cells: 0 done, 0 FAILED, 3 not run" in capfd.readouterr().out
    ablate.main(["run"])
    assert "3 cells: 2 done, 1 FAILED, 0 not run" in capfd.readouterr().out
    assert fakeloop.runs(tmp_path) == ["evaluate cells 8"]
    listed = subprocess.run([sys.executable, "-m", "dvc", "repro", "--dry"], capture_output=True, text=True, cwd=root)
    assert "pipelines/fake.py" in listed.stdout and "pipelines.ablate" not in listed.stdout


# what they say together


def point(x: float, y: float, dataset: str = "a") -> dict:
    return {"dataset": dataset, "cell": "c", "fidelity": "fid", "gain": "g", "x": x, "y": y}


def test_the_correlation_of_one_data_set_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, 20).astype(float)  # with ties
    y = x + rng.normal(size=20) * 4
    told = tables.correlation([point(*pair) for pair in zip(x, y)])
    assert told["rho"] == pytest.approx(spearmanr(x, y).statistic) and told["n"] == 20
    drawn = []
    for _ in range(1000):
        i = rng.integers(20, size=20)
        drawn.append(spearmanr(x[i], y[i]).statistic)
    assert told["low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.07)
    assert told["high"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.07)


def test_how_data_sets_differ_from_each_other_does_not_count():
    """Inside each set a higher x means a higher y; over both together the opposite."""
    points = [point(i, i) for i in range(6)] + [point(100 + i, -100 + i, "b") for i in range(6)]
    assert tables.correlation(points)["rho"] == pytest.approx(1)


def test_too_few_cells_or_nothing_that_varies_is_told_as_unknown():
    unknown = {"rho": None, "low": None, "high": None}
    assert tables.correlation([point(i, i) for i in range(3)]) == unknown | {"n": 3}
    assert tables.correlation([point(i, 1) for i in range(9)]) == unknown | {"n": 9}


def result(cell: str, changes: dict, fid: float | None, gain: float, **more) -> dict:
    def told(mean):
        return {"ap": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "values": [mean]}}

    arms = {"real": told(0.5), "filtered": told(0.5 + gain), "=cmd": told(0.1)}
    return {"cell": cell, "axes": changes, "dataset": "cells", "set": changes, "status": "done", "error": "",
            "seconds": 2, "metrics": {"arms": arms, "gain": {"metric": "ap"}}, "gate": None,
            "fidelity": {"all": {"real": 3, "generated": 9, "fid": fid, "kid": None}}} | more  # fmt: skip


RESULTS = [result(f"rank-{i}", {"adapt.row.rank": i}, 10 - i, i / 100) for i in range(5)] + [
    result("base", {}, 3, 0.2), result("examples-20", {"prepare.support": 20}, None, 0.3),
    result("bad", {"filter.row.low": 1}, 3, 0, status="FAILED", metrics=None, fidelity=None, error="no & <never>"),
]  # fmt: skip


def test_rows_correlations_and_label_curves_come_of_the_cells():
    told = tables.summarise(RESULTS, support=10)
    assert [c["fidelity"] for c in told["correlations"]] == ["fid"] and told["correlations"][0]["n"] == 6
    assert told["correlations"][0]["gain"] == "filtered over real" and told["correlations"][0]["rho"] < -0.7
    assert told["by_dataset"] == [{"dataset": "cells", **told["correlations"][0]}]
    curve = [(r["k"], r["mean"]) for r in told["label_efficiency"] if r["arm"] == "filtered"]
    assert curve == [(10, 0.7), (20, 0.8)]
    assert told["rows"][-1]["error"] == "no & <never>" and told["rows"][0]["fidelity"] == {"fid": 10}
    assert told["rows"][3]["metrics"] == {"real": 0.5, "filtered": 0.53, "=cmd": 0.1}
    assert told["rows"][-1]["metrics"] == {}


def test_the_table_is_tidy_and_inert_and_the_plots_are_whole():
    files = tables.files(tables.summarise(RESULTS, support=10), RESULTS)
    tidy, drawn = {"ablation.json", "ablation.csv", "ablation.md"}, {"ablation/fid.svg", "ablation/labels-cells.svg"}
    assert set(files) == tidy | drawn
    lines = list(csv.DictReader(files["ablation.csv"].splitlines()))
    assert len(lines) == 7 * 3 + 6 + 1 and lines[-1]["status"] == "FAILED"
    found = [line for line in lines if line["cell"] == "rank-3" and line["name"] == "filtered"]
    assert [(line["metric"], float(line["mean"])) for line in found] == [("ap", 0.53), ("fid", 7)]
    assert "'=cmd" in {line["name"] for line in lines} and "=cmd" not in {line["name"] for line in lines}
    for name in ("ablation/fid.svg", "ablation/labels-cells.svg"):
        drawn = ElementTree.fromstring(files[name])
        dots = [e for e in drawn.iter() if e.tag.endswith("circle") and len(e)]
        assert len(dots) == 6  # a cell each; two K of three arms
        assert all(0 <= float(e.get("cx")) <= 480 and 0 <= float(e.get("cy")) <= 330 for e in dots)
    assert "Spearman -" in files["ablation/fid.svg"]


def test_a_cell_is_compared_with_the_base_support_by_support():
    """The interval of the differences, by hand: 1, 2, 3 hundredths, 4.303 of their standard error each side."""

    def arm(*values):
        return {"ap": {"mean": sum(values) / 3, "values": list(values)}}

    def cell(name, changes, *values, **more):
        return result(name, changes, None, 0) | {"metrics": {"arms": {"filtered": arm(*values)} | more,
                                                             "gain": {"metric": "ap"}}}  # fmt: skip

    results = [cell("rank|2", {"adapt.row.rank": 2}, 0.51, 0.62, 0.83),
               cell("base", {}, 0.5, 0.6, 0.8, real=arm(0, 0, 0)),
               cell("examples-5", {"prepare.support": 5}, 0.1, 0.2, 0.3),
               cell("few", {"generate.row.count": 2}, 0.1, 0.2) | {"status": "FAILED"}]  # fmt: skip
    told = tables.summarise(results, support=10)
    half = 4.302653 * 0.01 / 3**0.5
    found = told["rows"][0]["change"]
    assert set(found) == {"filtered"} and found["filtered"] == pytest.approx(
        {"mean": 0.02, "low": 0.02 - half, "high": 0.02 + half}, abs=1e-6)  # fmt: skip
    assert [row["change"] for row in told["rows"][1:]] == [{}, {}, {}]
    lines = tables.files(told, results)["ablation.md"].splitlines()
    assert "| rank\\|2 | 0.653 | – | +0.020 (-0.005 to +0.045) | – | 2 |" in lines
    assert "| base | 0.633 | 0.000 | – | – | 2 |" in lines
    assert any(line.startswith("| few (FAILED) |") for line in lines)


def test_names_are_inert_in_a_plot():
    from pipelines import plots

    told = {"gain": "<b>", "fidelity": "a&b", "rho": None, "n": 1}
    drawn = plots.scatter([point(1, 2, "<script>alert(1)</script>")], told)
    assert "<script" not in drawn and ElementTree.fromstring(drawn) is not None
