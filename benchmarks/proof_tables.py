"""Tables of the proof as Markdown, from what proof.json and proof_cells.json hold."""

from __future__ import annotations

from data.errors import InputError
from pipelines.markdown import signed, table

HEAD = 10  # the K that a set's own name stands for
USUAL = 5  # supports a set; other numbers are told
MARKS = ("<!-- proof: python benchmarks/proof.py --readme -->\n", "<!-- /proof -->\n")  # around README's table
MADE = "Written by `python benchmarks/proof.py`. Means over supports, 95 % intervals; gains are paired by support."
GATE = """*reference* is the gate's best candidate without generations; *gain on test* is what its best candidate with
generations gains over it on the real test split, which the gate never sees. *Truly helpful*: that gain has a mean above
0. *Harmed*: the gate accepted, and the interval of the gain lies below 0."""
UNTOUCHED = """The same of those sets alone on which nothing was chosen that makes, judges or filters records: every arm
was run once, after all of that. How the gate counts was changed later, in sight of annthyroid and pima."""
CONFIDENCES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
CONFIDENCE = """What another `gate.*.confidence` would do, on the sets and numbers of labels whose gate told at which
confidence it holds. *Won*: what is gained on the test split, a support: the gain where it accepts, else 0."""
CRITERIA = """The whole loop with another criterion of the filter each: its filtered arm, and the paired gain over as
many records dropped at random from the same generations."""
ROUNDS = """Means over supports, a round each. *Moved*: half the L1 distance between what one round's verdicts and the
next one's say should be drawn, of 1; below the setting `settled` a support's loop stops. *Shapes*: the effective number
of combinations of kind, size and severity among the kept; *spread*: the mean distance between kept edits, that between
real anomalies being 1. *Stopped*: supports whose loop ended, settled or collapsed, at the latest in the last round."""

FIDELITY = """Whether a measure of how like the real anomalies the kept ones are (docs/ablations.md) tells what they are
worth: Spearman's correlation of it with gains on the test split over the supports (*n*), ranks centred inside each set
and K, with 95 % bootstrap intervals that are not corrected for the number of measures."""


def title(name: str, k: int) -> str:
    """The name of a cell in the tables."""
    return name if k == HEAD else f"{name}@k{k}"


def tables(found: dict, about: dict, failed: list[dict], criteria: dict | None = None) -> str:
    """proof.md. found: proof.json; about: proof_cells.json; failed: results of cells that FAILED; criteria:
    proof_criteria.json."""
    heads = {name: entry for name, entry in found.items() if about[name]["k"] == HEAD}
    untouched = {name: entry for name, entry in heads.items() if about[name].get("untouched")}
    parts = {
        "# The proof": f"{MADE}\n\n{aims(heads, about)}",
        **({"## On untouched sets": f"{UNTOUCHED}\n\n{aims(untouched, about)}"} if untouched else {}),
        f"## Arms, K = {HEAD}": arms_table(heads, about),
        "## The gate": f"{GATE}\n\n{gate_table(found)}\n\n{CONFIDENCE}\n\n{confidence_table(found)}",
        "## Labels": labels_table(found, about),
        "## Funnel": funnel_table(found, about),
        "## Rounds": f"{ROUNDS}\n\n{rounds_table(about)}",
        "## Fidelity and usefulness": f"{FIDELITY}\n\n{fidelity_table(found, about)}",
        "## Times": times_table(about),
    }
    if criteria:
        parts[f"## Criteria, K = {HEAD}"] = f"{CRITERIA}\n\n{criteria_table(criteria, heads, about)}"
    if failed:
        parts["## FAILED"] = "\n".join(f"- {result['cell']}: {result['error']}" for result in failed)
    return "\n\n".join(f"{head}\n\n{text}" for head, text in parts.items()) + "\n"


# how far the aims are met


