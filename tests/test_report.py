"""The report: its sentence, what it shows, that it loads nothing, and that names stay inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from pages import ARMS, EVIL, NAMES, ablate, build, records, write_json

from data.errors import InputError
from data.records import Records, read_store
from detection.verdict import HARD, REASONS, REFUSED, SOFT
from pipelines import evidence, figures, findings, gallery, ledger, origin, report

LOADS = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "formaction", "background", "cite", "style"}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; `unclosed` must end empty."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.scripts, self.unclosed, self.wrong = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.scripts += [""] if tag == "script" else []
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.unclosed or self.unclosed[-1] != tag:
            self.wrong.append(tag)
        else:
            self.unclosed.pop()

    def handle_data(self, data):
        if self.unclosed and self.unclosed[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def galleries(self) -> dict:
        """{data set: what the page's script draws of it}."""
        return {own["name"]: own for own in json.loads(self.scripts[0])["datasets"]}

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(page text, parsed page, report.json) of one data set per modality."""
    root = tmp_path_factory.mktemp("whole")
    for name, modality in NAMES.items():
        build(root, name, modality)
    ablate(root, "tiles")
    write_json(root / "decisions.json", {"tiles": {"gen3": "reject"}})
    out = root / "reports" / "index.html"
    report.main(out, NAMES, root, each=12, limits={name: {"r1": {"copy": 0.1, "min_overlap": 0.2}} for name in NAMES})
    return out.read_text(), Page(out.read_text()), json.loads((out.parent / "report.json").read_text())


def gain(low, mean, high, n=3):
    arms = {a: {"pixel_ap": findings.entry({"mean": 0.4, "values": [0.4] * n})} for a in ("mixed", "classical")}
    return findings.verdict(
        {"metric": "pixel_ap", "arm": "mixed", "over": "classical", "mean": mean, "low": low, "high": high},
        arms,
    )


# the sentence


@pytest.mark.parametrize(
    "numbers, outcome, sentence",
    [
        (
            (-0.004, 0.031, 0.066, 3),
            "neither",
            "Mixed training data beat classical augmentation on pixel_ap by +0.031 "
            "(95 % interval −0.004 to +0.066, 3 supports): not shown to help or to hurt.",
        ),
        (
            (0.010, 0.031, 0.052, 5),
            "helps",
            "Mixed training data beat classical augmentation on pixel_ap by +0.031 "
            "(95 % interval +0.010 to +0.052, 5 supports): shown to help.",
        ),
        (
            (-0.052, -0.031, -0.010, 5),
            "hurts",
            "Mixed training data fell behind classical augmentation on pixel_ap by −0.031 "
            "(95 % interval −0.052 to −0.010, 5 supports): shown to hurt.",
        ),
        (
            (None, 0.031, None, 1),
            "single",
            "Mixed training data beat classical augmentation on pixel_ap by +0.031, "
            "measured on one support, so there is no interval: not shown to help or to hurt.",
        ),
        (
            (0.01, 0.031, 0.05, 1),
            "single",
            "Mixed training data beat classical augmentation on pixel_ap by +0.031, "
            "measured on one support, so there is no interval: not shown to help or to hurt.",
        ),
        (
            (None, None, None, 0),
            "none",
            "Mixed training data could not be compared with classical augmentation on pixel_ap: no value.",
        ),
    ],
)
def test_the_verdict_says_where_the_interval_lies(numbers, outcome, sentence):
    found = gain(*numbers)
    assert (found["outcome"], found["sentence"]) == (outcome, sentence)


def test_an_interval_that_touches_zero_shows_nothing():
    assert gain(0.0, 0.02, 0.04)["outcome"] == gain(-0.04, -0.02, 0.0)["outcome"] == "neither"


def test_a_small_gain_does_not_read_as_zero():
    assert [findings.signed(v) for v in (0.0312, 0.0004, -0.00001, 0.0)] == [
        "+0.031",
        "+0.0004",
        "−0.00001",
        "+0.000",
    ]


def test_the_best_mean_of_each_metric_is_marked():
    arms = findings.entries({"a": {"ap": {"mean": 0.2}, "auroc": {"mean": 0.9}}, "b": {"ap": {"mean": 0.3}}})
    rows = findings.table(arms)["rows"]
    assert [[c and c["best"] for c in row["cells"]] for row in rows] == [[False, True], [True, None]]


# the page


def test_the_page_is_well_formed_and_has_each_section(whole):
    _, page, _ = whole
    assert page.wrong == [] and page.unclosed == []
    for words in (
        "not shown to help or to hurt",
        "Generated records were taken",
        "The exported training set holds 12 records, 12 of them anomalies and 6 synthetic.",
        "No leak found: all 2 checks passed.",
        "Gate: generated data accepted.",
        "Audit: passed.",
        "Quarantined: 1 input left out",
        "! Data the pool holds 6 anomalies",
        "dvc repro",
        "Precision and recall",
        "likelihood_ratio",
        "share kept",
        "What each gate left",
        "Rejected by round and reason",
        "Training losses",
        "How odd the judges find them",
        "Of the kept records, per kind",
        "The loop stops here for seed0: enough",
        "Diversity: coverage 0.500.",
        "The kept records nearest to a real anomaly",
        "Label efficiency",
        "1 did not finish: broken.",
        "Versions and licences of the",
    ):
        assert page.said().count(words) >= 1, words


def test_the_page_loads_nothing_and_runs_only_its_own_script(whole):
    text, page, _ = whole
    bare = text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG's elements, never fetched
    refused = r"(?i)https?://|[\s:]url\(|@import|<iframe|<object|<embed|<link|<base|\.innerHTML|\beval\("
    assert not re.search(refused, bare)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", (tag, name)
            if name in LOADS:
                assert value.startswith("#"), (tag, name, value)
    scripts = [a for t, a in page.tags if t == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    policy = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.search("<style>(.*?)</style>", text, re.S)[1]
    named = [base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() for own in (style, page.scripts[1])]
    assert policy == [f"default-src 'none'; img-src data:; style-src 'sha256-{named[0]}'; "
                      f"script-src 'sha256-{named[1]}'; base-uri 'none'; form-action 'none'"]  # fmt: skip
    first = next(t for t, a in page.tags if t in {"style", "script", "img", "svg"} or a.get("http-equiv"))
    assert first == "meta"  # the policy stands before what it rules


def test_data_cannot_leave_its_script_element():
    told = {EVIL: "</script><!-- & \u2028 ]]>"}
    text = report.embedded(told)
    assert not re.search("[<>&\u2028\u2029]", text) and json.loads(text) == told


def test_user_given_names_are_inert(whole):
    text, page, _ = whole
    assert EVIL not in text and "alert(1)" in page.said()
    assert not [t for t, _ in page.tags if t == "img"]
    assert EVIL in {card["kind"] for card in page.galleries()["tiles"]["cards"]}  # and yet told as it is


def test_names_are_inert_in_every_figure():
    row = {"name": EVIL, "mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5]}
    line = np.arange(5.0)
    drawn = [
        figures.intervals(EVIL, [row]),
        figures.funnel(EVIL, 9, [(EVIL, 3)]),
        figures.lines(EVIL, [(EVIL, line, line)], x=EVIL, y=EVIL),
        figures.ridges(EVIL, [(EVIL, line)], line, [(1.0, EVIL)], [(2.0, EVIL)], x=EVIL),
    ]
    for svg in drawn:
        assert "<img" not in svg and "&lt;img" in svg and not Page(svg).wrong


def test_control_and_direction_characters_are_shown_as_codes():
    assert figures.plain("a\x1b[31m\u202eb\nc") == "a\\u001b[31m\\u202eb\\u000ac"
    assert len(figures.plain("x" * 999)) == 80


def test_light_dark_and_narrow_screens_are_provided_for(whole):
    text, page, _ = whole
    assert "prefers-color-scheme: dark" in text and "max-width: 560px" in text
    assert any(a.get("name") == "viewport" for _, a in page.tags)
    assert "prefers-reduced-motion" in text


def test_the_json_holds_the_same_figures(whole):
    _, page, told = whole
    tiles = told["datasets"]["tiles"]
    assert tiles["head"]["sentence"] in page.said() and tiles["head"]["mean"] == 0.031
    assert tiles["counts"]["generated"] == 24 and sum(tiles["counts"]["reasons"].values()) == 24
    assert (
        tiles["counts"]["kept"]
        == tiles["counts"]["reasons"]["kept"]
        == sum(k["kept"] for k in tiles["counts"]["kinds"])
    )
    assert {"metrics/tiles.json", "artifacts/tiles/gate.json"} <= set(tiles["hashes"])
    assert tiles["gate"]["accepted"] and tiles["audit"]["passed"] and tiles["exported"]["synthetic"] == 6
    cards = page.galleries()["tiles"]["cards"]
    assert [c["id"] for c in tiles["records"]] == [c["id"] for c in cards] and len(cards) == 24
    assert tiles["records"][0]["scores"] == cards[0]["scores"] and "pictures" not in tiles["records"][0]
    assert told["decisions"] == {"tiles": {"gen3": "reject"}} and told["ablation"]["failed"] == ["broken"]
    assert {"name", "version", "licence"} == set(told["packages"][0])


def test_every_arm_and_bin_is_told_once(whole):
    _, page, _ = whole
    drawn = [a["aria-label"] for t, a in page.tags if t == "svg" and a.get("aria-label", "").startswith("precision")]
    assert drawn == [f"precision and recall of {a}" for a in ("mixed", *ARMS[:-1])] * 3
    drawn = [a["aria-label"] for t, a in page.tags if t == "svg" and a.get("aria-label", "").startswith("label eff")]
    assert drawn == ["label efficiency of real", "label efficiency of mixed"]


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"weights": w, "diversity": {"x": 1.0}, "stop": ""}])
def test_weights_are_means_over_supports_and_say_how_each_bin_fared(tmp_path, wrap):
    seeds = {"seed0": wrap({"a|s|f": 0.2, "b|s|f": 0.5}), "seed1": wrap({"a|s|f": 0.4})}
    (tmp_path / "seed0").mkdir()
    pd.DataFrame({"fused": [0.5, 0.7]}).to_parquet(tmp_path / "seed0" / "real.parquet")
    own = pd.DataFrame({"kind": list("aaab"), "size_bin": "s", "severity_bin": "f", "seed_index": 0,
                        "keep": [True, True, False, True], "fused": [0.5, 0.7, 0.1, 0.9]})  # fmt: skip
    rows = ledger.steering(seeds, own, tmp_path)
    assert [(r["bin"], round(r["weight"], 9), r["lean"]) for r in rows] == [
        ("b · s · f", 0.5, "more"), ("a · s · f", 0.3, "less")]  # fmt: skip
    assert [(r["drawn"], r["kept"], r["weak"]) for r in rows] == [(1, 1, 0), (3, 2, 1)]


def test_counts_come_from_the_metrics_where_the_ledgers_are_gone():
    told = ledger.counted([], None, {"generated": 9, "kept": 4, "reasons": {"kept": 4, "seam": 5}})
    assert (told["generated"], told["kept"], told["reasons"]) == (9, 4, {"kept": 4, "seam": 5})


# the gallery


def test_images_stand_beside_host_control_difference_and_the_nearest_real_anomaly(whole):
    _, page, _ = whole
    tiles = page.galleries()["tiles"]
    for card in tiles["cards"]:
        assert set(card["pictures"]) == {"host", "generated", "control", "difference", "mask"}
        assert all(uri.startswith("data:image/webp;base64,") for uri in card["pictures"].values())
    assert {card["nearest"] for card in tiles["cards"]} <= {card["id"] for card in tiles["real"]} <= {
        "a1", "a3", "a2", "a5"}  # the support, not the whole pool


def test_the_nearest_real_anomaly_is_as_far_as_the_copy_distance_says(tmp_path):
    from data.records.codecs import CODECS
    from detection.novelty import copy_distance, edit_vectors

    build(tmp_path, "d", "series", n=9)
    folder = tmp_path / "artifacts" / "d"
    pool, plans = gallery.real(folder / "records" / "support", {"supports": [["a1", "a3", "a2", "a5"]]})
    made = read_store(folder / "r1" / "generated" / "seed0")
    near = gallery.Nearest(pool, plans, folder / "records" / "fit", True).of(made, 0)
    codec = CODECS["series"].fit(read_store(folder / "records" / "fit"))
    support, vectors = edit_vectors(pool, codec), edit_vectors(made, codec)
    typical = copy_distance(vectors, support)
    at = gallery.places(pool)
    own = np.array([np.linalg.norm(v - support[at[one]]) for v, one in zip(vectors, near)])
    assert np.allclose(own / typical, (own / typical)[0]) and len(set(near)) > 1


def test_pictures_are_exact_where_they_are_lossless():
    from PIL import Image

    rng = np.random.default_rng(0)
    for shape in ((9, 13), (9, 13, 3)):
        image = rng.integers(0, 256, shape).astype(np.uint8)
        head, data = figures.webp(image).split(",")
        read = np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("L" if image.ndim == 2 else "RGB"))
        assert head == "data:image/webp;base64" and np.array_equal(read, image)


def test_a_veil_is_clear_outside_the_mask_and_opaque_on_its_rim():
    mask = np.zeros((9, 13), bool)
    mask[3:7, 4:9] = True
    veil = figures.veil(mask)
    assert (veil[~mask] == 0).all() and (veil[3, 4] == (*figures.MARK, 255)).all()
    assert 0 < veil[4, 5, 3] < 255 and (veil[mask][:, 3] > 0).all()


def test_the_difference_is_zero_where_the_host_was_not_touched():
    host = np.full((4, 5, 3), 100, np.uint8)
    image = host.copy()
    image[1, 2] = (90, 100, 103)
    image[2, 2] = (0, 255, 0)
    shown = figures.difference(image, host)
    assert shown[1, 2] == 2 * 10 and shown[2, 2] == 255 and np.count_nonzero(shown) == 2


@pytest.mark.parametrize(
    "box, shape",
    [((0, 0, 4, 4), (200, 200)), ((190, 150, 10, 50), (200, 200)), ((50, 60, 70, 20), (128, 96))],
)
def test_the_window_holds_the_mask_and_stays_inside(box, shape):
    mask = np.zeros(shape, bool)
    mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    part = figures.window(mask)
    assert mask[part].sum() == mask.sum() and min(mask[part].shape) >= min(64, *shape)
    assert all(0 <= p.start < p.stop <= n for p, n in zip(part, shape, strict=True))


def test_series_cards_mark_exactly_the_spans_of_the_longest_marked_channels():
    own = records("series", 1, "gen", generated=True)
    own.mask[0][:] = False
    own.mask[0][24:48, 1] = own.mask[0][60:72, 1] = True
    card = gallery._series(own, 0, None, None, None)
    assert [(s["name"], s["spans"], s["steps"]) for s in card["strips"]] == [("flow", [[24, 48], [60, 72]], 96)]
    assert card["more"] == 2 and set(card["strips"][0]["lines"]) == {"record", "control"}
    line, x = np.array(card["strips"][0]["lines"]["record"]), own.x[0][:, 1]
    low, high = min(x.min(), own.control[0][:, 1].min()), max(x.max(), own.control[0][:, 1].max())
    assert np.abs(line / gallery.LEVELS * (high - low) + low - x).max() <= (high - low) / gallery.LEVELS


def test_a_missing_value_is_a_gap_of_a_card_and_long_lines_keep_their_peaks():
    own = records("series", 1, "gen", generated=True)
    own.x[0][5, 0] = np.nan
    assert gallery._series(own, 0, None, None, None)["strips"][0]["lines"]["record"][5] is None
    long = np.zeros(10_000)
    long[7777] = 9.0
    assert gallery.envelope(long).max() == 9.0 and len(gallery.envelope(long)) == gallery.POINTS
    assert np.isnan(gallery.envelope(np.full(10_000, np.nan))).all()


def test_rows_mark_exactly_the_changed_cells():
    host, made = records("row", 2, "n", 1, normal=True), records("row", 2, "gen", 1, generated=True)
    made.x.loc[0, "amount"] = host.x.loc[0, "amount"] + 1
    host.x.loc[0, "country"] = made.x.loc[0, "country"] = pd.NA
    made.mask[0] = [False, True, False]
    near = records("row", 1, "a", 3)
    cells = {made.x.columns[c[0]]: c for c in gallery._row(made, 0, host, 0, (near, 0))["cells"]}
    assert [name for name, c in cells.items() if c[4]] == ["amount"]
    assert [name for name, c in cells.items() if c[5]] == ["country"]
    assert cells["country"][2] == "missing" and cells["amount"][1] == f"{host.x.loc[0, 'amount']:.2f}"
    assert cells["amount"][3] == f"{near.x.loc[0, 'amount']:.2f}"


def test_rare_kinds_are_shown_too():
    assert gallery.spread(list("abcdef"), ["x"] * 5 + ["y"], 3) == ["a", "f", "b"]
    table = pd.DataFrame({"id": [f"{i}" for i in range(100)], "kind": ["x"] * 99 + ["y"], "reason": "kept", "at": "r1",
                          "keep": True, "margin": np.inf})  # fmt: skip
    assert list(gallery.choose(table, 3, 50)["id"]) == ["0", "1", "2", "99"]
    assert list(gallery.choose(table, 50, 2)["id"]) == ["0", "99"]


def test_the_borderline_is_what_lies_nearest_to_a_threshold():
    table = pd.DataFrame({"id": list("abcd"), "kind": "k", "reason": "kept", "keep": True, "at": "r1",
                          "fused": [0.1, 0.71, 0.9, 0.4], "invisible_below": 0.7, "trivial_above": 2.0,
                          "copy_distance": [1.0, 1.0, 0.11, np.inf]})  # fmt: skip
    own = ledger.margins(table, {"r1": {"copy": 0.1}})
    assert list(own["near"]) == ["fused|invisible", "fused|invisible", "copy_distance|copy", "fused|invisible"]
    assert np.allclose(own["by"], [-0.6, 0.01, 0.01, -0.3]) and list(own["margin"].argsort()) == [2, 1, 3, 0]
    assert ledger.told(own["near"][1], own["by"][1]) == "fused 0.010 above the invisible limit"
    seam = table.assign(control=[0.5, 0.69, 0.72, 0.1]).drop(columns="copy_distance")
    (_, limit), = ledger.thresholds(seam, {"r1": {"seam": 0.6}})["control"]
    assert list(limit) == [0.7] * 4  # what looks normal is no seam
    nothing = ledger.margins(table[["id", "at", "copy_distance"]], {})
    assert np.isinf(nothing["margin"]).all() and ledger.told("", np.nan) == ""


def test_supports_take_turns_in_the_gallery(tmp_path):
    for seed in range(2):
        folder = tmp_path / "r1" / "verdicts"
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"id": [f"{seed}{i}" for i in range(3)], "kind": "k", "keep": [True, False, True],
                      "reason": ["kept", "seam", "by hand"]}).to_parquet(folder / f"seed{seed}.parquet")  # fmt: skip
    table = ledger.read([tmp_path / "r1"])
    assert list(table["id"]) == ["00", "10", "01", "11", "02", "12"]
    assert ledger.counted([tmp_path / "r1"], table, {})["reasons"] == {"kept": 4, "seam": 2}


# scores


def test_the_funnel_keeps_the_filters_order_and_adds_up(whole):
    _, _, told = whole
    counts = told["datasets"]["tiles"]["counts"]
    assert [name for name, _ in counts["steps"]] == ["invisible", "trivial", f"seam {EVIL}"]
    assert counts["generated"] - sum(lost for _, lost in counts["steps"]) == counts["kept"] == 6
    assert ledger.ordered(["kept", "zeta", "trivial", "seam"]) == ["seam", "trivial", "zeta"]
    for seed in range(5):  # whatever comes first in a ledger
        shuffled = np.random.default_rng(seed).permutation(REASONS)
        assert ledger.ordered(shuffled) == [*HARD, *SOFT, REFUSED]


def test_normals_are_ranked_among_themselves(tmp_path):
    write_json(tmp_path / "seed0" / "fold0" / "reference.json", {"a": [1.0, 2.0, 3.0, 4.0], "b": [8.0, 6.0, 4.0, 2.0]})
    assert np.allclose(ledger.normals(tmp_path), 0.5)  # opposite ranks
    write_json(tmp_path / "seed0" / "fold1" / "reference.json", {"a": [1.0, 2.0], "b": [3.0]})
    assert np.allclose(ledger.normals(tmp_path)[4:], [0.25, 0.75])  # a role of another length is left out


def test_histograms_hold_real_normals_real_anomalies_and_every_band(whole):
    _, _, told = whole
    rows = {r["name"]: r["count"] for r in told["datasets"]["tiles"]["scores"]}
    assert rows == {"real normal": 40, "real anomaly": 12, "generated, invisible": 12, "generated, informative": 6,
                    "generated, trivial": 6, "generated, kept": 6}  # fmt: skip
    assert np.allclose(ledger.rarity(np.array([0.0, 0.9, 0.99, 1.0])), [0, 1, 2, ledger.RARE])


def test_closest_pairs_are_the_kept_ones_of_least_copy_distance(whole):
    _, page, told = whole
    copies = told["datasets"]["pumps"]["copies"]
    cards = {c["id"]: c for c in page.galleries()["pumps"]["cards"]}
    kept = sorted(c["distance"] for c in cards.values() if c["group"] == "accepted")
    assert np.allclose([p["distance"] for p in copies["pairs"]], kept[:6], rtol=1e-4)
    assert {i for i, c in cards.items() if c["closest"]} == {p["id"] for p in copies["pairs"]}
    assert copies["limit"] == 0.1 and np.isclose(copies["least"], kept[0], rtol=1e-4)


# gate, audit, ablation


def test_a_failed_audit_is_said_first(tmp_path):
    checks = [{"name": "fine", "passed": True}, {"name": "twins", "passed": False, "pairs": [["a", "b"]] * 12}]
    write_json(tmp_path / "audit.json", {"passed": False, "checks": checks})
    told = evidence.audit(tmp_path)
    assert told["sentence"] == "Leakage: 1 of 2 checks failed (twins); do not trust the figures above."
    assert [c["name"] for c in told["checks"]] == ["twins", "fine"] and told["checks"][0]["more"] == 2
    write_json(tmp_path / "audit.json", {"passed": True, "checks": checks})
    assert not evidence.audit(tmp_path)["passed"]  # a failed check outweighs the word
    write_json(tmp_path / "audit.json", {"checks": []})
    assert not evidence.audit(tmp_path)["passed"]


def test_candidates_of_the_gate_stand_best_first(tmp_path):
    assert evidence.gate(tmp_path) is None and evidence.audit(tmp_path) is None and evidence.exported(tmp_path) is None
    rows = [{"arm": "a", "mean": 0.1}, {"arm": "b", "mean": None}, {"arm": "c", "mean": 0.3}]
    write_json(tmp_path / "gate.json", {"accepted": False, "candidates": rows, "chosen": {"arm": "c", "weight": 0.5}})
    told = evidence.gate(tmp_path)
    assert [c["arm"] for c in told["candidates"]] == ["c", "a", "b"] and told["chosen"] == "c · weight 0.5"
    assert "not used" in told["sentence"]


def test_ablation_columns_are_axes_then_metrics_then_changes_then_fidelity(tmp_path):
    assert evidence.ablation(tmp_path) is None
    ablate(tmp_path, "d")
    told = evidence.ablation(tmp_path)
    assert told["columns"] == ["data set", "cell", "filter", "gain", "mixed over base", "kid", "status"]
    assert told["rows"][0][4] == "+0.020 (-0.010 to +0.050)"
    assert told["rows"][1] == ["d", "broken", "off", "–", "–", "0.200", "FAILED"] and told["failed"] == ["broken"]
    assert [arm for arm, _ in evidence.efficiency(told["label_efficiency"], "d")] == ["real", "mixed"]
    assert evidence.efficiency(told["label_efficiency"], "other") == []


def test_commands_are_those_of_dvc_yaml_once_a_data_set(tmp_path):
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  fit: {foreach: '${datasets}', do: {cmd: 'fit ${key}'}}\n  report: {cmd: report}\n"
    )
    assert origin.commands(tmp_path / "dvc.yaml", ["a", "b"]) == ["fit a", "fit b", "report"]
    assert origin.commands(tmp_path / "none.yaml", ["a"]) == []


def test_decisions_of_another_form_are_named(tmp_path):
    assert report.decided(tmp_path / "decisions.json") == {}
    write_json(tmp_path / "decisions.json", {"d": {"g1": "maybe"}})
    with pytest.raises(InputError, match=r"decisions\.json: d: must map .* to accept or reject, got \['maybe'\]"):
        report.decided(tmp_path / "decisions.json")
    write_json(tmp_path / "decisions.json", {"d": ["g1"]})
    with pytest.raises(InputError, match="accept or reject"):
        report.decided(tmp_path / "decisions.json")


# the curves


def test_thinned_lines_keep_their_peaks_and_means():
    ys = np.zeros(10_000)
    ys[7777] = 9.0
    assert figures.thin(np.arange(10_000), ys, 200, "peaks")[1].max() == 9.0
    assert np.isclose(figures.thin(np.arange(10_000), ys, 200)[1].mean(), ys.mean())


def test_an_interval_is_drawn_where_its_numbers_are():
    rows = [
        {"name": "a", "mean": 0.5, "low": 0.4, "high": 0.6, "values": []},
        {"name": "b", "mean": 0.2, "low": None, "high": None, "values": []},
    ]
    svg = figures.intervals("t", rows, reference=0.5)
    whisker = [
        float(v)
        for v in re.search(
            r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="whisker', svg
        ).groups()
    ]
    dots = [float(v) for v in re.findall(r'<circle cx="([\d.]+)"', svg)]
    reference = float(re.search(r'<line x1="([\d.]+)"[^>]*class="reference"', svg)[1])
    assert reference == dots[0] == pytest.approx(sum(whisker) / 2, abs=0.1) and svg.count("whisker") == 1
    assert (dots[0] - dots[1]) / (whisker[1] - whisker[0]) == pytest.approx(0.3 / 0.2, abs=0.01)


def test_missing_values_break_a_line():
    assert (
        figures.path(np.arange(4.0), np.array([0, 1, np.nan, 2]), "c")
        == '<path d="M0.0 0.0L1.0 1.0M3.0 2.0" class="c"/>'
    )


# what is not there


def test_nothing_run_yet_is_said_and_does_not_fail(tmp_path):
    out = tmp_path / "index.html"
    report.main(out, {"empty": "image"}, tmp_path)
    said = Page(out.read_text()).said()
    assert "Not run yet." in said and "No verdict" in said
    for stages in (
        "run evaluate",
        "run generate, judge and filter",
        "run prepare and generate",
        "run fit and adapt",
        "run prepare.",
    ):
        assert stages in said, stages


@pytest.mark.parametrize(
    "gone",
    [
        "metrics",
        "artifacts/d/summary.json",
        "artifacts/d/records/fit",
        "artifacts/d/records/support",
        "artifacts/d/r1/verdicts",
        "artifacts/d/r1/generated",
        "artifacts/d/r1/steer.json",
        "artifacts/d/base",
        "artifacts/d/evaluation",
        "artifacts/d/splits.json",
        "artifacts/d/judges",
        "artifacts/d/training",
        "artifacts/d/gate.json",
        "artifacts/d/fidelity.json",
    ],
)
@pytest.mark.parametrize("modality", ["image", "row"])
def test_any_one_input_may_be_missing(tmp_path, gone, modality):
    build(tmp_path, "d", modality, n=8)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report.main(tmp_path / "index.html", {"d": modality}, tmp_path)
    assert not Page((tmp_path / "index.html").read_text()).wrong


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    build(tmp_path, "d", "row", n=8, seeds=1)
    told = report.main(tmp_path / "index.html", {"d": "row"}, tmp_path)
    assert told["datasets"]["d"]["head"]["outcome"] == "single"
    assert "one support, so there is no interval" in Page((tmp_path / "index.html").read_text()).said()


def test_a_torn_metrics_file_is_named(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "d.json").write_text('{"arms": ')
    with pytest.raises(InputError, match=r"metrics/d\.json: must be JSON"):
        report.main(tmp_path / "index.html", {"d": "row"}, tmp_path)


def test_nan_in_the_metrics_reads_as_missing(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "d.json").write_text(
        '{"arms": {"real": {"ap": {"mean": NaN, "low": NaN, "high": NaN, "values": [NaN]}}}, '
        '"gain": {"metric": "ap", "arm": "real", "over": "real", "mean": NaN}}'
    )
    told = report.main(tmp_path / "index.html", {"d": "row"}, tmp_path)
    assert told["datasets"]["d"]["head"]["outcome"] == "none"


def test_the_same_artefacts_give_the_same_page(tmp_path):
    build(tmp_path, "d", "image", n=8)
    pages = []
    for name in ("a", "b"):
        report.main(tmp_path / name / "index.html", {"d": "image"}, tmp_path)
        pages.append((tmp_path / name / "index.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_ledger_with_the_least_columns_is_enough(tmp_path):
    build(tmp_path, "d", "row", n=8)
    file = tmp_path / "artifacts" / "d" / "r1" / "verdicts" / "seed0.parquet"
    pd.read_parquet(file)[["id", "kind", "keep", "reason"]].to_parquet(file)
    report.main(tmp_path / "index.html", {"d": "row"}, tmp_path)
    assert len(Page((tmp_path / "index.html").read_text()).galleries()["d"]["cards"]) == 8


def test_before_judging_records_are_shown_without_a_verdict(tmp_path):
    build(tmp_path, "d", "series", n=8)
    shutil.rmtree(tmp_path / "artifacts" / "d" / "r1" / "verdicts")
    report.main(tmp_path / "index.html", {"d": "series"}, tmp_path)
    own = Page((tmp_path / "index.html").read_text()).galleries()["d"]
    assert {c["group"] for c in own["cards"]} == {"unjudged"} and len(own["cards"]) == 8 and not own["judged"]


def test_pages_of_noise_stay_under_ten_megabytes(tmp_path, monkeypatch):
    rng, n = np.random.default_rng(0), 40
    noisy = records("image", n, "gen", generated=True)
    noise = [rng.integers(0, 256, (300, 300, 3)).astype(np.uint8) for _ in range(n)]
    own = Records("image", noisy.meta, noise, [np.ones((300, 300), bool) for _ in range(n)], {}, None, noise)
    cards = [gallery.facts(own, i, {"keep": True}) | {"nearest": None} | gallery._image(own, i, None, None, None)
             for i in range(n)]  # fmt: skip
    chosen = {"cards": cards, "real": [], "columns": [], "total": n, "judged": True}
    monkeypatch.setattr(gallery, "pick", lambda *_, **__: chosen)
    out = tmp_path / "index.html"
    assert report.LIMIT < 10_000_000
    for most in (1_200_000, 600_000):
        monkeypatch.setattr(report, "LIMIT", most)
        report.main(out, {f"d{k}": "image" for k in range(2)}, tmp_path)
        assert most / 4 < out.stat().st_size <= most
        assert [len(own["cards"]) for own in Page(out.read_text()).galleries().values()] == [n, n]
    monkeypatch.setattr(report, "SIZES", report.SIZES[-1:])
    report.main(out, {f"d{k}": "image" for k in range(2)}, tmp_path)
    monkeypatch.setattr(report, "LIMIT", out.stat().st_size - 5_000)  # too small for all the cards at any size
    report.main(out, {f"d{k}": "image" for k in range(2)}, tmp_path)
    left = [len(own["cards"]) for own in Page(out.read_text()).galleries().values()]
    assert out.stat().st_size <= report.LIMIT and 0 < left[0] < n and len(set(left)) == 1


def test_decisions_on_records_that_are_no_more_are_counted(tmp_path):
    build(tmp_path, "tiles", "image")
    out = tmp_path / "reports" / "index.html"
    for decided, said in (({"gen3": "reject"}, None), ({"gen3": "reject", "g1-0": "accept", "g2-0": "reject"}, "2")):
        write_json(tmp_path / "decisions.json", {"tiles": decided})
        report.main(out, {"tiles": "image"}, tmp_path, each=4)
        told = Page(out.read_text()).said()
        assert (f"{said} of its decisions name records that are no more" in told) == (said is not None)
        assert ("records that are no more" in told) == (said is not None)


def test_decisions_on_a_data_set_that_is_not_there_are_told_and_left(tmp_path):
    """Misspelt or set aside: the page says it and gives the decisions back as they were."""
    for name in ("tiles", "pumps"):
        build(tmp_path, name, NAMES[name])
    out, decided = tmp_path / "index.html", {"tyles": {"gen3": "reject"}, "zzz": {"x": "accept"}}
    write_json(tmp_path / "decisions.json", decided)
    told = report.main(out, {name: NAMES[name] for name in ("tiles", "pumps")}, tmp_path, each=4)
    page = Page(out.read_text())
    assert page.said().count("decisions on 'tyles' are not used, it is no data set of params.yaml (did you mean "
                             "'tiles'?)") == 1  # fmt: skip
    assert "decisions on 'zzz' are not used" in page.said() and told["decisions"] == decided
    assert json.loads(page.scripts[0])["decisions"] == decided
    write_json(tmp_path / "decisions.json", {"tiles": {"gen3": "reject"}})
    report.main(out, {"tiles": "image"}, tmp_path, each=4)
    assert "are not used" not in Page(out.read_text()).said()
