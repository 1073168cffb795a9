"""README.md and docs/: python runs, commands parse, settings, paths and links exist, messages are the code's own."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import sys
import tomllib
import types
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from data import errors
from data.sources import SOURCES, csv, deeppcb, folder, mvtec, npz, recording
from pipelines import graph
from pipelines.config import ROUNDS, Settings, Source
from pipelines.explain import validate
from pipelines.settings import load_settings
from pipelines.settings_doc import settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVERY = pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
NAMES = {"magnetic_tile": "image", "smd": "series", "thyroid_sick": "row"}  # as the tutorials call them
PAGES = {"magnetic_tile": "images", "smd": "series", "thyroid_sick": "rows"}
KEY = {"KEY": {"modality": "image", "source": {"path": "raw"}}}
STAGES = graph.resolve(graph.load(ROOT / "dvc.yaml")["stages"], KEY)
COMMANDS = ("make", "oddsmith", "python", "dvc", "cp", "pip")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


@cache
def blocks(path: Path) -> list[tuple[str, int, str]]:
    """(language, line, text) of every fenced block."""
    text = path.read_text()
    return [(m[2], text[: m.start(3)].count("\n") + 1, m[3]) for m in FENCE.finditer(text)]


def of(path: Path, *languages: str) -> list[tuple[int, str]]:
    return [(line, text) for language, line, text in blocks(path) if language in languages]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def spans(path: Path) -> list[str]:
    """What stands between backticks outside of blocks."""
    return [" ".join(m.replace(r"\|", "|").split()) for m in re.findall(r"`([^`]+)`", prose(path))]


def with_language(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", [p for p in DOCS if of(p, *languages)], ids=lambda p: p.name)


# python


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with what the stages leave of three tiny data sets, and raw files as their publishers lay them out."""
    root = tmp_path_factory.mktemp("world")
    for name, modality in NAMES.items():
        leave(root, name, modality)
    (root / "my-name").mkdir()
    (root / "my-name" / "tiles").symlink_to(root / "artifacts" / "magnetic_tile" / "training")
    raw_tiles(root / "data" / "raw" / "Magnetic-tile-defect-datasets.")
    raw_machines(root / "data" / "raw" / "ServerMachineDataset")
    return root


def leave(root: Path, name: str, modality: str) -> None:
    """artifacts/<name> and metrics/<name>.json; verdicts, gate and steering by the code that writes them in a run."""
    from data.leaks import check
    from data.records import bare, concat, write_store
    from data.records.codecs import CODECS
    from detection import steering
    from detection.gate import Candidate, decide, sentence
    from detection.gates import Gates
    from detection.verdict import verdicts
    from generation.classical import classical
    from pipelines.filter import STEERING, TOLD

    home, rng = root / "artifacts" / name, np.random.default_rng(0)
    fit, support = tiny.make(modality)
    made = classical(modality, fit, support, list(range(12)))
    extra = {"area": 0.1, "mask_iou": 0.9, "size_bin": 0, "severity_bin": 0, "place": 0, "host_bin": 0, "fold": 0}
    meta = made.meta.assign(**extra)
    measured = Gates(concat([fit, support]), support, CODECS[modality].fit(fit)).measure(made)
    roles = ["supervised", "unsupervised", "likelihood", "control", "fused"]
    scores = pd.DataFrame(rng.uniform(size=(len(made), len(roles))), columns=roles).assign(**measured, duplicate_of="")
    limits = load_settings(ROOT / "params.yaml").section("filter", modality).model_dump(by_alias=True)
    limits = {key: value for key, value in limits.items() if key not in STEERING}
    table = verdicts(meta, scores, scores, **limits, decisions={meta["id"][0]: "accept"})
    counts = steering.tally(meta, table["keep"].to_numpy(bool), scores["fused"].to_numpy(), scores["fused"].to_numpy(),
                            None)  # fmt: skip
    told = {"counts": counts, "weights": steering.weights(counts), "diversity": {"kinds": 1.5}, "stop": ""}
    for r in ROUNDS:
        ledger = pd.concat([table, meta[TOLD], scores], axis=1)
        ledger.insert(1, "seed_index", 0)
        ledger.insert(2, "round", r)
        (home / f"r{r}" / "verdicts").mkdir(parents=True)
        ledger.to_parquet(home / f"r{r}" / "verdicts" / "seed0.parquet")
        write_store(home / f"r{r}" / "kept" / "seed0", made.take(table["keep"].to_numpy(bool)))
        (home / f"r{r}" / "steer.json").write_text(json.dumps({"seed0": told}))
    write_store(home / "training", concat([bare(part) for part in (fit, support, made)]))
    choices = [Candidate("real", "forest", 0.5, False), Candidate("mixed", "forest", 0.5, False)]
    gate = decide(choices, rng.uniform(size=(2, 6)), list("abcdef"), list("112233"))
    (home / "gate.json").write_text(json.dumps(gate | {"metric": "ap", "sentence": sentence(gate, "ap"), "seeds": []}))
    (home / "audit.json").write_text(json.dumps({"passed": False, "checks": [check("identical", [("a", "b")])]}))
    (root / "metrics").mkdir(exist_ok=True)
    result = {"image": "magnetic_tile", "series": "demo_co2", "row": "thyroid_sick"}[modality]
    (root / "metrics" / f"{name}.json").write_text((ROOT / f"benchmarks/results/{result}.json").read_text())


