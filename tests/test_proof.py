"""The proof: what runs, what its tables say of it, and that earlier results stay."""

from __future__ import annotations

import json
from types import SimpleNamespace

import fakeloop
import pytest
import yaml

from data.errors import InputError, SettingsError
from detection.arms import ARMS
from pipelines.explain import read_yaml
from pipelines.overrides import settings_for

ROOT = fakeloop.ROOT
NEW = {"modality": "row", "source": {"reader": "demo", "path": "../shared/cells"}}
SETS = {"cells": {"params": "presets/x.yaml", "set": {"prepare.seeds": 2}},
        "other": {"params": "presets/x.yaml", "set": {"datasets": {"other": NEW}, "adapt.row.rank": 2}}}  # fmt: skip


@pytest.fixture
def code(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import proof
    import proof_tables

    return SimpleNamespace(proof=proof, tables=proof_tables)


def proof_of(code, **changes):
    from pipelines.explain import validate

    return validate(code.proof.Proof, {"k": [5, 10], "seeds": 3, "sets": SETS} | changes, where="proof: ")


def test_every_set_runs_at_every_budget_the_usual_one_first(code):
    cells = code.proof.cells_of(proof_of(code))
    assert [cell.name for cell in cells] == [
        "proof--cells--k10", "proof--other--k10", "proof--cells--k5", "proof--other--k5"]  # fmt: skip
    assert (cells[0].set["prepare.seeds"], cells[1].set["prepare.seeds"]) == (2, 3)
    assert cells[3].set["prepare.support"] == 5 and cells[3].dataset == "other" and cells[3].params == "presets/x.yaml"
    only = code.proof.cells_of(proof_of(code), ["other"], [20])
    assert [cell.name for cell in only] == ["proof--other--k20"]
    with pytest.raises(SettingsError, match="got 'othr'; did you mean 'other'"):
        code.proof.cells_of(proof_of(code), ["othr"])


def test_a_mistake_in_the_file_is_told(code):
    for changes, said in (({"kk": 1}, "kk: unknown key"), ({"k": [0]}, "k.0: must be >= 1, got 0"),
                          ({"sets": {"a": {"params": "x"}}}, "sets.a.set: is required")):  # fmt: skip
        with pytest.raises(SettingsError, match=said):
            proof_of(code, **changes)


def test_the_sets_that_are_shipped_are_valid_cells(code):
    told = read_yaml(ROOT / code.proof.FILE)
    proof = proof_of(code, **told)
    cells = code.proof.cells_of(proof, budgets=[code.tables.HEAD])
    assert [cell.dataset for cell in cells] == list(proof.sets)
    for cell in cells:
        settings = settings_for(ROOT / cell.params, cell.dataset, cell.set)
        modality = settings["datasets"][cell.dataset]["modality"]
        assert settings["prepare"]["support"] == 10 and settings["train"][modality]["shuffled"] is True


def test_cells_run_once_and_their_tables_grow_over_several_runs(code, tmp_path, monkeypatch, capsys):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "presets").mkdir()
    (root / "params.yaml").rename(root / "presets" / "x.yaml")
    (root / "benchmarks" / "results").mkdir(parents=True)
    bad = {"params": "presets/x.yaml", "set": {"filter.*.min_overlap": 0.99}}
    bad["set"]["datasets"] = {"bad": NEW}
    sets = {**SETS, "bad": bad}
    (root / "benchmarks" / "proof.yaml").write_text(yaml.safe_dump({"k": [5, 10], "seeds": 3, "sets": sets}))
    results = root / "benchmarks" / "results"
    assert code.proof.main(["--only", "cells", "--k", "10"], root) == 0
    first = json.loads((results / "proof.json").read_text())
    assert list(first) == ["cells"]
    assert code.proof.main(["--jobs", "2", "--only", "other", "bad", "--k", "5"], root) == 1
    told, about = (json.loads((results / name).read_text()) for name in ("proof.json", "proof_cells.json"))
    assert list(told) == list(about) == ["cells", "other@k5"] and told["cells"] == first["cells"]
    values = told["cells"]["filtered"]["ap"]
    assert values["values"] == pytest.approx([0.68, 0.73]) and set(values) == {"mean", "low", "high", "values"}
    assert told["cells"]["knn"]["ap"]["mean"] == 0.3  # detectors stand beside the arms
    gate = told["cells"]["gate"]
    assert gate["accepted"] is True and gate["chosen"]["arm"] == "filtered" and gate["truly_helpful"] is True
    assert told["other@k5"]["gate"]["accepted"] is False
    assert about["other@k5"]["k"] == 5 and about["cells"]["seconds"] > 0
    text = (results / "proof.md").read_text()
    assert "## FAILED\n\n- proof--bad--k5: evaluate: min_overlap must be lower" in text
    assert "accepts 1 of 1 truly helpful sets and 0 of 0 others" in text
    assert "accepts 1 of 1 truly helpful supports and 0 of 1 others" in text
    assert "| cells | 40 | 10 | 30 |" in text
    ran = fakeloop.runs(tmp_path)
    assert code.proof.main(["--table"], root) == 0 and fakeloop.runs(tmp_path) == []
    assert len([line for line in ran if line.startswith("evaluate")]) == 3
    assert "2/2 proof--" in capsys.readouterr().out


