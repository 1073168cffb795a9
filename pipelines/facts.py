"""What the card of a published data set tells, from the files that the stages left; whatever is absent is left out."""

from __future__ import annotations

import json
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from data.errors import InputError

MADE = {
    "image": "A diffusion model trained on the normal images redraws what lies under a mask; an adapter (LoRA) fitted "
    "on the few labelled anomalies makes it draw an anomaly. Outside the mask an image equals its host bit for bit.",
    "series": "A diffusion model trained on normal windows redraws the values under a mask of steps and channels; an "
    "adapter (LoRA) fitted on the few labelled anomalies makes it draw an anomaly. Outside the mask a window equals "
    "its host bit for bit.",
    "row": "A diffusion model trained on normal rows redraws some cells of a row; an adapter (LoRA) fitted on few "
    "labelled anomalies steers it. All other cells equal those of the host.",
}  # fmt: skip
JUDGED = (
    "Detectors that were trained on real records only, and saw neither host nor parents, score every generated record; "
    "what is unchanged, a copy, a duplicate, invisible or shows a seam is rejected."
)


def read_json(path: Path) -> Any:
    """The parsed file, None where there is none; InputError where it is torn."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: must be JSON ({error}); run dvc repro") from error


def ledgers(folder: Path) -> list[Path]:
    """The verdict tables of every round and seed below artifacts/<data set>/, in order."""
    return sorted(folder.glob("r*/verdicts/seed*.parquet"))


def verdicts(files: list[Path]) -> tuple[dict | None, dict | None]:
    """(counts of verdicts, figures of memorisation) over all ledgers, None where there is nothing to tell."""
    import pandas as pd

    if not files:
        return None, None
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    reasons = Counter(table["reason"])
    told = {"generated": len(table), "kept": int(table["keep"].sum()), "reasons": reasons.most_common()}
    near = table.loc[table["keep"].astype(bool), "copy_distance"].dropna() if "copy_distance" in table else []
    if not len(near):
        return told, None
    least, low, median = (float(near.quantile(q)) for q in (0, 0.05, 0.5))
    return told, {"kept": len(near), "least": least, "low": low, "median": median,
                  "copies": reasons["copy"], "duplicates": reasons["duplicate"]}  # fmt: skip


def gain(gate: dict | None, metrics: dict | None) -> dict | None:
    """What the gate decided in a sentence, and the gain on the test split with its interval."""
    measured = (metrics or {}).get("gain") or {}
    if not gate and not measured:
        return None
    keys = ("mean", "low", "high", "metric", "arm", "over")
    told = {key: measured.get(key, "" if key in ("metric", "arm", "over") else None) for key in keys}
    sentence = (gate or {}).get("sentence") or "No gate was run: what was kept is published whether it helped or not."
    return told | {"sentence": sentence, "seeds": len(measured.get("values") or [])}


def settings(params: Any, modality: str) -> list[tuple[str, object]]:
    """(name, value) of the settings that say most about how the records were made."""
    made = getattr(params.generate, modality)
    rows = [("supports drawn", params.prepare.seeds), ("labelled anomalies a support", params.prepare.support)]
    if made is not None:
        rows += [("records a support and round", made.count), ("sampler", made.sampler), ("steps", made.steps)]
    return rows


def bases(params: Any, modality: str, named: str, known: dict[str, str]) -> list[tuple[str, str]]:
    """(model, licence) of every pretrained model that drew records: `named` by the settings, or as `known`."""
    fit = getattr(params.fit, modality)
    latent = getattr(fit, "latent", None)
    found = [getattr(fit, "pretrained", None), latent.source if latent and latent.kind == "pretrained" else None]
    models = [model for model in found if model]
    return [(model if model in known else Path(model).name, named or known.get(model, "")) for model in models]


def gather(name: str, modality: str, params: Any, folder: Path, metrics: Path) -> dict:
    """Everything that the card tells and that is not in the records. folder: artifacts/<data set>."""
    told, memory = verdicts(ledgers(folder))
    source = params.datasets[name].source
    return {
        "name": name, "modality": modality, "version": metadata.version("oddsmith"),
        "source": f"read from {Path(source.path).name} by the reader {source.reader}",
        "made": f"{MADE[modality]} {JUDGED}", "settings": settings(params, modality),
        "gain": gain(read_json(folder / "gate.json"), read_json(metrics)),
        "audit": read_json(folder / "audit.json"), "verdicts": told, "memory": memory,
    }  # fmt: skip