def raw_tiles(home: Path) -> None:
    """The tiles as published: MT_<kind>/Imgs/<stem>.jpg, and the mask .png beside it, white for normals of none."""
    import cv2

    rng = np.random.default_rng(0)
    for kind in ("Free", "Blowhole", "Break", "Crack", "Fray"):
        (home / f"MT_{kind}" / "Imgs").mkdir(parents=True)
        for i in range(2):
            image, mask = rng.integers(60, 90, (40, 30)).astype(np.uint8), np.zeros((40, 30), np.uint8)
            mask[10:15, 5:9] = 255 * (kind != "Free")
            cv2.imwrite(str(home / f"MT_{kind}" / "Imgs" / f"{kind}{i}.jpg"), image)
            cv2.imwrite(str(home / f"MT_{kind}" / "Imgs" / f"{kind}{i}.png"), mask)


def raw_machines(home: Path) -> None:
    """The machines as published: train, test and test_label as text, interpretation_label as start-end:channels."""
    rng, odd = np.random.default_rng(0), np.zeros(60, int)
    odd[20:30] = 1
    for part in ("train", "test", "test_label", "interpretation_label"):
        (home / part).mkdir(parents=True)
    for name in ("machine-1-6", "machine-1-7", "machine-2-1", "machine-3-3"):
        for part in ("train", "test"):
            np.savetxt(home / part / f"{name}.txt", rng.uniform(size=(60, 3)), delimiter=",", fmt="%.4f")
        np.savetxt(home / "test_label" / f"{name}.txt", odd, fmt="%d")
        (home / "interpretation_label" / f"{name}.txt").write_text("20-30:1,3\n")


@pytest.fixture
def run(world, monkeypatch):
    """Runs the python of a page, top to bottom, in `world`; a block that begins with a file's name is that module."""
    import datasets

    from detection.verdict import CRITERIA

    monkeypatch.chdir(world)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", world / "cache")
    before = dict(CRITERIA)

    def page(path: Path) -> dict:
        space: dict = {"__name__": "__main__"}
        for line, text in of(path, "python"):
            named = re.match(r"# (\w[\w/]*)\.py\n", text)
            into = space
            if named:
                module = types.ModuleType(named[1].replace("/", "."))
                monkeypatch.setitem(sys.modules, module.__name__, module)
                into = space[named[1]] = vars(module)
            code = "\n" * (line - 1) + text
            exec(compile(code, str(path), "exec", dont_inherit=True), into)
        return space

    yield page
    CRITERIA.clear()
    CRITERIA.update(before)


