"""Publishing to a Hub that really answers: what is loaded is what was made, and no fault leaves half of anything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import published
import pytest
from hub_server import TOKEN, Hub

from data.errors import InputError, LeakError, RemoteError, SettingsError
from data.hub import card, folder, remote, shards
from data.hub.licences import Licence
from data.records import read_store

ROOT = Path(__file__).resolve().parent.parent
REPO = "me/tiles"
# every request of a publish into an existing repository, in order
ROUTES = {
    "info": ("GET", r"/api/datasets/me/tiles$"), "tree": ("GET", "/tree/"), "card": ("HEAD", "README.md"),
    "card's bytes": ("GET", "/resolve/.*README.md"), "preupload": ("POST", "/preupload/"), "batch": ("POST", "/batch$"),
    "put": ("PUT", "/lfs/"), "verify": ("POST", "/lfs-verify"), "yaml": ("POST", "/validate-yaml"),
    "commit": ("POST", "/commit/"),
}  # fmt: skip


@pytest.fixture
def hub():
    with Hub() as server:
        yield server


@pytest.fixture
def slept(monkeypatch):
    """Seconds that were asked for, none of which are waited."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.fixture
def api(hub, monkeypatch, slept):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import disable_progress_bars

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    disable_progress_bars()
    return HfApi(endpoint=hub.url, token=TOKEN)


def make(place: Path, shards_of: int = 2, made: str = "By a test.", mark: str = "") -> Path:
    """A small folder as `folder.build` leaves it, its shards any bytes."""
    facts = {"name": "tiles", "modality": "image", "version": "0", "repo": REPO, "named": True, "bases": [],
             "made": {"diffusion": made}, "source": "x", "settings": [], "gain": None, "audit": None, "verdicts": None,
             "memory": None}  # fmt: skip
    (place / "data").mkdir(parents=True)
    for i in range(shards_of):
        (place / f"data/train-{i:05d}-of-{shards_of:05d}.parquet").write_bytes(f"shard {i} {mark}".encode() * 5000)
    (place / "data/test-00000-of-00001.parquet").write_bytes(b"test" * 500)
    (place / "croissant.json").write_text("{}\n")
    lines = [f"{digest}  {name}" for name, (_, digest) in folder.listed(place).items()]
    (place / folder.SUMS).write_text("\n".join([folder.HEADER, *lines]) + "\n")
    train = shards.Split("train", modality="image", generators=Counter({"diffusion-ab": 1}))
    (place / folder.CARD).write_text(card.render(facts, [train], Licence("mit")))
    return place


def held(hub: Hub) -> dict[str, bytes]:
    return {path: blob.data for path, blob in hub.repos[REPO].files.items() if path != ".gitattributes"}


def local(place: Path) -> dict[str, bytes]:
    return {f.relative_to(place).as_posix(): f.read_bytes() for f in place.rglob("*") if f.is_file()}


def ours(hub: Hub) -> int:
    """Commits that we made."""
    return sum(message == remote.MESSAGE for _, message, _ in hub.repos[REPO].commits)


# ---------------------------------------------------------------- one commit, nothing of others lost


def test_a_first_push_makes_a_private_repository_that_holds_the_folder_after_one_commit(hub, api, tmp_path):
    place = make(tmp_path / "a")
    pushed = remote.push(api, place, REPO, private=True)
    assert held(hub) == local(place) and hub.repos[REPO].private and ours(hub) == 1
    assert pushed.commit == hub.repos[REPO].head and set(pushed.changed) == set(local(place)) and pushed.removed == []


def test_pushing_the_same_again_sends_and_commits_nothing(hub, api, tmp_path):
    first = remote.push(api, make(tmp_path / "a"), REPO, private=True)
    hub.log.clear()
    again = remote.push(api, make(tmp_path / "b"), REPO, private=True)
    assert again == remote.Pushed(first.commit, [], [], True) and ours(hub) == 1
    assert {method for method, _ in hub.log} == {"GET", "HEAD"}


