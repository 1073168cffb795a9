"""The report: its sentence, what it shows, that it loads nothing, and that names stay inert."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.errors import InputError
from data.records import Records, make_meta, write_store
from pipelines import figures, findings, gallery, report

EVIL = "<img src=x onerror=alert(1)>"
ARMS = ("real", "standard", "classical", "generated", "dropped", "filtered", "mixed")
LOADS = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "data",
    "poster",
    "action",
    "formaction",
    "background",
    "cite",
    "style",
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; `unclosed` must end empty."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.unclosed, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
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
        self.text.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def cell(values):
    values = [float(v) for v in values]
    half = 4.3 * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    mean = float(np.mean(values))
    return {
        "mean": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "values": values,
    }


def payload(modality: str, n: int, rng: np.random.Generator, change: bool = True):
    """x, mask, schema, time of n records; without `change` the same records before their anomalies."""
    if modality == "image":
        x, mask = [], []
        for _ in range(n):
            yy, xx = np.mgrid[:72, :96]
            image = 120 + 20 * np.sin(xx / 7 + rng.uniform(0, 6)) + 8 * rng.standard_normal((72, 96))
            marked = (yy - rng.integers(15, 55)) ** 2 / 40 + (xx - rng.integers(20, 76)) ** 2 / 130 < 1
            image[marked] -= 60 * change
            x.append(image.clip(0, 255).astype(np.uint8))
            mask.append(marked)
        return x, mask, {}, None
    if modality == "series":
        x, mask = [], []
        for _ in range(n):
            wave = np.sin(np.arange(96)[:, None] / np.array([4, 9, 15])) + 0.1 * rng.standard_normal((96, 3))
            marked = np.zeros((96, 3), bool)
            start = rng.integers(20, 60)
            marked[start : start + 18, :2] = True
            wave[marked] += 1.5 * change
            x.append(wave)
            mask.append(marked)
        return x, mask, {"channels": ["pressure", "flow", "temp"]}, [np.arange(96, dtype=np.int64)] * n
    mask = rng.random((n, 3)) < 0.4
    mask[:, 0] = True
    amount = rng.normal(50, 9, n).round(2) + 200 * change
    x = pd.DataFrame(
        {
            "amount": amount,
            "country": pd.array(rng.choice(["DE", "FR"], n), "string"),
            "age": pd.array(rng.integers(18, 80, n), "Int64"),
        }
    )
    schema = {
        "columns": [
            {"name": "amount", "type": "numeric", "nullable": False, "decimals": 2},
            {"name": "country", "type": "categorical", "nullable": False, "categories": ["DE", "FR"]},
            {"name": "age", "type": "integer", "nullable": False},
        ]
    }
    return x, mask, schema, None


def records(
    modality: str,
    n: int,
    prefix: str,
    seed: int = 0,
    *,
    normal: bool = False,
    generated: bool = False,
    kinds=("crack", EVIL),
) -> Records:
    rng = np.random.default_rng(seed)
    x, mask, schema, time = payload(modality, n, rng, not normal)
    if normal:
        mask = [np.zeros_like(m) for m in mask] if isinstance(mask, list) else np.zeros_like(mask)
    columns = {
        "id": [f"{prefix}{i}" for i in range(n)],
        "label": 0 if normal else 1,
        "group": "g",
        "source": "s",
        "split": "generated" if generated else "fit" if normal else "support",
        "kind": "normal" if normal else [kinds[i % len(kinds)] for i in range(n)],
    }
    control = None
    if generated:
        columns |= {
            "synthetic": True,
            "host": [f"n{i}" for i in range(n)],
            "severity": 1.0,
            "seed": list(range(n)),
            "parents": [["a0"]] * n,
            "generator": "base",
            "mask_source": "bank",
            "round": 1,
        }
        control = payload(modality, n, np.random.default_rng(seed), False)[0]
    return Records(modality, make_meta(n, **columns), x, mask, schema, time, control)


def build(
    root: Path, name: str, modality: str, *, n: int = 24, gain=(-0.004, 0.031, 0.066), seeds: int = 3
) -> None:
    """Artefacts of one data set, as the stages leave them."""
    folder, rng = root / "artifacts" / name, np.random.default_rng(3)
    write_store(folder / "records" / "fit", records(modality, n, "n", 1, normal=True))
    write_store(folder / "records" / "support", records(modality, 6, "a", 2))
    made = folder / "r1" / "generated" / "seed0"
    generated = records(modality, n, "gen", 1, generated=True)
    write_store(made, generated)
    reasons = np.array(["kept", "invisible", "trivial", f"seam {EVIL}"])[np.arange(n) // 2 % 4]
    (folder / "r1" / "verdicts").mkdir(parents=True)
    pd.DataFrame(
        {
            "id": generated.meta["id"],
            "seed_index": 0,
            "round": 1,
            "kind": generated.meta["kind"],
            "host": generated.meta["host"],
            "severity": np.float32(1),
            "area": 0.03,
            "keep": reasons == "kept",
            "reason": reasons,
            "band": "informative",
            "judge": rng.random(n),
        },
    ).to_parquet(folder / "r1" / "verdicts" / "seed0.parquet")
    (folder / "r1" / "steer.json").write_text(json.dumps({"seed0": {f"{EVIL}|1|0": 0.75, "crack|0|2": 0.25}}))
    for path in (folder / "base", folder / "adapters" / "seed0", folder / "adapters" / "seed1"):
        path.mkdir(parents=True)
        steps = np.arange(1, 900)
        pd.DataFrame({"step": steps, "loss": 2 / steps**0.5 + rng.uniform(0, 0.05, 899)}).to_csv(
            path / "loss.csv", index=False
        )
    (folder / "evaluation").mkdir()
    recall = np.linspace(0, 1, 60)
    curves = [pd.DataFrame({"arm": a, "recall": recall, "precision": 1 - recall**(2 + i)}) for i, a in enumerate(ARMS)]
    pd.concat(curves).to_csv(folder / "evaluation" / "pr.csv", index=False)
    (folder / "splits.json").write_text(json.dumps({"supports": [["a1", "a3", "a2", "a5"]], "folds": []}))
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "counts": {"fit": n, "support": 6},
                "quarantine": [{"item": f"bad/{EVIL}.png", "reason": "not an image"}],
            }
        )
    )
    arms = {
        a: {
            m: cell(0.4 + 0.03 * i + b + 0.02 * rng.standard_normal(seeds))
            for m, b in (("image_ap", 0.3), ("pixel_ap", 0))
        }
        for i, a in enumerate(ARMS)
    }
    low, mean, high = gain if seeds > 1 else (None, gain[1], None)
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics" / f"{name}.json").write_text(
        json.dumps(
            {
                "modality": modality,
                "arms": arms,
                "counts": {"generated": n, "kept": int((reasons == "kept").sum())},
                "gain": {
                    "metric": "pixel_ap",
                    "arm": "mixed",
                    "over": "classical",
                    "mean": mean,
                    "low": low,
                    "high": high,
                },
                "detectors": {
                    d: {"image_ap": cell(0.5 + 0.1 * rng.random(seeds))}
                    for d in ("unsupervised", "likelihood_ratio", "fused")
                },
            }
        )
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(page text, parsed page, report.json) of one data set per modality."""
    root = tmp_path_factory.mktemp("whole")
    names = {"tiles": "image", "pumps": "series", "cards": "row"}
    for name, modality in names.items():
        build(root, name, modality)
    out = root / "reports" / "index.html"
    report.main(out, names, root)
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
        "Quarantined: 1 input left out",
        "dvc repro",
        "Precision and recall",
        "Generated, kept",
        "Generated, rejected",
        "likelihood_ratio",
        "share kept",
        "Training losses",
    ):
        assert page.said().count(words) >= 1, words