def test_the_other_criteria_are_cells_of_their_own_beside_the_usual_one(code, tmp_path, monkeypatch):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "presets").mkdir()
    (root / "params.yaml").rename(root / "presets" / "x.yaml")
    (root / "benchmarks" / "results").mkdir(parents=True)
    (root / "benchmarks" / "proof.yaml").write_text(yaml.safe_dump({"k": [10], "seeds": 3, "sets": SETS}))
    cells = code.proof.criteria_cells(proof_of(code), root, ["cells"])
    others = ["eap", "near", "alike", "plain", "hard", "likelihood", "typical"]
    assert [c.name.split("--")[-1] for c in cells] == others
    assert {c.set["gate.*.supports"] for c in cells} == {1} and {c.set["prepare.support"] for c in cells} == {10}
    monkeypatch.setattr(code.proof, "criteria_cells", lambda *_: cells[:2])
    assert code.proof.main(["--only", "cells", "--k", "10"], root) == 0
    results = root / "benchmarks" / "results"
    before = json.loads((results / "proof.json").read_text())
    assert code.proof.main(["--criteria", "--only", "cells"], root) == 0
    told = json.loads((results / "proof_criteria.json").read_text())
    assert list(told) == ["cells"] and list(told["cells"]) == ["eap", "near"]
    assert set(told["cells"]["near"]) == {"generated", "dropped", "filtered"}
    assert json.loads((results / "proof.json").read_text()) == before
    text = (results / "proof.md").read_text()
    assert text.count("| cells | balanced (the set's own) |") == text.count("| cells | near |") == 1


# tables


def told(*values):
    from detection.metrics import interval

    return {"ap": interval(values)}


def gate(accepted: bool, *gains: float) -> dict:
    from detection.metrics import interval

    gain = interval(gains)
    return {"accepted": accepted, "gain": gain, "truly_helpful": gain["mean"] > 0, "chosen": None, "reference": None,
            "seeds": [{"accepted": accepted, "gain": g} for g in gains]}  # fmt: skip


def test_the_aims_are_counted_from_paired_intervals(code):
    found = {
        # paired: +.1 +.11 +.1 is above 0 however far apart supports are
        "a": {"filtered": told(0.5, 0.71, 0.9), "dropped": told(0.4, 0.6, 0.8), "generated": told(0.6, 0.81, 1.0),
              "gate": gate(True, 0.1, 0.11, 0.1)},
        "b": {"filtered": told(0.5, 0.6, 0.7), "dropped": told(0.6, 0.5, 0.7), "gate": gate(True, -0.1, -0.11, -0.1)},
        "c": {"filtered": told(0.5), "dropped": told(0.1), "gate": gate(False, 0.1, 0.2, -0.1)},
    }  # fmt: skip
    about = {name: {"metric": "ap", "k": 10} for name in found}
    lines = code.tables.aims(found, about).splitlines()
    assert lines[0] == "- filtered over generated: interval above 0 on 0 of 1 sets, below 0 on 1; mean above 0 on 0"
    assert "dropped: interval above 0 on 1 of 2 sets, below 0 on 0; mean above 0 on 1; " in lines[1]
    assert lines[1].endswith("; +0.052 (-0.605 to +0.708) over sets")  # of +.103 and 0: .052 -+ 12.7 * .052
    assert lines[2].startswith("- mixed over classical: interval above 0 on 0 of 0 sets")
    assert lines[3] == "- after the gate, below their reference by more than the interval: 1 of 3 sets"
    assert lines[4] == "- the gate accepts 1 of 2 truly helpful sets and 1 of 1 others"
    assert lines[5] == "- on single supports it accepts 3 of 5 truly helpful supports and 3 of 4 others"