def test_only_what_changed_is_sent_and_shards_of_ours_that_are_gone_go(hub, api, tmp_path):
    remote.push(api, make(tmp_path / "a", shards_of=3), REPO, private=True)
    for path in ("data/notes.csv", "extra.txt", "adapters-of-mine.txt"):
        hub.put(REPO, path, b"mine")
    before = hub.count("PUT", "/lfs/")
    pushed = remote.push(api, place := make(tmp_path / "b", shards_of=2), REPO, private=True)
    mine = dict.fromkeys(("data/notes.csv", "extra.txt", "adapters-of-mine.txt"), b"mine")
    assert held(hub) == local(place) | mine and ours(hub) == 2
    assert pushed.removed == [f"data/train-0000{i}-of-00003.parquet" for i in range(3)]
    assert "data/test-00000-of-00001.parquet" not in pushed.changed and "croissant.json" not in pushed.changed
    assert hub.count("PUT", "/lfs/") == before  # the same bytes under another name are there already


@pytest.mark.parametrize("path", ["data/train-00007-of-00009.parquet", "data/test-mine.parquet", "croissant.json",
                                  "SHA256SUMS"])  # fmt: skip
def test_data_of_others_under_our_names_is_neither_overwritten_nor_mixed_in(hub, api, tmp_path, path):
    hub.make(REPO)
    hub.put(REPO, path, b"0123456789abcdef  croissant.json\n" * 2)
    head = hub.repos[REPO].head
    with pytest.raises(RemoteError, match=re.escape(f"must hold no data of others under our names, got {path}")):
        remote.push(api, make(tmp_path / "a"), REPO, private=True)
    assert hub.repos[REPO].head == head and hub.count("PUT", "") == 0


def test_a_shard_of_ours_that_somebody_replaced_is_not_removed(hub, api, tmp_path):
    remote.push(api, make(tmp_path / "a", shards_of=2), REPO, private=True)
    hub.put(REPO, "data/train-00001-of-00002.parquet", b"theirs")
    pushed = remote.push(api, make(tmp_path / "b", shards_of=1), REPO, private=True)
    assert pushed.removed == ["data/train-00000-of-00002.parquet"]
    assert held(hub)["data/train-00001-of-00002.parquet"] == b"theirs"


def test_a_humans_edits_of_the_card_survive_a_publish(hub, api, tmp_path):
    remote.push(api, make(tmp_path / "a"), REPO, private=True)
    edited = held(hub)["README.md"].replace(b"# oddsmith:end\n", b"# oddsmith:end\nlanguage: de\n") + b"\nMy note.\n"
    hub.put(REPO, "README.md", edited)
    assert remote.push(api, make(tmp_path / "b"), REPO, private=True).changed == []  # nothing of ours is new
    pushed = remote.push(api, make(tmp_path / "c", made="Otherwise."), REPO, private=True)
    text = held(hub)["README.md"].decode()
    assert pushed.changed == ["README.md"] and "Otherwise." in text
    assert "\nlanguage: de\n" in text and text.endswith("\nMy note.\n")


def test_a_public_repository_is_not_published_to_where_it_must_be_private(hub, api, tmp_path):
    hub.make(REPO, private=False)
    with pytest.raises(SettingsError, match=r"publish\.private: is true, but me/tiles is public"):
        remote.push(api, make(tmp_path / "a"), REPO, private=True)
    assert ours(hub) == 0
    assert remote.push(api, make(tmp_path / "b"), REPO, private=False).private is False


# ---------------------------------------------------------------- faults


@pytest.fixture
def begun(hub, api, tmp_path):
    """A repository with a publish in it, and a newer folder that changes a shard and the card."""
    remote.push(api, make(tmp_path / "old"), REPO, private=True)
    hub.log.clear()
    return make(tmp_path / "new", made="Otherwise.", mark="new")


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize("route", ROUTES)
def test_a_busy_or_broken_hub_is_asked_again_and_gets_one_commit(hub, api, begun, slept, route, status):
    hub.fail(*ROUTES[route], status=status)
    remote.push(api, begun, REPO, private=True)
    assert held(hub) == local(begun) and ours(hub) == 2 and len(slept) <= 1


@pytest.mark.parametrize("route", ROUTES)
def test_a_connection_that_is_reset_is_made_again(hub, api, begun, route):
    hub.fail(*ROUTES[route], reset=True)
    remote.push(api, begun, REPO, private=True)
    assert held(hub) == local(begun) and ours(hub) == 2