def test_the_page_loads_and_runs_nothing(whole):
    text, page, _ = whole
    assert not re.search(r"(?i)https?://|url\(|@import|<script|<iframe|<object|<embed|<link|<base", text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in LOADS and name != "style":
                assert value.startswith(("#", "data:image/png;base64,")), (tag, name, value)
    policy = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and policy[0].startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    )
    first = next(t for t, a in page.tags if t in {"style", "img", "svg"} or a.get("http-equiv"))
    assert first == "meta"  # the policy stands before what it rules


def test_user_given_names_are_inert(whole):
    text, page, _ = whole
    assert EVIL not in text and "alert(1)" in page.said()
    assert all(a.get("src", "").startswith("data:") for t, a in page.tags if t == "img")


def test_names_are_inert_in_every_figure():
    row = {"name": EVIL, "mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.5]}
    line = np.arange(5.0)
    drawn = [
        figures.intervals(EVIL, [row]),
        figures.bars(EVIL, [(EVIL, 3)]),
        figures.lines(EVIL, [(EVIL, line, line)], x=EVIL, y=EVIL),
        figures.series_card(EVIL, line[:, None], line[:, None] > 2, [EVIL]),
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
    assert all("alt" in a for t, a in page.tags if t == "img")


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
    assert "metrics/tiles.json" in tiles["hashes"]


def test_every_arm_and_bin_is_told_once(whole):
    _, page, _ = whole
    drawn = [a["aria-label"] for t, a in page.tags if t == "svg" and a.get("aria-label", "").startswith("precision")]
    assert drawn == [f"precision and recall of {a}" for a in ("mixed", *ARMS[:-1])] * 3
    assert findings.steering({"seed0": {"a|0|1": 0.2, "b|0|1": 0.5}, "seed1": {"a|0|1": 0.4}}) == [
        ("b · 0 · 1", "0.500"), ("a · 0 · 1", "0.300")]  # fmt: skip


def test_counts_come_from_the_metrics_where_the_ledgers_are_gone():
    told = findings.counted([], {"generated": 9, "kept": 4, "reasons": {"kept": 4, "seam": 5}})
    assert (told["generated"], told["kept"], told["reasons"]) == (9, 4, {"kept": 4, "seam": 5})


# the gallery


def test_images_stand_beside_host_and_control_and_mask(whole):
    _, page, _ = whole
    alts = [a["alt"] for t, a in page.tags if t == "img"]
    counts = {
        name: sum(alt.startswith(f"{name} of") for alt in alts)
        for name in ("host", "control", "generated", "real", "mask")
    }
    assert counts["host"] == counts["control"] == counts["generated"] == 18  # 6 kept, 12 of 18 rejected
    assert counts["real"] == 4 and counts["mask"] == 22  # the first support, not the whole pool


def test_png_and_overlay_are_exact():
    from io import BytesIO

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    head, data = figures.png(image).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(data)))), image)
    mask = np.zeros((9, 13), bool)
    mask[3:7, 4:9] = True
    marked = figures.overlay(image, mask)
    assert np.array_equal(marked[~mask], image[~mask]) and (marked[3, 4] == (255, 82, 54)).all()


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


