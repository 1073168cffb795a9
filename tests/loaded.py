"""Run by tests in a process of its own: loads data sets from the Hub at HF_ENDPOINT as a user would, prints JSON.

python tests/loaded.py <repo> ..: {repo: {"features", "splits": {split: records}, "snapshot": {file: SHA-256}}}
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np


def plain(value: object) -> object:
    """A value as JSON: pictures as nested lists, dates as nanoseconds."""
    if hasattr(value, "getbands"):
        return np.asarray(value).tolist()
    if hasattr(value, "timestamp"):
        return value.value
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def load(repo: str) -> dict:
    found = datasets.load_dataset(repo)
    folder = Path(huggingface_hub.snapshot_download(repo, repo_type="dataset"))
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {
        "features": {name: str(feature) for name, feature in found["train"].features.items()},
        "splits": {split: [{k: plain(v) for k, v in row.items()} for row in part] for split, part in found.items()},
        "snapshot": {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }


if __name__ == "__main__":
    datasets.disable_progress_bars()
    print(json.dumps({repo: load(repo) for repo in sys.argv[1:]}))