def paired(entry: dict, arm: str, over: str, metric: str) -> dict | None:
    """The paired interval of the gain of an arm over another, None where one was not measured."""
    from detection import metrics

    pair = [entry.get(name, {}).get(metric, {}).get("values") for name in (arm, over)]
    return metrics.paired(*pair) if all(pair) and len(pair[0]) == len(pair[1]) else None


def aims(heads: dict, about: dict) -> str:
    """A line an aim."""
    lines = []
    for arm, over in (("filtered", "generated"), ("filtered", "dropped"), ("mixed", "classical")):
        gains = [paired(entry, arm, over, about[name]["metric"]) for name, entry in heads.items()]
        known = [gain for gain in gains if gain and gain["low"] is not None]
        above, below = sum(gain["low"] > 0 for gain in known), sum(gain["high"] < 0 for gain in known)
        better = sum(gain["mean"] > 0 for gain in known)
        lines.append(f"- {arm} over {over}: interval above 0 on {above} of {len(known)} sets, below 0 on {below}; "
                     f"mean above 0 on {better}{together(known)}")  # fmt: skip
    said = [entry["gate"] for entry in heads.values() if entry["gate"].get("truly_helpful") is not None]
    harm = sum(harmed(gate) for gate in said)
    lines.append(f"- after the gate, below their reference by more than the interval: {harm} of {len(said)} sets")
    lines.append("- the gate accepts " + accepted([(g["accepted"], g["truly_helpful"]) for g in said], "sets"))
    seeds = [(seed["accepted"], seed["gain"] > 0) for gate in said for seed in gate.get("seeds") or ()]
    lines.append("- on single supports it accepts " + accepted(seeds, "supports"))
    return "\n".join(lines)


def together(gains: list[dict]) -> str:
    """'; +0.012 (+0.003 to +0.021) over sets', of the mean gain of each; nothing for fewer than two."""
    from detection.metrics import interval

    return f"; {signed(interval([gain['mean'] for gain in gains]))} over sets" if len(gains) > 1 else ""


def harmed(gate: dict) -> bool:
    """Whether the gate accepted what the test shows to be worse."""
    high = (gate["gain"] or {}).get("high")
    return bool(gate["accepted"] and high is not None and high < 0)


def accepted(pairs: list[tuple[bool, bool]], what: str) -> str:
    """'2 of 3 helpful sets and 1 of 4 others' of (accepted, helpful) pairs."""
    helpful, others = [a for a, good in pairs if good], [a for a, good in pairs if not good]
    return f"{sum(helpful)} of {len(helpful)} truly helpful {what} and {sum(others)} of {len(others)} others"


# tables


def headline(found: dict, about: dict) -> str:
    """README's table, every set's arms at the head's K, what the filter is worth and what the gate said; and the aims
    over all of these sets and over the untouched."""
    heads = {name: entry for name, entry in found.items() if about[name]["k"] == HEAD}
    untouched = {name: entry for name, entry in heads.items() if about[name].get("untouched")}
    parts = [arms_and_gate(heads, about), "Over all sets:", aims(heads, about)]
    parts += ["Over the untouched sets alone:", aims(untouched, about)] if untouched else []
    return "\n\n".join(parts)


def arms_and_gate(heads: dict, about: dict) -> str:
    from detection.arms import ARMS, SHUFFLED

    arms, rows = (*ARMS, SHUFFLED), []
    for name, entry in heads.items():
        metric, gate = about[name]["metric"], entry["gate"]
        supports = len(entry["real"][metric]["values"])
        notes = ["untouched"] * bool(about[name].get("untouched")) + [f"{supports} supports"] * (supports != USUAL)
        said = f"{'accepted' if gate['accepted'] else 'refused'}, test {signed(gate['gain'])}"
        own = [mean(entry.get(arm, {}).get(metric)) for arm in arms]
        gain = signed(paired(entry, "filtered", "dropped", metric))
        rows.append([f"{name} ({', '.join(notes)})" if notes else name, metric, *own, gain, said])
    return table(["set", "metric", *arms, "filtered over dropped (95 %)", "gate"], rows)


