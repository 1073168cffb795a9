"""Reads params.yaml into the models of pipelines/config.py, and holds its sections to each other.

Each rule across sections is a function that raises SettingsError with the dotted path, what was found and the mend.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from data.errors import SettingsError, closest
from pipelines.config import BY_MODALITY, MODALITIES, ROUNDS, RoundSection, Settings, merge
from pipelines.explain import read_yaml, show, validate

WITHOUT_RATIO = {"alike": "near", "likelihood": "plain"}  # criteria by the likelihood ratio, and the same by all judges
SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """The validated settings; SettingsError names the first mistake by its dotted path and what was probably meant."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: must hold sections, got {show(raw)}")
    settings = validate(Settings, raw, where=f"{path}: ")
    check_datasets(settings, path)
    for stage in (s for s in BY_MODALITY if isinstance(getattr(settings, s), RoundSection)):
        section = getattr(settings, stage)
        for place, modality in ((f"r{r}", m) for r in ROUNDS for m in MODALITIES):
            base, changes = getattr(section, modality), getattr(getattr(section, place), modality)
            if changes and base is None:
                raise SettingsError(f"{path}: {stage}.{place}.{modality}: needs {stage}.{modality}, which it changes")
            if changes:
                changed = merge(base.model_dump(by_alias=True), changes)
                validate(type(base), changed, where=f"{path}: {stage}.{place}.{modality}.")
    check_networks(settings, path)
    check_criteria(settings, path)
    return settings


def check_datasets(settings: Settings, path: Path) -> None:
    """SettingsError where a name would not do as a folder and stage name, or a section lacks a modality in use."""
    for name, dataset in settings.datasets.items():
        if not SLUG.fullmatch(name):
            rule = "a name must be up to 40 of a-z, 0-9, _ and -, the first a letter or digit"
            raise SettingsError(f"{path}: datasets: {rule}, got {show(name)}")
        for stage in BY_MODALITY:
            section = getattr(settings, stage)
            rounds = [f"r{r}" for r in ROUNDS] if isinstance(section, RoundSection) else []
            for place, part in (("", section), *((f".{r}", getattr(section, r)) for r in rounds)):
                if getattr(part, dataset.modality) is None:
                    where = f"{stage}{place}.{dataset.modality}"
                    raise SettingsError(f"{path}: {where}: is required by data set '{name}'")


def check_networks(settings: Settings, path: Path) -> None:
    """SettingsError where the networks of generation/networks.py could not be built, or could not take their records.

    Of a pretrained pipeline or autoencoder nothing is known before it is loaded (generation/model.py).
    """

    def must(rule: str, place: str, value: int, valid: Iterable[int]) -> None:
        if value not in valid:
            near = min(valid, key=lambda other: abs(other - value))
            raise SettingsError(f"{path}: {place}: must {rule}, got {value}; the closest is {near}")

    fit, prepare = settings.fit, settings.prepare
    if fit.image and not fit.image.pretrained and fit.image.latent.kind != "pretrained":
        step = fit.image.latent.factor * 2 ** (len(fit.image.widths) - 1)
        rule = f"be a multiple of {step}, latent.factor times 2 for each of widths but the first"
        must(rule, "fit.image.size", fit.image.size, [size for size in range(16, 1025) if size % step == 0])
    if fit.series and prepare.series:
        window, width = prepare.series.window, fit.series.width
        parts = [patch for patch in range(1, window + 1) if window % patch == 0]
        must(f"divide prepare.series.window, {window}", "fit.series.patch", fit.series.patch, parts)
        step = 4 if fit.series.patch < window else 2  # attention has four heads; one patch attends to nothing
        must(f"be a multiple of {step}", "fit.series.width", width, range(step, width + 2 * step, step))
    if fit.row:
        must("be even", "fit.row.width", fit.row.width, range(2, fit.row.width + 4, 2))


def check_criteria(settings: Settings, path: Path) -> None:
    """SettingsError where the filter ranks by the likelihood ratio and crossfit leaves that judge out."""
    for modality in MODALITIES:
        judges = getattr(settings.crossfit, modality)
        if judges is None or judges.likelihood or getattr(settings.filter, modality) is None:
            continue
        for round_ in (None, *ROUNDS):
            criterion = settings.section("filter", modality, round_).criterion
            if criterion in WITHOUT_RATIO:
                place = f"filter.r{round_}.{modality}" if round_ else f"filter.{modality}"
                rule = f"must not rank by a judge that crossfit.{modality}.likelihood: false leaves out"
                mend = f"set that to true, or take '{WITHOUT_RATIO[criterion]}'"
                raise SettingsError(f"{path}: {place}.criterion: {rule}, got '{criterion}'; {mend}")


def check_licence(settings: Settings, path: Path) -> None:
    """SettingsError where a licence is of no data set, but nearly of one without. Those of sets left out may stay."""
    given = settings.publish.licence if isinstance(settings.publish.licence, dict) else {}
    without = [name for name in settings.datasets if name not in given]
    for name in (name for name in given if name not in settings.datasets):
        if difflib.get_close_matches(name, without):
            hint = closest(name, without)
            raise SettingsError(f"{path}: publish.licence: must name data sets, got {show(name)}; {hint}")