def test_the_readme_says_what_the_results_say(code):
    found, about = (json.loads((ROOT / "benchmarks" / "results" / name).read_text()) for name in code.proof.FILES)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert code.tables.into(readme, code.tables.headline(found, about)) == readme


def test_the_head_table_tells_supports_and_untouched_sets_and_leaves_out_other_budgets(code):
    arms = {arm: told(0.25, 0.75) for arm in ARMS} | {"dropped": told(0.125, 0.5)}
    found = {"a": arms | {"gate": gate(True, 0.1, 0.3)}, "a@k5": arms | {"gate": gate(False, 0.0)}}
    about = {"a": {"metric": "ap", "k": 10, "untouched": True}, "a@k5": {"metric": "ap", "k": 5}}
    (head, _, row), *aims = [part.splitlines() for part in code.tables.headline(found, about).split("\n\n")]
    assert head.split(" | ")[1:3] == ["metric", "real"]
    assert row.startswith("| a (untouched, 2 supports) | ap |" + 4 * " 0.500 |" + " 0.312 | 0.500 | 0.500 | – |")
    assert row.endswith("| +0.188 (-0.607 to +0.982) | accepted, test +0.200 (-1.071 to +1.471) |")
    assert aims[::2] == [["Over all sets:"], ["Over the untouched sets alone:"]] and aims[1] == aims[3]
    with pytest.raises(InputError, match=r"README\.md: must hold"):
        code.tables.into("no marks", row)


def test_decisions_are_those_at_the_confidence_that_is_asked_for_now(code):
    gate = {"holds_at": 0.8, "accepted": False, "chosen": "r", "best": "b", "reference": "r",
            "seeds": [{"holds_at": 0.6, "accepted": True}, {"accepted": True}]}  # fmt: skip
    code.proof.decide_anew(gate, 0.7)
    assert (gate["accepted"], gate["chosen"]) == (True, "b")
    assert [seed["accepted"] for seed in gate["seeds"]] == [False, True]  # a run that did not tell keeps its own
    code.proof.decide_anew(gate, 0.8)
    assert (gate["accepted"], gate["chosen"]) == (False, "r")


def test_other_confidences_accept_what_holds_at_them(code):
    def gate(holds: float, *seeds: tuple[float, float]) -> dict:
        gain = sum(g for _, g in seeds) / len(seeds)
        own = [{"holds_at": h, "gain": g} for h, g in seeds]
        return {"gate": {"holds_at": holds, "gain": {"mean": gain}, "seeds": own}}

    found = {"a": gate(0.85, (0.92, 0.2), (0.1, 0.0)), "b": gate(0.55, (0.65, -0.1), (0.0, -0.3))}
    found |= {"earlier": {"gate": {"gain": {"mean": 1.0}}}, "none": {"gate": {"holds_at": 0.0, "gain": None}}}
    rows = [line.split(" | ") for line in code.tables.confidence_table(found).splitlines()[2:]]
    assert [row[0] for row in rows] == ["| 95%", "| 90%", "| 80%", "| 70%", "| 60%", "| 50%"]
    assert [row[1:5] for row in rows[:3]] == [["0/1", "0/1", "0/1", "0/3"], ["0/1", "0/1", "1/1", "0/3"],
                                              ["1/1", "0/1", "1/1", "0/3"]]  # fmt: skip
    assert rows[5][1:5] == ["1/1", "1/1", "1/1", "1/3"]
    assert rows[5][5:] == ["-0.0500", "+0.0250 |"]  # (.1 - .2) / 2 and (.2 - .1) / 4
    assert code.tables.confidence_table({"earlier": found["earlier"]}).count("\n") == 1


def test_labels_stand_side_by_side_and_a_bar_in_a_name_breaks_no_table(code):
    found = {"a": {"x|y": told(0.5, 0.7), "gate": {}}, "a@k5": {"x|y": told(0.4), "gate": {}}}
    about = {"a": {"set": "a", "k": 10, "metric": "ap"}, "a@k5": {"set": "a", "k": 5, "metric": "ap"}}
    lines = code.tables.labels_table(found, about).splitlines()
    assert lines[0] == "| set | arm | K = 5 | K = 10 |"
    assert lines[2].startswith("| a | x\\|y | 0.400 | 0.600 (-0.671 to 1.871) |")