@with_language("python")
def test_python_runs_and_tells_something(path, run, capsys):
    run(path)
    assert capsys.readouterr().out or "print(" not in path.read_text()


def test_the_tutorials_bring_published_files_into_a_form_that_the_readers_take(run, world):
    run(ROOT / "docs/tutorial-images.md")
    tiles, left = mvtec.read("data/raw/tiles", modality="image")
    assert left == [] and tiles.meta["kind"].value_counts().to_dict() == {
        "normal": 2, "blowhole": 2, "break": 2, "crack": 2}  # fmt: skip
    assert {int(m.sum()) for m, odd in zip(tiles.mask, tiles.meta["label"]) if odd} == {20}
    run(ROOT / "docs/tutorial-series.md")
    machines, left = npz.read("data/raw/smd", modality="series")
    assert left == [] and len(machines) == 8
    assert {tuple(m.sum(axis=0)) for m, odd in zip(machines.mask, machines.meta["label"]) if odd} == {(10, 0, 10)}


def test_the_example_generator_passes_the_contract_of_generators(run, monkeypatch):
    import test_classical as contract

    from generation.classical import CLASSICAL

    made = run(ROOT / "docs/extending.md")["generation/classical/drift"]
    monkeypatch.setitem(CLASSICAL["series"], "drift", made["drift"])
    assert len(passes(contract, ("series", "paste"), ("series", "drift"))) >= 5
    hosts, support = contract.SETS["series"]
    added = contract.additions("classical", hosts, support, hosts.take([]), hosts, seed=0)[0]
    assert {what.split(":")[0] for what in added.meta["mask_source"]} == {"paste", "taxonomy", "label"}


def test_the_example_detector_passes_the_contract_of_detectors(run, monkeypatch, tmp_path):
    import test_detector_contract as contract

    from detection.detectors import DETECTORS, Lazy

    run(ROOT / "docs/extending.md")
    monkeypatch.setitem(DETECTORS["row"], "deviation", Lazy("deviation:Deviation"))
    assert len(passes(contract, ("row", "knn"), ("row", "deviation"), tmp_path=tmp_path)) >= 7


def passes(contract, like: tuple, case: tuple, **given) -> list[str]:
    """Names of the tests that a contract runs for `like`, now passed by `case` too."""
    found = []
    for name, test in vars(contract).items():
        marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize" and len(m.args[0]) == 2]
        if any(like in m.args[1] for m in marks):
            wanted = inspect.signature(test).parameters
            test(*case, **{key: value for key, value in given.items() if key in wanted})
            found.append(name)
    return found


def test_the_example_criterion_ranks(run):
    from detection.verdict import CRITERIA

    run(ROOT / "docs/extending.md")
    scores = pd.DataFrame({"supervised": [0.9, 0.1], "unsupervised": [0.2, 0.8]})
    np.testing.assert_allclose(CRITERIA["surprise"](scores, scores), [0.7, -0.7])


# commands


def commands(path: Path) -> list[str]:
    """Every command of a page, in blocks or between backticks, without comments and what may be left out."""
    lines = [line.split("  #")[0] for _, text in of(path, "", "sh") for line in text.splitlines()] + spans(path)
    if path.name == "troubleshooting.md":  # some messages read like commands
        lines = [line for line in lines if line not in {message for _, message in sections()}]
    lines = [part for line in lines for part in re.split(r" && |; ", line)]
    found = [re.sub(r" *\[[^\]]*\]", "", line) if "'" not in line else line for line in lines]
    return [line.strip() for line in found if re.match(rf"make$|(?:{'|'.join(COMMANDS)}) ", line) and "…" not in line]


