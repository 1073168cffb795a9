"""Detectors on disk: model.safetensors and config.json in a folder that is there whole or not at all; no pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from data.errors import InputError, ResourceError
from detection.detectors import detector, name_of

MODEL, CONFIG = "model.safetensors", "config.json"
FORMAT = 1


def save(fitted, folder: Path | str) -> None:
    """Writes a fitted detector; an older one in the folder is replaced.

    ValueError where the folder holds anything else, ResourceError on a full disk.
    """
    from safetensors.numpy import save as to_bytes

    folder = Path(folder)
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in (MODEL, CONFIG)) if folder.is_dir() else []
    if foreign:
        raise ValueError(f"{folder}: a detector's folder must hold nothing else, got {', '.join(foreign[:3])}")
    modality, name = name_of(fitted)
    arrays, config = fitted.state()
    blob = to_bytes({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    about = {"format": FORMAT, "modality": modality, "name": name, "sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps(about | {"config": config}, indent=1, sort_keys=True, allow_nan=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, older = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("partial", "older"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        (partial / MODEL).write_bytes(blob)
        (partial / CONFIG).write_text(text + "\n")
        if folder.exists():
            folder.rename(older)
        partial.rename(folder)
        shutil.rmtree(older, ignore_errors=True)
    except OSError as error:
        if older.exists() and not folder.exists():
            older.rename(folder)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder.parent).free // 2**20
            raise ResourceError(f"{folder}: the disk must have room for the detector, {len(blob) // 2**20 + 1} MB "
                                f"needed and {free} MB free; free some and run again") from error  # fmt: skip
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path | str):
    """The detector of a folder. InputError where it is missing, torn (sha256), or of another format."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    folder = Path(folder)
    try:
        about, blob = json.loads((folder / CONFIG).read_text()), (folder / MODEL).read_bytes()
        given = about["format"], about["sha256"]
        modality, name, config = about["modality"], about["name"], about["config"]
    except FileNotFoundError as error:
        raise InputError(f"{folder}: a detector must have {MODEL} and {CONFIG}, lacks "
                         f"{Path(error.filename).name}; run the stage before") from error  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / CONFIG}: must be a detector's config, got {error!r}; fit it again") from error
    if given != (FORMAT, hashlib.sha256(blob).hexdigest()):
        raise InputError(f"{folder}: a detector must be of format {FORMAT} and match its sha256, got format {given[0]} "
                         f"and {given[1][:12]}; fit it again")  # fmt: skip
    try:
        arrays = from_bytes(blob)
    except SafetensorError as error:
        raise InputError(f"{folder / MODEL}: must be safetensors, got {error}; fit it again") from error
    return detector(modality, name).from_state(arrays, config)
