"""Stage publish: the training set as a Hub data set; a dry run unless publish.enabled is true.

Reads artifacts/<dataset>/ (training, records/calib, test, adapters, gate.json, audit.json, r<r>/verdicts) and
metrics/<dataset>.json, of every data set or of one that is named. Writes .work/publish/<dataset>/, the folder as it
goes to the Hub, and the receipt reports/publish/<dataset>.json. It works when asked for by name (`dvc repro publish`):
in a plain `dvc repro` it says so and ends.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.config import Settings
    from pipelines.stage import Run

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
STAGE = re.compile(r"(.*:)?publish")  # how dvc's command line names this stage
PLACEHOLDER = "OWNER/NAME"
RECEIPTS = Path("reports/publish")


def main(run: Run) -> dict:
    from data.atomic import human

    receipts = [publish(run, name) for name in ([run.dataset] if run.dataset else run.params.datasets)]
    said = {"data sets": len(receipts), "files": sum(len(r["files"]) for r in receipts),
            "size": human(sum(r["size"] for r in receipts))}  # fmt: skip
    if not run.settings.enabled:
        return {"dry run": "nothing was sent (publish.enabled: false)"} | said
    return said | {"changed": sum(len(r["changed"]) for r in receipts)}


def publish(run: Run, name: str) -> dict:
    """The receipt of one data set, written once all of it is where it should be."""
    from data.atomic import atomic_dir
    from data.hub import folder, licences
    from pipelines import facts
    from pipelines.stage import Paths
    from pipelines.work import ROOT

    settings, paths, modality = run.settings, Paths(name), run.params.datasets[name].modality
    home, repo = paths.folder, target(run.params, name)
    licence = licences.check(licence_of(settings.licence, name), f"data set '{name}'", setting="publish.licence",
                             permission=settings.permission)  # fmt: skip
    bases = []
    for model, given in facts.bases(run.params, modality, settings.base_licence, licences.BASES):
        found = licences.check(given, f"base model '{model}'", setting="publish.base_licence",
                               permission=settings.permission)  # fmt: skip
        bases.append({"name": model, "licence": found.name, "asks": found.asks})
    told = facts.gather(name, modality, run.params, home, paths.metrics)
    told |= {"repo": repo or PLACEHOLDER, "named": bool(repo), "bases": bases}
    check_audit(told["audit"], home, needed=settings.enabled)
    stores = {"train": home / "training", "validation": paths.records / "calib", "test": paths.test}
    place = ROOT / "publish" / name
    with atomic_dir(place) as made:
        files = folder.build(made, stores, facts.ledgers(home), facts=told, licence=licence, own=own_texts(),
                             adapters=paths.adapters if settings.adapters else None)  # fmt: skip
    tell_plan(repo, settings.private, licence.name, files, place)
    receipt = {"dataset": name, "repo": repo, "private": settings.private, "licence": licence.name, "commit": None,
               "dry_run": not settings.enabled, "size": sum(size for size, _ in files.values()),
               "files": {file: digest for file, (_, digest) in files.items()}}  # fmt: skip
    if settings.enabled:
        receipt |= send(place, repo, private=settings.private)
    keep(name, receipt)
    return receipt


def target(params: Settings, name: str) -> str:
    """owner/name of the repository of a data set, "" in a dry run without one; SettingsError where it will not do."""
    from data.errors import SettingsError

    repos = {dataset: params.publish.repo.replace("{dataset}", dataset) for dataset in params.datasets}
    repo = repos[name]
    if not repo and not params.publish.enabled:
        return ""
    if not REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise SettingsError(f"publish.repo: must be owner/name, got {params.publish.repo!r}; set it in params.yaml")
    if len(set(repos.values())) < len(repos):
        raise SettingsError(f"publish.repo: must be one repository a data set, got {repo!r} for {len(repos)}; "
                            "put {dataset} into it")  # fmt: skip
    return repo


def licence_of(given: str | dict[str, str], name: str) -> str:
    return given if isinstance(given, str) else given.get(name, "")


def check_audit(audit: dict | None, home: Path, *, needed: bool) -> None:
    """LeakError where the leakage audit failed; InputError where it is needed and was not run."""
    from data.errors import InputError, LeakError

    if audit is None and needed:
        raise InputError(f"{home / 'audit.json'}: the audit must be run before publishing, got none; run dvc repro")
    if audit is not None and not audit.get("passed"):
        failed = [str(check.get("name")) for check in audit.get("checks", []) if not check.get("passed")]
        told = ", ".join(failed) or "a failure"
        raise LeakError(f"{home / 'audit.json'}: the audit must be passed before publishing, got {told}; mend the data")


def own_texts() -> dict[str, str]:
    """Texts of this run that must not get into a published file."""
    tokens = [os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    return {"the folder of this run": f"{Path.cwd()}/", "the home folder": f"{Path.home()}/",
            "the token": next(filter(None, tokens), "")}  # fmt: skip


def tell_plan(repo: str, private: bool, licence: str, files: dict[str, tuple[int, str]], place: Path) -> None:
    """Prints where everything would go, every file with its size, and the card."""
    from data.atomic import human

    print(f"repo     {repo or 'not set (publish.repo)'}, {'private' if private else 'public'}, licence {licence}")
    print(f"files    {len(files)}, {human(sum(size for size, _ in files.values()))}, in {place}")
    for file, (size, _) in files.items():
        print(f"  {human(size):>9}  {file}")
    print("card")
    for line in (place / "README.md").read_text("utf-8").splitlines():
        print(f"  {line}".rstrip())
    sys.stdout.flush()


def send(place: Path, repo: str, *, private: bool) -> dict:
    """{"commit", "url", "changed", "removed", "private"} once the repository holds it; RemoteError without a token."""
    from data.errors import RemoteError
    from data.hub import remote

    api = remote.connect()
    from huggingface_hub import get_token

    if not get_token():
        raise RemoteError(f"{repo}: publishing needs a token, got none; set HF_TOKEN, or log in with `hf auth login`")
    pushed = remote.push(api, place, repo, private=private)
    sent = pushed.changed or pushed.removed
    what = f"{len(pushed.changed)} files sent" if sent else "all of it was there, no commit made"
    print(f"{api.endpoint}/datasets/{repo}: {what}, at {pushed.commit}", flush=True)
    return {"commit": pushed.commit, "url": f"{api.endpoint}/datasets/{repo}", "changed": pushed.changed,
            "removed": pushed.removed, "private": pushed.private}  # fmt: skip


def keep(name: str, receipt: dict) -> None:
    """Writes the receipt of a run."""
    from data.atomic import atomic_file

    with atomic_file(receipt_of(name)) as path:
        path.write_text(json.dumps(receipt, indent=1, sort_keys=True) + "\n")


def receipt_of(name: str) -> Path:
    return RECEIPTS / f"{name}.json"


def say_why_empty() -> None:
    """Puts a line into the folder of receipts, since dvc warns of an empty one after every plain `dvc repro`."""
    from data.atomic import atomic_file

    RECEIPTS.mkdir(parents=True, exist_ok=True)
    if not any(RECEIPTS.iterdir()):
        with atomic_file(RECEIPTS / "README.md") as path:
            path.write_text("The receipts of `dvc repro publish`, one a data set, come here.\n")


def asked() -> bool:
    """Whether publishing was asked for: by hand, or by the name of the stage on dvc's command line.

    dvc runs a stage that is always changed in every plain `dvc repro` too, and does not say what it was asked for.
    """
    if "DVC_STAGE" not in os.environ:
        return True
    import psutil

    for parent in psutil.Process().parents():
        words = parent.cmdline()
        at = next((i for i, word in enumerate(words) if Path(word).name in ("dvc", "dvc.exe")), None)
        if at is not None:
            return any(STAGE.fullmatch(word) for word in words[at + 1 :])
    return False


if __name__ == "__main__":
    if asked():
        from pipelines.stage import stage

        os.environ.setdefault("HF_HUB_OFFLINE", "0")  # else a stage that names no hub id is kept from the network
        stage(main, section="publish")
    else:
        say_why_empty()
        print("publish: not asked for by name, nothing done; dvc repro publish", flush=True)