@EVERY
def test_commands_parse(path, monkeypatch):
    for line in commands(path):
        words = shlex.split(line)
        try:
            {"make": of_make, "oddsmith": of_oddsmith, "python": of_python, "dvc": of_dvc, "cp": of_cp,
             "pip": of_pip}[words[0]](words[1:])  # fmt: skip
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{path.name}: `{line}`: {error!r}") from error


def of_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(words) <= set(targets)


def of_oddsmith(words: list[str]) -> None:
    from typer.main import get_command

    from data.exporters import EXPORTERS
    from pipelines.cli import app

    group = get_command(app)
    command = group.commands[words[0]]
    context = command.make_context(words[0], words[1:], resilient_parsing="--help" in words)
    if words[0] == "export" and context.params.get("to") != "FORMAT":
        assert set(context.params["to"].split("|")) <= set(EXPORTERS)


def of_python(words: list[str]) -> None:
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
        return
    name, given = words[1].removeprefix("pipelines."), words[2:]
    assert (ROOT / "pipelines" / f"{name}.py").is_file()
    taken = [stage["cmd"].split()[3:] for stage in STAGES.values() if stage["cmd"].split()[2] == words[1]]
    if taken:
        assert len(given) in (len(taken[0]), 0)
    elif name == "ablate":
        of_ablate(given)
    else:
        assert given == []


def of_ablate(given: list[str]) -> None:
    from pipelines import ablate

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "cell", "summary"):
            patch.setattr(ablate, name, lambda *_: 0)
        patch.setattr(ablate.ablation, "plan", dict)
        patch.setattr(ablate.ablation, "write", lambda _: None)
        patch.setattr("pipelines.stage.listen", lambda: None)
        assert ablate.main(given) == 0


@cache
def dvc_parser():
    from dvc.cli.parser import get_main_parser

    return get_main_parser()


def of_dvc(words: list[str]) -> None:
    args = dvc_parser().parse_args(words)
    for change in getattr(args, "set_param", None) or []:
        assert known(change.split("=")[0]), change
    for target in getattr(args, "targets", None) or [] if words[0] == "repro" else []:
        file, _, name = target.rpartition(":")
        stages = graph.load(ROOT / (file or "dvc.yaml"))["stages"]
        title, _, key = name.partition("@")
        assert title in stages, target
        if file:
            assert key in yaml.safe_load((ROOT / "ablate/cells.yaml").read_text())["cells"], target


def of_cp(words: list[str]) -> None:
    assert all((ROOT / word).exists() for word in words)


def of_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] == "install" and set(re.findall(r"\[(\w+)\]", words[1])) <= set(extras)


# paths and links


OWN = ("data/raw", "pipelines/<name>.py")  # the reader's own files
LATER = ("reports/ablation.json", "data/*.parquet")
TOPS = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
TOPS |= {"artifacts", "metrics", "reports"}


def made() -> list[str]:
    """Every output of dvc.yaml, with KEY for the data set."""
    parts = (stage.get(kind, []) for stage in STAGES.values() for kind in ("outs", "metrics", "plots"))
    return [name for part in parts for name in graph.names(part)]


def examples(path: Path) -> set[str]:
    """Files that a page tells to write: modules named by their first line, stages of a block of dvc.yaml."""
    named = {m[1] for _, text in of(path, "python") if (m := re.match(r"# (\w[\w/]*\.py)\n", text))}
    return named | {f"{m.replace('.', '/')}.py" for _, text in of(path, "yaml") for m in re.findall(r"-m (\S+)", text)}


def exists(word: str, path: Path) -> bool:
    """Whether a path of a page is in the repository, made by a stage, or the reader's own."""
    names = "|".join((*NAMES, "textures", "tiles", "<dataset>", r"\$\{key\}"))
    plain = re.sub(rf"(?<=[/-])(?:{names})(?=[/.]|$)", "KEY", word.rstrip("/"))
    plain = re.sub(r"/r(?:<r>|\*)(?=/|$)", "/r1", plain)
    if word.startswith(OWN) or plain in LATER or (ROOT / word).exists() or word in examples(path):
        return True
    return any(graph.touches(plain, out) for out in made())