def test_times_add_up_rounds(code):
    about = {"a": {"stages": {"judge-r1@a": 1.4, "judge-r2@a": 2.0, "fit@a": 5.0}, "seconds": 8.4}}
    assert code.tables.times_table(about).splitlines()[-1] == "| a | 3 | 5 | 8 |"


def test_rounds_tell_what_was_kept_how_far_the_steering_moved_and_who_stopped(code, tmp_path):
    def seed(kept: float, weights: dict, stop: str = "") -> dict:
        return {"diversity": {"kept": kept, "shapes": 4.0, "spread": 0.5}, "weights": weights, "stop": stop}

    even, leaning = {"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0}  # shares .5 .5 and .75 .25: a quarter moved
    for number, (one, other) in enumerate([(even, even), (leaning, even)], 1):
        home = tmp_path / f"r{number}"
        home.mkdir()
        stop = "settled: .." if number == 2 else ""
        told = {"seed0": seed(0.5, one), "seed1": seed(0.7, other, stop)}
        (home / "steer.json").write_text(json.dumps(told))
    rounds = code.proof.rounds_of(tmp_path)
    assert [r["kept"] for r in rounds] == pytest.approx([0.6, 0.6])
    assert rounds[0]["moved"] is None and rounds[1]["moved"] == pytest.approx(0.125)
    assert [r["stopped"] for r in rounds] == [0, 1]
    table = code.tables.rounds_table({"x": {"rounds": rounds}, "y": {"rounds": []}}).splitlines()
    assert table[2:] == ["| x | 0.60 → 0.60 | 0.12 | 4.0 → 4.0 | 0.50 → 0.50 | 1 |"]
    assert code.proof.rounds_of(tmp_path / "none") == []


def test_fidelity_is_set_against_what_the_kept_are_worth_support_by_support(code):
    """Inside each set kid falls as the gain rises; between the sets it rises with it, which must not count."""
    gains = {"a": [0.01, 0.02, 0.03, 0.04], "a@k5": [0.5, 0.6, 0.7, 0.8], "none": [0.1, 0.2, 0.3, 0.4]}
    kid = {"a": [4.0, 3.0, 2.0, 1.0], "a@k5": [40.0, 30.0, 20.0, 10.0]}
    found = {name: {"real": told(0, 0, 0, 0), "filtered": told(*own), "gate": {}} for name, own in gains.items()}
    about = {name: {"metric": "ap"} for name in gains}
    for name, values in kid.items():
        fidelity = {"seeds": [{"kept": {"generated": 9, "kid": v, "crop_fid": None}} for v in values]}
        about[name]["fidelity"] = code.proof.fidelity_of({"fidelity": fidelity})
    assert about["a"]["fidelity"] == {"generated": [9] * 4, "kid": kid["a"], "crop_fid": [None] * 4}
    lines = code.tables.fidelity_table(found, about).splitlines()
    assert lines[0].startswith("| measure | n | filtered over real | filtered over classical |")
    assert lines[2:] == ["| kid | 8 | -1.00 (-1.00 to -1.00) | – | – |", "| crop_fid | 0 | – | – | – |"]
    assert code.proof.fidelity_of({"fidelity": None}) == {}


def test_other_rankings_are_told_by_set_and_on_the_mean(monkeypatch):
    """Every variant changes settings that the filter has; a set's gains and their mean are in the table."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import criteria

    given = yaml.safe_load((ROOT / "params.yaml").read_text())["filter"]["row"]
    assert all(set(changes) <= set(given) for changes in criteria.VARIANTS.values())
    one = {v: {"mean": 0.01 * i, "low": -1, "high": 1} for i, v in enumerate(criteria.VARIANTS)}
    two = {v: {"mean": -0.02, "low": -0.03, "high": -0.01} for v in criteria.VARIANTS}
    lines = criteria.tables({"one": one, "two": two}).splitlines()
    assert lines[-2].split(" | ")[3] == "-0.020 (-0.030 to -0.010)" and lines[-3].split(" | ")[2].startswith("+0.010 ")
    assert lines[-1].split(" | ")[:3] == ["| mean", "-0.010", "-0.005"]