def into(readme: str, text: str) -> str:
    """The page with what stands between the marks replaced; InputError where the marks are not there."""
    if any(readme.count(mark) != 1 for mark in MARKS):
        marks = " and ".join(mark.strip() for mark in MARKS)
        raise InputError(f"README.md: must hold {marks} once each; put them back")
    before, rest = readme.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{text}\n\n{MARKS[1]}{after}"


def arms_table(heads: dict, about: dict) -> str:
    names = list(dict.fromkeys(arm for entry in heads.values() for arm in entry if arm != "gate"))
    rows = []
    for name, entry in heads.items():
        metric = about[name]["metric"]
        gains = [signed(paired(entry, "filtered", over, metric)) for over in ("generated", "dropped")]
        rows.append([name, metric, *(mean(entry.get(arm, {}).get(metric)) for arm in names), *gains])
    return table(["set", "metric", *names, "filtered - generated", "filtered - dropped"], rows)


def gate_table(found: dict) -> str:
    rows = []
    for name, entry in found.items():
        gate = entry["gate"]
        seeds = gate.get("seeds") or []
        choices = [candidate(gate[side]) for side in ("chosen", "reference")]
        said = [yes(gate["accepted"]), signed(gate["gain"]), yes(gate["truly_helpful"]), yes(harmed(gate))]
        rows.append([name, *choices, *said, f"{sum(seed['accepted'] for seed in seeds)}/{len(seeds)}"])
    head = ["set", "chosen", "reference", "accepted", "gain on test", "truly helpful", "harmed", "supports accepted"]
    return table(head, rows)


def confidence_table(found: dict) -> str:
    """How many a gate of another confidence accepts, of the helped and of the others, and what that is worth."""
    gates = [entry["gate"] for entry in found.values()]
    known = [gate for gate in gates if gate.get("holds_at") is not None and gate["gain"]]
    sets = [(gate["holds_at"], gate["gain"]["mean"]) for gate in known]
    supports = [(seed["holds_at"], seed["gain"]) for gate in known for seed in gate["seeds"]]
    rows = []
    for confidence in CONFIDENCES if known else ():
        said = [share(side, confidence, good) for side in (sets, supports) for good in (True, False)]
        won = [sum(gain for holds, gain in side if holds > confidence) / len(side) for side in (sets, supports)]
        rows.append([f"{confidence:.0%}", *said, *(f"{value:+.4f}" for value in won)])
    head = ["sets, helped", "sets, others", "supports, helped", "supports, others", "won, sets", "won, supports"]
    return table(["confidence", *head], rows)


def share(pairs: list[tuple[float, float]], confidence: float, good: bool) -> str:
    """'3/9' accepted of those that the test says gain, or of the others; pairs: (confidence it holds at, gain)."""
    own = [holds > confidence for holds, gain in pairs if (gain > 0) == good]
    return f"{sum(own)}/{len(own)}"


def labels_table(found: dict, about: dict) -> str:
    """The head metric of every arm over K."""
    budgets = sorted({a["k"] for a in about.values()})
    rows = []
    for name in dict.fromkeys(a["set"] for a in about.values()):
        own = {k: found.get(title(name, k), {}) for k in budgets}
        metric = next(a["metric"] for a in about.values() if a["set"] == name)
        for arm in dict.fromkeys(arm for entry in own.values() for arm in entry if arm != "gate"):
            rows.append([name, arm, *(interval(own[k].get(arm, {}).get(metric)) for k in budgets)])
    return table(["set", "arm", *(f"K = {k}" for k in budgets)], rows)


def funnel_table(found: dict, about: dict) -> str:
    """How many were generated, fell to each reason, and were kept, rounds and supports together."""
    counts = {name: about[name]["counts"] for name in found}
    reasons = sorted({reason for own in counts.values() for reason in own.get("reasons", {})} - {"kept"})
    rows = []
    for name, own in counts.items():
        fell = [own.get("reasons", {}).get(reason, 0) for reason in reasons]
        rows.append([name, own.get("generated", "–"), *fell, own.get("kept", "–")])
    return table(["set", "generated", *reasons, "kept"], rows)


