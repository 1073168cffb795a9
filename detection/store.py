"""Detectors on disk: model.safetensors and config.json in a folder that is there whole or not at all; no pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from data.atomic import atomic_dir
from data.errors import InputError
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
    with atomic_dir(folder, durable=False) as partial:
        (partial / MODEL).write_bytes(blob)
        (partial / CONFIG).write_text(text + "\n")


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