@EVERY
def test_paths_between_backticks_exist_or_are_made(path):
    words = [word.strip(",;()'\"") for span in spans(path) for word in span.split()]
    form = re.compile(r"[\w.<>*{}$-]+(/[\w.<>*{}$-]+)+/?|[\w-]+/")
    found = [word for word in words if form.fullmatch(word) and word.split("/")[0] in TOPS]
    assert [word for word in found if not exists(word, path)] == []


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@EVERY
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", prose(path)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{path.name}: {target}"


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\(\s*docs/([\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {p.name for p in DOCS[1:]}


# settings


@cache
def paths() -> list[list[str]]:
    """The parts of every setting's dotted path."""
    return [setting.path.split(".") for setting in settings(Settings)]


def known(path: str) -> bool:
    """Whether a dotted path is a setting, a part of the settings, or what a round changes; `*` is any key."""
    parts = path.split(".")

    def fits(own: list[str]) -> bool:
        free = len(own) == 3 and re.fullmatch(r"r\d", own[1])  # what a round changes has keys of its own
        short = len(parts) <= len(own) or free or (own[0] == "datasets" and own[2] == "source")
        return bool(short) and all(a in (b, "*") or b == "<name>" for a, b in zip(parts, own))

    return any(fits(own) for own in paths())


SECTIONS = "|".join(Settings.model_fields)
FILES = "json|py|md|csv|html|yaml|css|js|parquet"


@EVERY
def test_settings_between_backticks_exist_and_take_the_value_told(path, tmp_path):
    for span in spans(path):
        found = re.fullmatch(rf"((?:{SECTIONS})\.[\w.*<>-]+)(?:: (.+))?", span)
        if not found or re.search(rf"\.(?:{FILES})$", found[1]):
            continue
        assert known(found[1]), f"{path.name}: `{span}`"
        if found[2] and "<" not in span:
            value = yaml.safe_load(found[2])
            nested = value
            for part in reversed(found[1].split(".")):
                nested = {part: nested}
            valid(nested, tmp_path, f"{path.name}: `{span}`")


def valid(block: dict, tmp_path: Path, where: str) -> None:
    """Asserts that the demo's params.yaml with the block put in is valid."""
    from pipelines.config import merge

    text = yaml.safe_dump(merge(yaml.safe_load((ROOT / "params.yaml").read_text()), block))
    (tmp_path / "params.yaml").write_text(text)
    try:
        load_settings(tmp_path / "params.yaml")
    except errors.SettingsError as error:
        raise AssertionError(f"{where}: {error}") from None


@with_language("yaml")
def test_yaml_is_valid_where_it_belongs(path, tmp_path):
    from pipelines.ablation import load

    for line, text in of(path, "yaml"):
        block, where = yaml.safe_load(text), f"{path.name}:{line}"
        if "axes" in block:
            (tmp_path / "ablate.yaml").write_text(text)
            assert load(tmp_path / "ablate.yaml").axes
        elif "stages" in block:
            stages = graph.resolve(block["stages"], KEY)
            assert graph.leaks(STAGES | stages) == [], where
            deps = {d for stage in stages.values() for d in graph.names(stage["deps"])}
            assert all(exists(d, path) for d in deps), where
        elif set(block) == {"source"}:
            validate(Source, block["source"], where=where)
        else:
            assert set(block) <= set(Settings.model_fields), where
            valid(block, tmp_path, where)
            for name, dataset in block.get("datasets", {}).items():
                options_fit(dataset, f"{where}: {name}")


def options_fit(dataset: dict, where: str) -> None:
    source = dict(dataset["source"])
    reader, _ = source.pop("reader"), source.pop("path")
    title = reader if reader in READERS else f"{reader}, {'rows' if dataset['modality'] == 'row' else 'series'}"
    assert set(source) <= options(READERS[title]), where


@pytest.mark.parametrize("name", NAMES)
def test_what_the_tutorials_say_of_make_check_is_what_it_says(name, capsys, monkeypatch):
    from pipelines.cli import inspect as look

    monkeypatch.chdir(ROOT)
    given = load_settings(ROOT / f"presets/{name}.yaml")
    if not Path(given.datasets[name].source.path).exists():
        pytest.skip(f"{given.datasets[name].source.path} is not here; the preset's header says how to get it")
    page = ROOT / f"docs/tutorial-{PAGES[name]}.md"
    first, *rest = look(name, given.datasets[name], given)
    told = [f"{name}: {first}", *(f"  {line}" for line in rest)]
    assert of(page, "text")[0][1].splitlines() == told


# messages


@cache
def messages() -> list[tuple[int | None, str]]:
    """(exit code of the error raised with it, or None, text with … for values) of every string of the code."""
    codes = {name: cls.exit_code for name, cls in vars(errors).items() if isinstance(cls, type)}
    found = []
    for package in ("data", "generation", "detection", "pipelines"):
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text())
            raised = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    code = codes.get(getattr(node.exc.func, "id", ""))
                    raised |= {id(part): code for part in ast.walk(node.exc)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    text = "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                    found.append((raised.get(id(node)), " ".join(text.split())))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append((raised.get(id(node)), " ".join(node.value.split())))
    return found


def sections() -> list[tuple[set[int], str]]:
    """(exit codes, message) of every line of docs/troubleshooting.md."""
    out = []
    for part in re.split(r"^## ", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.M)[1:]:
        codes = {int(n) for n in re.findall(r"\d+", part.split(":")[0])}
        out += [(codes, m) for m in re.findall(r"^\| `([^`]*)` \|", part, flags=re.M)]
    return out


@pytest.mark.parametrize("codes, message", sections(), ids=[m[:60] for _, m in sections()])
def test_a_message_told_is_one_of_the_code_with_its_exit_code(codes, message):
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.strip("… ").split("…")))
    found = {code for code, text in messages() if pattern.search(text)}
    assert found, "no string of the code is like this"
    assert found & codes or found == {None}, f"raised with exit code {found}"


def test_every_exit_code_is_told_with_enough_messages():
    text = (ROOT / "docs/troubleshooting.md").read_text()
    head = {int(n) for row in re.findall(r"^\| ([\d, ]+) \|", text, flags=re.M) for n in row.split(",")}
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type)} | {130, 143}
    assert head == codes | {0} and {n for own, _ in sections() for n in own} == codes
    assert len(sections()) >= 25


# docs/data.md


TEXT = (ROOT / "docs/data.md").read_text()
READERS = {"mvtec": mvtec.read_tree, "folder": folder.read_index, "deeppcb": deeppcb.read_tiles,
           "csv, rows": csv.read_rows, "csv, series": recording.read_series, "npz, rows": npz.read_rows,
           "npz, series": npz.read_series}  # fmt: skip


def options(reader) -> set[str]:
    return {name for name, p in inspect.signature(reader).parameters.items() if p.kind is p.KEYWORD_ONLY}


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def test_every_reader_has_a_section():
    assert {title.split(",")[0] for title in READERS} == set(SOURCES) - {"demo"}
    assert set(re.findall(r"^\| `(\w+)` \| (?:image|row|all)", TEXT, flags=re.M)) == set(SOURCES)


@pytest.mark.parametrize("title", READERS)
def test_a_section_names_every_option_and_its_example_no_other(title):
    text, known = section(title), options(READERS[title])
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, flags=re.S)[1])["source"]
    assert example.pop("reader") == title.split(",")[0] and example.pop("path")
    assert set(example) <= known
    assert {name for name in known - {"strict"} if f"`{name}`" not in text} == set()
