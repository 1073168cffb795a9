"""The Hub folder: the same bytes every time, every record and score in it, and nothing that must not leave."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import zlib
from collections import Counter

import numpy as np
import pandas as pd
import published
import pyarrow.parquet as pq
import pytest
import tiny
import yaml

from data.errors import InputError, LeakError, SettingsError
from data.exporters.survey import Survey
from data.hub import card, croissant, folder, licences, scan, shards
from data.hub.licences import Licence
from data.records import bare, concat, iter_store, read_store, write_store
from detection.arms import additions
from generation.classical import CLASSICAL
from pipelines.facts import MADE

FACTS = {
    "name": "tiles", "modality": "image", "version": "0", "repo": "me/tiles", "named": True, "bases": [],
    "source": "read from x", "made": {"diffusion": "By a test."}, "settings": [("steps", 20)], "gain": None,
    "audit": None, "verdicts": None, "memory": None, "dated": False,
}  # fmt: skip
CC = Licence("cc-by-4.0")


def drawn(**told) -> shards.Split:
    """A split train with a record that a diffusion model drew."""
    return shards.Split("train", modality="image", generators=Counter({"diffusion-ab": 1}), **told)


def build(home, out, **changed):
    out.mkdir(parents=True)
    stores = {"train": home / "training", "validation": home / "records" / "calib", "test": home / "test"}
    facts = FACTS | {"modality": next(iter_store(home / "test")).modality}
    ledgers = sorted(home.glob("r*/verdicts/*.parquet"))
    return folder.build(out, stores, ledgers, **{"facts": facts, "licence": CC, **changed})


@pytest.fixture(scope="module", params=published.NAMES)
def made(request, tmp_path_factory):
    """(modality, stores on disk, the folder, its files) of a data set."""
    root = tmp_path_factory.mktemp(request.param)
    home = published.fill(root, request.param)
    return request.param, home, root / "hub", build(home, root / "hub")


# ---------------------------------------------------------------- shards


def test_equal_inputs_give_equal_bytes_and_every_file_is_listed(made, tmp_path):
    _, home, out, files = made
    assert build(home, tmp_path / "again") == files
    assert {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()} == set(files)
    shards_of = [name for name in files if name.startswith("data/train-")]
    assert shards_of == [f"data/train-0000{i}-of-00003.parquet" for i in range(3)]  # one for each of the store's


def test_checksums_hold_by_the_tool_that_users_have(made):
    _, _, out, files = made
    done = subprocess.run(["sha256sum", "-c", "--strict", folder.SUMS], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(files) - 2  # all but itself and the card, which people may edit


def test_splits_have_the_same_columns_and_validation_and_test_hold_real_records_only(made):
    _, home, out, files = made
    schemas = {name: pq.read_schema(out / name) for name in files if name.endswith(".parquet")}
    assert len({str(schema.remove_metadata()) for schema in schemas.values()}) == 1
    assert str(schemas["data/test-00000-of-00001.parquet"].field("label").type) == "int64"  # as ClassLabel stores it
    for split, store in (("train", "training"), ("validation", "records/calib"), ("test", "test")):
        table = pq.read_table(sorted(out.glob(f"data/{split}-*"))).to_pandas()
        assert list(table["id"]) == list(read_store(home / store).meta["id"])
        assert table["synthetic"].sum() == (3 if split == "train" else 0)


def test_twins_count_beside_the_generated_not_among_them(tmp_path):
    train = published.stores("image")["training"]
    made = train.where(synthetic=True)
    twins = made.with_meta(id=[f"{name}-control" for name in made.meta["id"]], label=0, kind="normal")
    write_store(tmp_path / "train", concat([train, twins]))
    split = shards.write_split("train", tmp_path / "train", tmp_path / "hub", shards.read_ledgers([]))
    assert split.generators == {"diffusion-ab": 3}
    (row,) = card.counted([split])
    assert (row["synthetic"], row["twins"]) == (3, 3) and split.parents >= set(made.meta["host"])


def test_scores_are_joined_by_id_and_absent_where_nobody_judged(made):
    _, _, out, _ = made
    train = pq.read_table(sorted(out.glob("data/train-*"))).to_pandas().set_index("id")
    ledger = published.ledger().set_index("id")
    for name in ("ga", "gb", "gc"):
        row = train.loc[name]
        assert (row["verdict"], row["band"]) == ("kept", ledger.loc[name, "band"])
        for score in ("fused", "supervised", "copy_distance", "rank"):
            np.testing.assert_equal(row[f"score_{score}"], float(ledger.loc[name, score]))
        assert row["area"] == ledger.loc[name, "area"] and pd.isna(row["score_likelihood"])
    real = train[~train["synthetic"]]
    assert real[[c for c in train if c.startswith("score_")]].isna().all(axis=None) and real["verdict"].isna().all()


def test_times_are_dates_where_they_are_and_step_numbers_where_not(tmp_path):
    home = published.fill(tmp_path, "series")
    build(home, tmp_path / "dates")
    shard = "data/test-00000-of-00001.parquet"
    assert "timestamp[ns]" in str(pq.read_schema(tmp_path / "dates" / shard).field("time").type)
    assert "`time` (UTC)" in (tmp_path / "dates" / "README.md").read_text()
    assert Survey.of([home / "test"]).dated
    for name, start in ("steps", 0), ("microseconds", published.STAMPS // 1000):
        for store in ("training", "records/calib", "test"):
            records = read_store(home / store)
            steps = [start + np.arange(len(x), dtype=np.int64) for x in records.x]
            write_store(home / store, type(records)(**{**vars(records), "time": steps}))
        build(home, tmp_path / name)
        assert "int64" in str(pq.read_schema(tmp_path / name / shard).field("time").type)
        assert "`time` (step numbers)" in (tmp_path / name / "README.md").read_text()
        assert not Survey.of([home / "test"]).dated  # an export says the same


@pytest.mark.parametrize("store, change, said", [
    ("test", {"synthetic": True}, "test: must hold real records only, got 11 synthetic ones"),
    ("records/calib", {"synthetic": True}, "validation: must hold real records only"),
    ("test", {"id": ["row0", *(f"x{i}" for i in range(10))]}, "must share no record with train, got 'row0' in both"),
    ("test", {"id": ["p0", *(f"x{i}" for i in range(10))]}, "parents of synthetic records must not be in test"),
])  # fmt: skip
def test_a_leak_between_splits_stops_it(tmp_path, store, change, said):
    home = published.fill(tmp_path, "row")
    train = read_store(home / "training")
    if "p0" in change.get("id", []):
        write_store(home / "training", train.with_meta(host=["p0" if s else "" for s in train.meta["synthetic"]]))
    write_store(home / store, read_store(home / store).with_meta(**change))
    with pytest.raises(LeakError, match=re.escape(said)):
        build(home, tmp_path / "hub")


def test_a_table_column_named_like_a_verdict_is_told(tmp_path):
    records = published.stores("row")["test"]
    frame = records.x.rename(columns={"shop": "verdict"})
    columns = [{**c, "name": "verdict" if c["name"] == "shop" else c["name"]} for c in records.schema["columns"]]
    write_store(tmp_path / "test", type(records)("row", records.meta, frame, records.mask, {"columns": columns}))
    with pytest.raises(InputError, match="must not be named like a verdict's, got 'verdict'; rename it"):
        shards.write_split("test", tmp_path / "test", tmp_path / "hub", shards.read_ledgers([]))


def test_adapters_come_with_a_model_card_and_nothing_else(tmp_path):
    from safetensors.numpy import save_file

    home = published.fill(tmp_path, "row")
    (home / "adapters" / "seed0").mkdir(parents=True)
    save_file({"w": np.ones(3, np.float32)}, home / "adapters" / "seed0" / "adapter.safetensors")
    (home / "adapters" / "seed0" / "config.json").write_text("{}")
    (home / "adapters" / "seed0" / "notes.pkl").write_bytes(b"x")
    base = {"name": "some-model", "licence": "openrail++", "asks": ""}
    facts = FACTS | {"modality": "row", "bases": [base]}
    files = build(home, tmp_path / "hub", adapters=home / "adapters", facts=facts)
    assert [name for name in files if name.startswith("adapters/")] == [
        "adapters/README.md", "adapters/seed0/adapter.safetensors", "adapters/seed0/config.json"]  # fmt: skip
    told = (tmp_path / "hub" / "adapters" / "README.md").read_text()
    assert "LoRA adapters on some-model" in told and "openrail++" in told
    (home / "adapters" / "seed0" / "adapter.safetensors").unlink()
    with pytest.raises(InputError, match="must hold adapters"):
        build(home, tmp_path / "none", adapters=home / "adapters")


# ---------------------------------------------------------------- Croissant


def test_croissant_is_read_by_mlcroissant_with_every_record_and_type(made):
    mlcroissant = pytest.importorskip("mlcroissant")
    modality, home, out, files = made
    described = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    records = list(described.records("test"))
    store = read_store(home / "test")
    assert [r["test/id"].decode() for r in records] == list(store.meta["id"])
    assert [r["test/synthetic"] for r in records] == [False] * len(store)
    if modality == "image":
        assert all(np.array_equal(np.asarray(r["test/image"]), x) for r, x in zip(records, store.x))
    if modality == "row":
        assert [r["test/amount"] for r in records] == list(store.x["amount"])
    told = json.loads((out / "croissant.json").read_text())
    hashes = {d["@id"]: d["sha256"] for d in told["distribution"] if "sha256" in d}
    assert hashes == {name: digest for name, (_, digest) in files.items() if name.endswith(".parquet")}


def test_columns_of_any_name_are_valid_croissant(tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    names = ["a b", "ä/ö", "<img src=x>", "x:y", "#", "100 %", "data", "{z}"]
    records = published.stores("row")
    for part in records.values():
        frame = pd.DataFrame({name: np.arange(len(part)) / 7 for name in names})
        columns = [{"name": name, "type": "numeric", "nullable": False} for name in names]
        vars(part).update(x=frame, mask=np.zeros(frame.shape, bool), schema={"columns": columns})
    home = published.fill(tmp_path, "row", **records)
    build(home, tmp_path / "hub")
    found = list(mlcroissant.Dataset(jsonld=str(tmp_path / "hub" / "croissant.json")).records("test"))
    assert len(found) == len(records["test"]) and found[3]["test/id"] == b"t3"


def test_a_croissant_file_that_is_not_valid_stops_it(tmp_path):
    pytest.importorskip("mlcroissant")
    (tmp_path / "croissant.json").write_text(json.dumps({"@context": croissant.CONTEXT, "@type": "sc:Dataset"}))
    with pytest.raises(InputError, match="must be valid Croissant"):
        croissant.validate(tmp_path / "croissant.json")


# ---------------------------------------------------------------- the card

NASTY = [
    "<img src=x onerror=alert(1)>", "</td><script>alert(1)</script>", "a | b", "`code`", "**bold** _it_ ~~no~~",
    "[link](javascript:alert(1))", "![i](http://x/y.png)", "<!-- oddsmith:end -->", "---\nlicense: mit\n---",
    "x: {y: [z", "tab\there\r\nand \x00\x1b[31mred\x07", "right\u202eleft", "www.example.com http://example.com",
    "&lt;b&gt; &amp;", "$x^2$", "# head", "{{ 7 * 7 }}{% raw %}", "snake_case_name", "_edge_", "\\",
    "ä ö 漢字", "x" * 2000,
]  # fmt: skip


def shown(text: str) -> str:
    """What a reader must see of a text."""
    plain = re.sub(r"[\x00-\x1f\x7f\u202e]", "\N{REPLACEMENT CHARACTER}", text)
    return plain if len(plain) <= card.LONGEST else plain[: card.LONGEST - 1] + "…"


def test_kinds_and_names_are_inert_in_markdown_html_and_yaml():
    """markdown-it renders the card: every kind is the plain text of its cell, and no tag is there but our own."""
    from markdown_it import MarkdownIt

    train = shards.Split("train", ["data/train-00000-of-00001.parquet"], modality="row", columns=NASTY)
    for i, kind in enumerate(NASTY):
        train.counts[kind, 1, True] = 1000 - i
    train.generators.update([*NASTY, "diffusion-ab"])
    check = {"name": NASTY[8], "passed": True, "figure": None, "limit": 1.0}
    facts = FACTS | {
        "modality": "row", "name": NASTY[0], "source": NASTY[1], "settings": [(NASTY[2], NASTY[3])],
        "gain": {"sentence": NASTY[4], "mean": None}, "audit": {"passed": True, "checks": [check]},
        "verdicts": {"generated": 1, "kept": 1, "reasons": [(NASTY[5], 1)]}}  # fmt: skip
    text = card.render(facts, [train], Licence("other", NASTY[1]))
    head, body = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(head) == card.metadata(facts, [train], Licence("other", NASTY[1]))
    page = MarkdownIt("commonmark").enable("table").render(body)
    assert set(re.findall(r"<(\w+)", page)) == {
        "h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "blockquote",
        "strong", "ul", "li"}  # fmt: skip
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)]
    assert [cell for cell in cells if cell in set(map(shown, NASTY))][: len(NASTY)] == [shown(kind) for kind in NASTY]
    assert page.count("<strong>") == 1 and body.count(card.MARKS["body"][1]) == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_metadata_is_what_the_hubs_own_parser_reads(made):
    from huggingface_hub import DatasetCard

    _, _, out, _ = made
    data = DatasetCard((out / "README.md").read_text()).data.to_dict()
    assert data["license"] == "cc-by-4.0" and "synthetic" in data["tags"] and data["size_categories"] == ["n<1K"]
    assert [f["split"] for f in data["configs"][0]["data_files"]] == ["train", "validation", "test"]


def test_the_card_tells_counts_gain_audit_memorisation_and_marks_the_synthetic(tmp_path):
    train = shards.Split("train", modality="image")
    train.counts.update({("normal", 0, False): 7, ("scratch", 1, False): 2, ("scratch", 1, True): 5})
    gain = {"sentence": "It helped.", "metric": "pixel_ap", "arm": "mixed", "over": "classical", "mean": 0.0312,
            "low": -0.01, "high": 0.07, "seeds": 3}  # fmt: skip
    facts = FACTS | {
        "gain": gain, "verdicts": {"generated": 9, "kept": 5, "reasons": [("kept", 5), ("copy", 4)]},
        "audit": {"passed": False, "checks": [{"name": "shortcut", "passed": False, "figure": 0.9, "limit": 0.6}]},
        "memory": {"kept": 5, "least": 0.4, "low": 0.5, "median": 0.8, "copies": 4, "duplicates": 0}}  # fmt: skip
    text = card.render(facts, [train], CC)
    for said in ("9 real and 5 synthetic records", "**Synthetic content.** 5 records", "| `train` | 7 | 2 | 5 |",
                 "| scratch | 2 | 5 |", "It helped.", "+0.031", "-0.010 to +0.070, 3 supports",
                 "9 records were generated", "| copy | 4 |", "Failed.", "| shortcut | no | 0.900 | 0.600 |",
                 "least 0.400", "median 0.800",
                 "https://creativecommons.org/licenses/by/4.0/", 'load_dataset("me/tiles")'):  # fmt: skip
        assert said in text, said
    for name, said in ("cutpaste", "None of the generated records is"), ("diffusion-ab", "5 of the generated"):
        train.generators = Counter({name: 5})
        text, left_out = card.render(facts, [train], CC), name == "cutpaste"
        assert said in text and ("kept records, which are not in this data set." in text) == left_out
        assert ("are of ones that are not in this data set" in text) == left_out
    assert "twins" not in text
    train.counts[("normal", 0, True)] = 4
    text = card.render(facts, [train], CC)
    for said in ("9 real and 9 synthetic records", "> 4 of them are twins of the synthetic anomalies",
                 "| 7 | 2 | 5 | 4 |", "| synthetic, anomalous | synthetic, normal (twins) |",
                 "5 of the generated"):  # fmt: skip
        assert said in text, said
    train.counts.pop(("scratch", 1, True))
    train.counts.pop(("normal", 0, True))
    assert "**No synthetic content.**" in card.render(facts, [train], CC)


@pytest.mark.parametrize("modality", MADE)
@pytest.mark.parametrize("arm", ["real", "standard", "classical", "filtered", "mixed"])
def test_the_card_says_by_their_generators_how_records_were_made(tmp_path, modality, arm):
    """The gate writes any arm; what a diffusion model would have made is not told of what others made."""
    fit, support = tiny.make(modality)
    kept = published.stores(modality)["training"].where(synthetic=True)
    kept = type(kept)(**{**vars(kept), "time": support.take([0, 1, 2]).time})
    parts = [fit, support, *additions(arm, fit, support, kept, kept, seed=0)]
    write_store(tmp_path / "train", concat([bare(part) for part in parts if len(part)]))
    split = shards.write_split("train", tmp_path / "train", tmp_path, shards.read_ledgers([]))
    text = html.unescape(card.render(FACTS | {"modality": modality, "made": MADE[modality]}, [split], CC))
    told = {name for name, said in MADE[modality].items() if said in text}
    assert told == {name.split("-")[0] for name in split.generators}
    assert bool(told & set(CLASSICAL[modality])) == (arm in ("classical", "mixed"))
    assert ("diffusion" in told) == ("| steps | 20 |" in text) == (arm in ("filtered", "mixed"))
    assert ("Every record was observed." in text) == (arm == "real") == (not told)
    assert set(MADE[modality]) == {"diffusion", "standard", *CLASSICAL[modality]}
    assert ("equals its host" in MADE[modality]["diffusion"]) == (modality != "row")  # crossed rows are all made anew
    assert all(len(said) <= card.LONGEST for said in MADE[modality].values())  # a longer one is cut


def test_a_humans_edits_outside_the_markers_survive_byte_for_byte():
    ours = card.render(FACTS, [drawn()], CC)
    newer = card.render(FACTS | {"made": {"diffusion": "Otherwise."}}, [drawn()], CC)
    assert card.merge(ours, None) == ours and card.merge(newer, ours) == newer
    theirs = ours.replace("# oddsmith:end\n", "# oddsmith:end\nlanguage: de # Sprache\n\nextra:\n- 1\n")
    theirs = theirs.replace("<!-- oddsmith:begin", "Hello *there*  \r\n\n<!-- oddsmith:begin") + "\n\nPS: ask me.\n"
    theirs = theirs.replace("By a test.", "I changed this inside.")
    merged = card.merge(newer, theirs)
    for kept in ("language: de # Sprache\n\nextra:\n- 1\n", "Hello *there*  \r\n\n", "\n\nPS: ask me.\n"):
        assert kept in merged
    assert "Otherwise." in merged and "I changed this inside." not in merged
    assert card.merge(newer, merged) == merged  # again changes nothing
    assert card.merge(ours, merged).replace("By a test.", "Otherwise.") == merged


def test_metadata_that_people_give_wins_over_ours_and_stays_valid():
    ours = card.render(FACTS, [shards.Split("train", modality="image")], CC)
    merged = card.merge(ours, "---\nlicense: mit\ntags: [mine]\n---\n# My words\n")
    head = yaml.safe_load(merged.split("---")[1])
    assert (head["license"], head["tags"], head["pretty_name"]) == ("mit", ["mine"], "tiles")
    assert merged.count("license:") == 1 and "# My words" in merged and merged.endswith("<!-- oddsmith:end -->\n")
    stripped = re.sub(r"^# oddsmith:.*\n", "", ours, flags=re.MULTILINE)  # the Hub's own editor drops comments
    assert yaml.safe_load(card.merge(ours, stripped).split("---")[1]) == yaml.safe_load(ours.split("---")[1])


@pytest.mark.parametrize("theirs, said", [
    ("<!-- oddsmith:begin -->\nno end", "must stand there once each"),
    ("<!-- oddsmith:end --> <!-- oddsmith:begin -->", "must stand there once each"),
    ("---\n# oddsmith:begin\n---\nx", "must stand there once each"),
    ("---\na: [1\n---\nx", "its metadata must be YAML keys"),
    ("---\n- a\n---\nx", "its metadata must be YAML keys"),
])  # fmt: skip
def test_a_card_that_cannot_be_merged_is_told_not_overwritten(theirs, said):
    ours = card.render(FACTS, [shards.Split("train", modality="image")], CC)
    with pytest.raises(InputError, match=said):
        card.merge(ours, theirs)


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize("name", licences.REFUSED)
def test_a_licence_that_forbids_stops_it_with_the_reason_whatever_anybody_permits(name):
    with pytest.raises(InputError) as caught:
        licences.check(name, "data set 'x'", setting="publish.licence", permission="my boss")
    assert licences.REFUSED[name] in str(caught.value) and f"got '{name}'" in str(caught.value)
    assert name not in licences.LICENCES


def test_unknown_needs_a_permission_and_nothing_is_no_licence():
    for name in licences.UNSURE:
        with pytest.raises(InputError, match=r"does not say so; say who allowed it in publish\.permission"):
            licences.check(name, "data set 'x'", setting="publish.licence")
        assert licences.check(name, "x", setting="s", permission=" Ms Y, by letter ").permission == "Ms Y, by letter"
    with pytest.raises(SettingsError, match="must name the licence of data set 'x', got nothing"):
        licences.check(" ", "data set 'x'", setting="publish.licence")
    with pytest.raises(SettingsError, match=r"got 'cc-by-5\.0'; did you mean 'cc-by-"):
        licences.check("CC-BY-5.0", "data set 'x'", setting="publish.licence")
    assert licences.check("MIT", "x", setting="s").tags == {"license": "mit"}
    assert licences.check("public-domain", "x", setting="s").tags["license"] == "other"


# ---------------------------------------------------------------- what must not leave


def png(kind: bytes, data: bytes = b"Exif\0\0") -> bytes:
    """A grey pixel with one more chunk."""
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return scan.PNG + head + chunk(kind, data) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


SECRET = {
    "a Hugging Face token": "hf_" + "a" * 34, "a GitHub token": "ghp_" + "b" * 36, "an AWS key": "AKIA" + "C" * 16,
    "a Google key": "AIza" + "d" * 35, "a Slack token": "xoxb-" + "1" * 12, "an API key": "sk-" + "e" * 40,
    "a web token": "eyJ" + "f" * 12 + "." + "g" * 12 + "." + "h" * 12,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----", "a password in an address": "ftp://me:" + "pw@host/x",
    "a path of a disk": "see /home/me/raw/x.png", "a path of a Windows disk": r"C:\Users\me",
    "a file address": "file:///x",
    "the folder of this run": "in /srv/run7/", "the token": "opensesame-1234",
}  # fmt: skip
OWN = {"the folder of this run": "/srv/run7/", "the token": "opensesame-1234"}


@pytest.mark.parametrize("what", SECRET)
def test_a_secret_is_found_in_text_and_tables_and_told_without_being_shown(tmp_path, what):
    table = pd.DataFrame({"n": [1, 2, 3], "kind": ["a", "b", SECRET[what]]})
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "x.parquet")
    with pytest.raises(InputError) as caught:
        scan.scan(tmp_path, OWN)
    assert f"data/x.parquet: row 2, column 'kind': must not hold {what}" in str(caught.value)
    if what not in scan.PATHS:
        assert SECRET[what] not in str(caught.value)
    (tmp_path / "data" / "x.parquet").unlink()
    (tmp_path / "README.md").write_text(f"fine\n\nsee {SECRET[what]} there\n")
    with pytest.raises(InputError, match=re.escape(f"README.md: line 3: must not hold {what}")):
        scan.scan(tmp_path, OWN)
    assert set(SECRET) == {*scan.SECRETS, *scan.PATHS, *OWN}


@pytest.mark.parametrize("place, said", [
    ("lists", "row 1, column 'parents': must not hold an absolute path"),
    ("source", "row 1, column 'source': must not hold an absolute path"),
    ("name", "footer: must not hold a Hugging Face token"),
    ("picture", "row 1, column 'image': a picture must be PNG without notes (EXIF, text), got a eXIf chunk"),
    ("weights", "w.safetensors: header: must not hold a path of a disk"),
])  # fmt: skip
def test_nested_columns_names_pictures_and_weights_are_looked_into(tmp_path, place, said):
    import pyarrow as pa
    from safetensors.numpy import save_file

    image = {"bytes": png(b"gAMA", b"\0\0\0\1"), "path": None}
    columns = {"parents": [["a"], ["b"]], "source": ["x", "y/z.png"], "image": [image, image]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert scan.scan(tmp_path, OWN) == 1
    if place == "weights":
        save_file({"w": np.ones(1)}, tmp_path / "w.safetensors", {"base": "/home/me/model"})
    bad = {"lists": {"parents": [["a"], ["b", "/data/x"]]}, "source": {"source": ["x", r"\\host\x"]}, "weights": {},
           "name": {SECRET["a Hugging Face token"]: [1, 2]},
           "picture": {"image": [image, {"bytes": png(b"eXIf"), "path": None}]}}  # fmt: skip
    pq.write_table(pa.table(columns | bad[place]), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=re.escape(said)):
        scan.scan(tmp_path, OWN)


@pytest.mark.parametrize("data, said", [
    (png(b"tEXt"), "a tEXt chunk"), (png(b"gAMA", b"1234") + b"more", "bytes after its end"),
    (png(b"gAMA", b"1234")[:-14], "a torn PNG"), (b"\xff\xd8\xff\xe1..Exif", "another format"),
    (png(b"gAMA", b"1234"), ""),
])  # fmt: skip
def test_a_picture_may_hold_the_picture_alone(data, said):
    assert scan.foreign_chunk(data) == said


def test_ordinary_records_pass_the_scan(made):
    _, _, out, files = made
    assert scan.scan(out, OWN) == len(files)
    for text in ("a/b/c.png", "ratio 3:4", "http://example.com/home/page", "user@example.com", "sk-learn", "C: drive"):
        assert not list(scan.text_hits(text, scan.compiled(OWN))), text