@pytest.mark.parametrize("how", [{"status": 500}, {"status": 429}, {"reset": True}], ids=str)
@pytest.mark.parametrize("route", ["info", "card", "preupload", "put", "commit"])
def test_a_fault_that_stays_ends_after_bounded_attempts_with_the_remote_unchanged(hub, api, begun, slept, route, how):
    head, before = hub.repos[REPO].head, held(hub)
    hub.fail(*ROUTES[route], times=10**6, **how)
    with pytest.raises(RemoteError, match="after 4 attempts; nothing was committed") as caught:
        remote.push(api, begun, REPO, private=True)
    assert caught.value.exit_code == 6 and "\n" not in str(caught.value) and "http://" not in str(caught.value)
    assert (hub.repos[REPO].head, held(hub)) == (head, before)
    assert remote.ATTEMPTS <= hub.count(*ROUTES[route]) <= 6 * 2 * remote.ATTEMPTS
    assert sum(slept) < 4 * 60


@pytest.mark.parametrize("status", [409, 412])
def test_somebodys_commit_in_between_is_built_upon_and_their_edit_survives(hub, api, begun, status):
    """The first commit is refused: what it was made on is no longer the head. 409 is injected, 412 the server's own."""

    def meanwhile():
        hub.put(REPO, "README.md", held(hub)["README.md"] + b"\nWritten meanwhile.\n")

    hub.fail(*ROUTES["commit"], before=meanwhile, **({"status": 409} if status == 409 else {}))
    remote.push(api, begun, REPO, private=True)
    text = held(hub)["README.md"].decode()
    assert text.endswith("\nWritten meanwhile.\n") and "Otherwise." in text and ours(hub) == 2
    assert {k: v for k, v in held(hub).items() if k != "README.md"} == {
        k: v for k, v in local(begun).items() if k != "README.md"}  # fmt: skip
    assert hub.count(*ROUTES["commit"]) == 2


def test_commits_of_others_without_end_are_told(hub, api, begun):
    hub.fail(*ROUTES["commit"], times=10**6, before=lambda: hub.put(REPO, "x.txt", str(len(hub.log)).encode()))
    with pytest.raises(RemoteError, match="got HTTP 412 after 4 attempts"):
        remote.push(api, begun, REPO, private=True)
    assert ours(hub) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub, api, begun, times):
    hub.fail(*ROUTES["commit"], times=times, lost=True)
    pushed = remote.push(api, begun, REPO, private=True)
    assert ours(hub) == 2 and pushed.commit == hub.repos[REPO].head and held(hub) == local(begun)
    assert "README.md" in pushed.changed


@pytest.mark.parametrize("status, said", [(401, "must be one that may write here"), (403, "set HF_TOKEN"),
                                          (400, "the Hub must take it"), (413, "the Hub must take it")])  # fmt: skip
def test_a_refusal_is_told_at_once(hub, api, begun, slept, status, said):
    hub.fail(*ROUTES["commit"], times=10**6, status=status)
    with pytest.raises(RemoteError, match=said):
        remote.push(api, begun, REPO, private=True)
    assert hub.count(*ROUTES["commit"]) == 1 and slept == [] and ours(hub) == 1


def test_a_full_disk_here_is_not_blamed_on_the_hub(api, begun, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api, "preupload_lfs_files", full)
    with pytest.raises(OSError, match="No space left") as caught:
        remote.push(api, begun, REPO, private=True)
    assert not isinstance(caught.value, RemoteError)


