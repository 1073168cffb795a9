"""What the card of a published data set tells, from the files that the stages left; whatever is absent is left out."""

from __future__ import annotations

from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from data.errors import SettingsError
from data.files import read_json, read_table

MADE = {  # by how the generator's name begins; the card takes those of its synthetic records
    "image": {
        "diffusion": "A diffusion model trained on the normal images redraws what lies under a mask; an adapter (LoRA) "
        "fitted on the few labelled anomalies makes it draw an anomaly. Outside the mask an image equals its host bit "
        "for bit. Beside each lies its twin, drawn with the adapter off, as a normal, so that the edit itself is "
        "nothing to go by.",
        "standard": "Standard augmentation flips, turns, moves, blurs or lights a labelled anomaly a little; its mask "
        "moves with it.",
        "cutpaste": "Cut-paste lays the defect of a labelled anomaly, turned and scaled, on a normal image. Outside "
        "the mask that image is left as it is.",
    },
    "series": {
        "diffusion": "A diffusion model trained on normal windows redraws the values under a mask of steps and "
        "channels; an adapter (LoRA) fitted on the few labelled anomalies makes it draw an anomaly. Outside the mask a "
        "window equals its host bit for bit.",
        "standard": "Standard augmentation shifts, warps and scales a labelled anomaly a little and adds noise; its "
        "mask moves with it.",
        "paste": "Paste lays the deviation of a labelled anomaly on a normal window.",
        "taxonomy": "Taxonomy puts a textbook fault on a normal window, as large and in the channels of a labelled "
        "anomaly.",
    },
    "row": {
        "diffusion": "A row begins as a labelled anomaly, its host, of which some cells are exchanged for those of "
        "others of its kind. Then noise is added to all cells, and a diffusion model trained on normal rows, with an "
        "adapter (LoRA) fitted on the few labelled anomalies, takes it away. Where the host has no others, some of its "
        "cells are made anew.",
        "standard": "Standard augmentation adds a little noise to the numbers of a labelled anomaly.",
        "jitter": "Jitter adds noise to the numbers of a labelled anomaly and seldom takes a category of another.",
        "smote": "SMOTE takes a point between two labelled anomalies.",
    },
}  # fmt: skip


def ledgers(folder: Path) -> list[Path]:
    """The verdict tables of every round and seed below artifacts/<data set>/, in order."""
    return sorted(folder.glob("r*/verdicts/seed*.parquet"))


def verdicts(files: list[Path]) -> tuple[dict | None, dict | None]:
    """(counts of verdicts, figures of memorisation) over all ledgers, None where there is nothing to tell."""
    import pandas as pd

    if not files:
        return None, None
    table = pd.concat([read_table(file) for file in files], ignore_index=True)
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
    """(model, licence) of every pretrained model that drew records: as `known`, else as `named` by the settings.

    SettingsError where all are known and one otherwise than named.
    """
    fit = getattr(params.fit, modality)
    latent = getattr(fit, "latent", None)
    found = [getattr(fit, "pretrained", None), latent.source if latent and latent.kind == "pretrained" else None]
    models, named = [model for model in found if model], named.strip().lower()
    wrong = [model for model in models if known.get(model, named) != named]
    if named and wrong and all(model in known for model in models):
        raise SettingsError(f"publish.base_licence: must be the one of '{wrong[0]}', {known[wrong[0]]}, got '{named}'; "
                            "leave it empty")  # fmt: skip
    return [(model, known[model]) if model in known else (Path(model).name, named) for model in models]


def gather(name: str, modality: str, params: Any, folder: Path, metrics: Path) -> dict:
    """Everything that the card tells and that is not in the records. folder: artifacts/<data set>."""
    told, memory = verdicts(ledgers(folder))
    source = params.datasets[name].source
    return {
        "name": name, "modality": modality, "version": metadata.version("oddsmith"),
        "source": f"read from {Path(source.path).name} by the reader {source.reader}",
        "made": MADE[modality], "settings": settings(params, modality),
        "gain": gain(*(read_json(path, needed=False) for path in (folder / "gate.json", metrics))),
        "audit": read_json(folder / "audit.json", needed=False), "verdicts": told, "memory": memory,
    }  # fmt: skip