def criteria_table(criteria: dict, heads: dict, about: dict) -> str:
    rows = []
    for name, own in criteria.items():
        metric = about[name]["metric"] if name in about else ""
        head = {arm: heads[name][arm][metric] for arm in ("dropped", "filtered")} if name in heads else None
        usual = {f"{about[name]['criterion']} (the set's own)": head} if head else {}
        for criterion, arms in (usual | own).items():
            gain = paired({arm: {metric: value} for arm, value in arms.items()}, "filtered", "dropped", metric)
            rows.append([name, criterion, mean(arms["filtered"]), mean(arms["dropped"]), signed(gain)])
    return table(["set", "criterion", "filtered", "dropped", "filtered - dropped"], rows)


def rounds_table(about: dict) -> str:
    """How the loop went on: whether it settles, and whether what is kept stays varied."""
    rows = []
    for name, told in about.items():
        rounds = told.get("rounds") or []
        if rounds:
            series = {key: " → ".join(figure(r[key]) for r in rounds if r[key] is not None)
                      for key in ("kept", "moved", "shapes", "spread")}  # fmt: skip
            rows.append([name, *series.values(), rounds[-1]["stopped"]])
    return table(["set", "kept share", "moved", "shapes", "spread", "stopped"], rows)


def fidelity_table(found: dict, about: dict) -> str:
    """A line a measure of fidelity, a column a gain; whole-record measures before those of the anomalous part."""
    from pipelines.tables import COUNTS, GAINS, correlation

    points: dict[tuple, list[dict]] = {}
    for name, told in about.items():
        for pair in GAINS:
            arms = [found[name].get(arm, {}).get(told["metric"], {}).get("values") or [] for arm in pair]
            for measure, values in told.get("fidelity", {}).items():
                if measure not in COUNTS and len(values) == len(arms[0]) == len(arms[1]):
                    points.setdefault((measure, pair), []).extend(
                        {"dataset": name, "x": x, "y": a - b} for x, a, b in zip(values, *arms) if x is not None
                    )
    measures = sorted({measure for measure, _ in points}, key=lambda m: (m.startswith("crop_"), m))
    each = {measure: [correlation(points.get((measure, pair), [])) for pair in GAINS] for measure in measures}
    rows = [[measure, max(c["n"] for c in own), *map(correlated, own)] for measure, own in each.items()]
    return table(["measure", "n", *(" over ".join(pair) for pair in GAINS)], rows)


def correlated(value: dict) -> str:
    return "–" if value["rho"] is None else f"{value['rho']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"


def figure(value: float) -> str:
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def times_table(about: dict) -> str:
    """Seconds of the stages that a cell ran itself, rounds together; what it fetched from another cell is not in it."""
    own: dict[str, dict] = {name: {} for name in about}
    for name, told in about.items():
        for stage, seconds in told["stages"].items():
            short = stage.split("@")[0].split("-r")[0]
            own[name][short] = own[name].get(short, 0) + seconds
    stages = list(dict.fromkeys(stage for times in own.values() for stage in times))
    rows = []
    for name, times in own.items():
        spent = [f"{times[stage]:.0f}" if stage in times else "–" for stage in stages]
        rows.append([name, *spent, f"{about[name]['seconds']:.0f}"])
    return table(["set", *(f"{stage}, s" for stage in stages), "all, s"], rows)


def mean(value: dict | None) -> str:
    return f"{value['mean']:.3f}" if value else "–"


def interval(value: dict | None) -> str:
    if not value or value.get("low") is None:
        return mean(value)
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def candidate(value: dict | None) -> str:
    """'filtered, forest, real share 0.5, fused'."""
    if not value:
        return "–"
    share = f"real share {value['weight']}" if value.get("weight") is not None and value["arm"] != "real" else ""
    return ", ".join(filter(None, [value["arm"], value.get("detector"), share, "fused" if value.get("fuse") else ""]))


def yes(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"