def test_series_cards_shade_exactly_the_marked_span():
    mask = np.zeros((100, 2), bool)
    mask[25:50, 1] = True
    svg = figures.series_card("s", np.random.default_rng(0).random((100, 2)), mask, ["a", "b"])
    spans = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', svg)
    assert spans == [(f"{0.25 * figures.CARD:.1f}", f"{0.25 * figures.CARD:.1f}")]
    assert ">b</text>" in svg and ">a</text>" not in svg


def test_rows_mark_exactly_the_changed_cells():
    host, made = records("row", 2, "n", 1, normal=True), records("row", 2, "gen", 1, generated=True)
    made.x.loc[0, "amount"] = host.x.loc[0, "amount"] + 1
    host.x.loc[0, "country"] = made.x.loc[0, "country"] = pd.NA
    made.mask[0] = [False, True, False]
    cells = {c["column"]: c for c in gallery._row(made, 0, host, 0, 64)["cells"]}
    assert [name for name, c in cells.items() if c["changed"]] == ["amount"]
    assert [name for name, c in cells.items() if c["marked"]] == ["country"]
    assert (
        cells["country"]["value"] == "missing" and cells["amount"]["host"] == f"{host.x.loc[0, 'amount']:.2f}"
    )


def test_rare_kinds_are_shown_too():
    assert gallery.spread(list("abcdef"), ["x"] * 5 + ["y"], 3) == ["a", "f", "b"]


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
    ],
)
@pytest.mark.parametrize("modality", ["image", "row"])
def test_any_one_input_may_be_missing(tmp_path, gone, modality):
    import shutil

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


def test_pages_of_noise_stay_under_ten_megabytes(tmp_path, monkeypatch):
    rng, n = np.random.default_rng(0), 60
    noisy = records("image", n, "gen", generated=True)
    noise = [rng.integers(0, 256, (300, 300, 3)).astype(np.uint8) for _ in range(n)]
    whole_mask = [np.ones((300, 300), bool) for _ in range(n)]
    chosen = {
        "real": None,
        "generated": Records("image", noisy.meta, noise, whole_mask, {}, None, noise),
        "hosts": None,
        "verdicts": None,
        "round": "r1",
        "accepted": [f"gen{i}" for i in range(n)],
        "rejected": [],
        "unjudged": [],
    }
    monkeypatch.setattr(gallery, "pick", lambda *_: chosen)
    out = tmp_path / "index.html"
    report.main(out, {f"d{k}": "image" for k in range(5)}, tmp_path)
    assert 1_000_000 < out.stat().st_size < 10_000_000 and "data:image/png" in out.read_text()