def test_pauses_double_are_jittered_and_heed_what_the_hub_asks_within_bounds():
    class Answer(Exception):
        def __init__(self, after=""):
            self.response = type("R", (), {"status_code": 429, "headers": {"Retry-After": after} if after else {}})()

    for attempt in (1, 2, 3, 9):
        longest = min(remote.LONGEST_PAUSE, remote.FIRST_PAUSE * 2 ** (attempt - 1))
        waits = [remote.seconds(attempt, Answer()) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest and len(set(waits)) > 40
    assert remote.seconds(1, Answer("17")) == 17 and remote.seconds(1, Answer("86400")) == remote.LONGEST_ASKED
    assert remote.seconds(1, Answer("tomorrow")) <= remote.FIRST_PAUSE


def test_the_client_gives_up_on_a_silent_connection():
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import get_session
    from huggingface_hub.utils._http import default_client_factory

    try:
        remote.connect()
        assert get_session().timeout.read == get_session().timeout.connect == remote.TIMEOUT
    finally:
        set_client_factory(default_client_factory)


# ---------------------------------------------------------------- what is loaded is what was made


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(root, {modality: what a user loads}) after the stage published all three modalities."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    from pipelines import publish as stage_publish
    from pipelines.stage import parse

    root = published.place(tmp_path_factory.mktemp("work"), *published.NAMES, enabled=True, repo="me/{dataset}")
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        for name, value in {"ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}.items():
            patch.setattr(constants, name, value)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.chdir(root)
        for name in published.NAMES.values():
            stage_publish.main(parse("publish", [name]))
        set_client_factory(default_client_factory)
        repos = [f"me/{name}" for name in published.NAMES.values()]
        run = subprocess.run([sys.executable, str(ROOT / "tests" / "loaded.py"), *repos], env=env_of(root, hub),
                             capture_output=True, text=True)  # fmt: skip
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)
    return root, {modality: found[f"me/{name}"] for modality, name in published.NAMES.items()}


def env_of(root: Path, hub: Hub | None, **more: str) -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(root / "hf"),
             "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, **more}  # fmt: skip
    return found | ({"HF_ENDPOINT": hub.url} if hub else {})


def publish(root: Path, name: str, hub: Hub | None, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipelines.publish", name], cwd=root, env=env_of(root, hub, **more),
                          capture_output=True, text=True)  # fmt: skip


STORES = {"train": "training", "validation": "records/calib", "test": "test"}


@pytest.mark.parametrize("modality", published.NAMES)
def test_every_record_that_is_loaded_is_the_one_that_was_made(loaded, modality):
    root, found = loaded
    told = found[modality]
    assert list(told["splits"]) == list(STORES)
    for split, store in STORES.items():
        records = read_store(root / "artifacts" / published.NAMES[modality] / store)
        rows = told["splits"][split]
        assert len(rows) == len(records)
        for i, row in enumerate(rows):
            meta = records.meta.iloc[i]
            for name in ("id", "kind", "split", "group", "source", "host", "generator", "mask_source"):
                assert row[name] == meta[name], (split, i, name)
            for name in ("label", "synthetic", "start", "seed", "round", "parents"):
                assert row[name] == (list(meta[name]) if name == "parents" else meta[name])
            assert row["severity"] == (None if np.isnan(meta["severity"]) else meta["severity"])
            same_payload(modality, row, records, i)


def same_payload(modality: str, row: dict, records, i: int) -> None:
    if modality == "image":
        assert np.array_equal(row["image"], records.x[i])
        assert np.array_equal(row["mask"], np.uint8(255) * records.mask[i])
    elif modality == "series":
        assert row["series"] == records.x[i].tolist() and row["mask"] == records.mask[i].tolist()
        assert row["time"] == records.time[i].tolist()
    else:
        assert row["mask"] == records.mask[i].tolist()
        for name in records.x:
            cell = records.x[name].iloc[i]
            assert row[name] == (None if cell is None or cell != cell else cell)


def test_features_are_typed_and_the_same_files_come_as_a_snapshot(loaded):
    root, found = loaded
    told = {modality: found[modality]["features"] for modality in found}
    for features in told.values():
        assert features["label"] == "ClassLabel(names=['normal', 'anomaly'])"
        assert features["synthetic"] == "Value('bool')"
        assert features["parents"] == "List(Value('string'))" and features["score_fused"] == "Value('float64')"
    assert told["image"]["image"].startswith("Image(") and told["image"]["mask"].startswith("Image(")
    assert told["series"]["series"] == "List(List(Value('float64')))"
    assert told["series"]["time"] == "List(Value('timestamp[ns]'))"
    assert (told["row"]["amount"], told["row"]["count"], told["row"]["shop"]) == (
        "Value('float64')", "Value('int64')", "Value('string')")  # fmt: skip
    for modality, name in published.NAMES.items():
        receipt = json.loads((root / "reports" / "publish" / f"{name}.json").read_text())
        snapshot = {file: digest for file, digest in found[modality]["snapshot"].items() if file != ".gitattributes"}
        assert receipt["files"] == snapshot and receipt["repo"] == f"me/{name}" and not receipt["dry_run"]
        assert re.fullmatch("[0-9a-f]{40}", receipt["commit"]) and receipt["private"] is True


# ---------------------------------------------------------------- the stage


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A function that runs the stage here, in a dry run unless told otherwise."""
    from pipelines import publish as stage_publish
    from pipelines.stage import parse

    monkeypatch.delenv("HF_TOKEN", raising=False)

    def run(modality: str = "row", **settings):
        root = published.place(tmp_path / "work", modality, **settings)
        monkeypatch.chdir(root)
        return stage_publish.main(parse("publish", [published.NAMES[modality]]))

    return run


def test_a_dry_run_tells_repository_files_sizes_and_card_and_sends_nothing(stage, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # not even imported
    told = stage(repo="me/{dataset}")
    out = capsys.readouterr().out
    assert told["files"] == 8 and "nothing was sent" in told["dry run"]
    assert "repo     me/claims, private, licence cc-by-4.0" in out and "  # claims" in out
    assert re.search(r"files    8, [\d.]+ kB, in \.work/publish/claims", out)
    assert re.search(r"[\d.]+ kB  data/train-00000-of-00003\.parquet", out)
    receipt = json.loads(Path("reports/publish/claims.json").read_text())
    assert receipt["dry_run"] is True and receipt["commit"] is None
    assert receipt["files"] == {n: d for n, (_, d) in folder.listed(Path(".work/publish/claims")).items()}


@pytest.mark.parametrize("settings, error, said", [
    ({"licence": "cc-by-nc-nd-4.0"}, InputError, "it forbids edited copies"),
    ({"licence": "unknown"}, InputError, "say who allowed it in publish.permission"),
    ({"licence": {"tiles": "mit"}}, SettingsError, "must name the licence of data set 'claims', got nothing"),
    ({"licence": ""}, SettingsError, "must name the licence"),
    ({"enabled": True}, SettingsError, "publish.repo: must be owner/name, got ''"),
    ({"repo": "nobody"}, SettingsError, "must be owner/name, got 'nobody'"),
    ({"repo": "../x"}, SettingsError, "must be owner/name, got '../x'"),
    ({"enabled": True, "repo": "me/x", "licence": {"claims": "mit"}}, RemoteError, "needs a token, got none"),
])  # fmt: skip
def test_what_cannot_be_published_stops_it_with_the_reason(stage, settings, error, said, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(error, match=re.escape(said)):
        stage(**settings)
    assert not Path("reports").exists()


def test_two_data_sets_do_not_go_to_one_repository(tmp_path, monkeypatch):
    from pipelines import publish as stage_publish
    from pipelines.settings import load_settings

    monkeypatch.chdir(published.place(tmp_path, "row", "series", repo="me/both"))
    with pytest.raises(SettingsError, match=r"must be one repository a data set, got 'me/both' for 2; put \{dataset\}"):
        stage_publish.target(load_settings(), "claims")


def test_a_base_model_needs_a_licence_of_its_own(tmp_path, monkeypatch):
    import yaml

    from data.hub import licences
    from pipelines import facts
    from pipelines.settings import load_settings

    root = published.place(tmp_path, "image")
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["fit"]["image"]["pretrained"] = "some/where/a-model"
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    params = load_settings(root / "params.yaml")
    assert facts.bases(params, "image", "", licences.BASES) == [("a-model", "")]
    assert facts.bases(params, "image", "all-rights-reserved", {}) == [("a-model", "all-rights-reserved")]
    monkeypatch.chdir(root)
    from pipelines import publish as stage_publish
    from pipelines.stage import parse

    with pytest.raises(SettingsError, match=r"publish\.base_licence: must name the licence of base model 'a-model'"):
        stage_publish.main(parse("publish", ["tiles"]))
    raw["publish"]["base_licence"] = "research-only"
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match="it may be studied, not passed on"):
        stage_publish.main(parse("publish", ["tiles"]))


@pytest.mark.parametrize("pretrained, source, named, expected", [
    ("runwayml/x", None, "", [("runwayml/x", "openrail")]),
    ("runwayml/x", None, "OpenRAIL ", [("runwayml/x", "openrail")]),
    ("runwayml/x", "a/vae", "mit", [("runwayml/x", "openrail"), ("vae", "mit")]),
    ("runwayml/x", None, "cc0-1.0", "must be the one of 'runwayml/x', openrail, got 'cc0-1.0'; leave it empty"),
])  # fmt: skip
def test_the_table_of_licences_comes_before_the_setting(pretrained, source, named, expected):
    from types import SimpleNamespace as Of

    from pipelines import facts

    params = Of(fit=Of(image=Of(pretrained=pretrained, latent=Of(kind="pretrained", source=source))))
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=re.escape(expected)):
            facts.bases(params, "image", named, {"runwayml/x": "openrail"})
    else:
        assert facts.bases(params, "image", named, {"runwayml/x": "openrail"}) == expected


@pytest.mark.parametrize("audit, enabled, error", [
    ({"passed": False, "checks": [{"name": "shortcut", "passed": False}]}, False, LeakError),
    (None, True, InputError),
])  # fmt: skip
def test_a_failed_audit_or_none_stops_it(stage, tmp_path, monkeypatch, audit, enabled, error):
    from pipelines import publish as stage_publish
    from pipelines.stage import parse

    stage(repo="me/x")
    path = Path("artifacts/claims/audit.json")
    path.write_text(json.dumps(audit)) if audit else path.unlink()
    stage_publish.main(parse("publish", ["claims"])) if audit is None else None  # a dry run goes on without one
    settings = Path("params.yaml").read_text().replace("enabled: false", f"enabled: {str(enabled).lower()}")
    Path("params.yaml").write_text(settings)
    with pytest.raises(error, match="shortcut" if audit else "must be run before publishing"):
        stage_publish.main(parse("publish", ["claims"]))


def test_a_secret_in_the_records_stops_it_before_anything_is_kept(stage, tmp_path):
    from data.records import write_store
    from pipelines import publish as stage_publish
    from pipelines.stage import parse

    stage()
    store = Path("artifacts/claims/test")
    records = read_store(store)
    write_store(store, records.with_meta(source=["", str(Path.cwd() / "raw.csv"), *[""] * 9]))
    with pytest.raises(InputError) as caught:
        stage_publish.main(parse("publish", ["claims"]))
    place = "data/test-00000-of-00001.parquet: row 1, column 'source'"
    assert f"{place}: must not hold the folder of this run" in str(caught.value) and caught.value.exit_code == 3


# ---------------------------------------------------------------- killed, and run by dvc


def test_a_publish_that_is_killed_goes_on_where_it_was_makes_one_commit_and_hides_the_token(tmp_path):
    root = published.place(tmp_path, "image", enabled=True, repo=REPO)
    with Hub() as hub:
        killed, waiting = threading.Event(), threading.Event()

        def hold():
            waiting.set()
            killed.wait(60)

        hub.fail("PUT", "/lfs/", times=10**6, skip=2, before=hold, reset=True)  # two get through, then it stands
        process = subprocess.Popen([sys.executable, "-m", "pipelines.publish", "tiles"], cwd=root,
                                   env=env_of(root, hub), stdout=subprocess.DEVNULL)  # fmt: skip
        assert waiting.wait(60)
        while len(hub.objects) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
        hub.faults.clear()
        there = set(hub.objects)
        assert len(there) == 2 and ours(hub) == 0 and not (root / "reports").exists()
        hub.log.clear()
        done = publish(root, "tiles", hub)
        assert done.returncode == 0, done.stderr
        sent = {path.rsplit("/", 1)[1] for method, path in hub.log if method == "PUT"}
        assert ours(hub) == 1 and len(sent) == 3 and not sent & there
        assert held(hub).keys() == json.loads((root / "reports" / "publish" / "tiles.json").read_text())["files"].keys()
    texts = [f.read_bytes() for f in root.rglob("*") if f.is_file()] + [(done.stdout + done.stderr).encode()]
    assert b"private, licence cc-by-4.0" in texts[-1] and not [text for text in texts if TOKEN.encode() in text]


def dvc(root: Path, *argv: str, **more: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *argv], cwd=root, env=env_of(root, None, **more),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dvc_publishes_when_asked_by_name_and_not_in_a_plain_repro(tmp_path):
    import yaml

    from pipelines.explain import Loader

    root = published.place(tmp_path, "row", "series")
    publishes = yaml.load((ROOT / "dvc.yaml").read_text(), Loader)["stages"]["publish"]
    publishes["cmd"] = publishes["cmd"].replace("python", sys.executable)
    publishes["deps"] = [d for d in publishes["deps"] if d.startswith("metrics")]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"publish": publishes}}))
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    plain = dvc(root, "repro")
    assert "publish: not asked for by name, nothing done; dvc repro publish" in plain and "card" not in plain
    assert "is empty" not in plain
    receipts = [root / "reports" / "publish" / f"{published.NAMES[m]}.json" for m in ("row", "series")]
    assert not receipts[0].exists() and not (root / ".work" / "publish").exists()
    for _ in range(2):  # always changed: asked twice, told twice
        told = dvc(root, "repro", "publish")
        assert "dry run" in told and "data/train-00000-of-00003.parquet" in told and "data sets 2" in told
    kept = [receipt.read_bytes() for receipt in receipts]
    assert len(json.loads(kept[0])["files"]) == 8
    dvc(root, "repro")
    assert [r.read_bytes() for r in receipts] == kept  # a plain repro leaves the receipts of the last publish alone
