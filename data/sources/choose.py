"""Which rows of a table are read: those of some values, none whose content has both labels, no more than a limit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from data.errors import InputError, SettingsError, closest
from data.sources.common import Quarantine, show

CONFLICTS = ("keep", "drop")
FEW = 50  # rows of a kind that a limit leaves: the rare ones are what a set is read for
SEED = 0  # of the draw under a limit: the same rows in every run


def canonical(value: object) -> str:
    """A value as it is compared: 1, "1.0" and True are the same; text is itself, and codes such as 1_0 and 1E2."""
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return "1" if text.lower() == "true" else "0"
    if re.fullmatch(r"[+-]?\d{1,300}(\.0*)?", text, re.ASCII):
        return str(int(text.split(".")[0]))  # exact beyond 2^53 too
    if "_" in text or "E" in text:
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)


def check_options(reader: str, *, keep: object = None, conflicts: str = "keep", limit: object = None) -> None:
    """Raises SettingsError for an option of the wrong form."""
    if keep is not None and not (isinstance(keep, dict) and keep):
        raise SettingsError(
            f"source {reader}: keep must be columns with the values to keep, got {show(keep, 60)}; "
            "write keep: {column: [value, ..]}"
        )
    for column, values in (keep or {}).items():
        if isinstance(values, dict) or values is None or values == []:
            raise SettingsError(
                f"source {reader}: keep.{show(column)} must list values, got {show(values, 60)}; "
                "write keep: {column: [value, ..]}"
            )
    if conflicts not in CONFLICTS:
        raise SettingsError(
            f"source {reader}: conflicts must be one of {', '.join(CONFLICTS)}, got '{show(conflicts)}'; "
            f"{closest(str(conflicts), CONFLICTS)}"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 2):
        raise SettingsError(
            f"source {reader}: limit must be a whole number of at least 2 rows, got {show(limit, 60)}; mend it"
        )


def of_values(text: pd.DataFrame, keep: dict, where: str, quarantine: Quarantine) -> np.ndarray:
    """(N,) whether a row holds one of the values listed for every column of `keep`; what others hold is noted.

    InputError for a column that is not there and for a value that no row has.
    """
    kept = np.ones(len(text), bool)
    for column, values in keep.items():
        if column not in text:
            near = closest(str(column), map(show, text.columns))
            raise InputError(f"{where}: keep must name a column, got '{show(column)}'; {near}")
        cells = plain(text[column])
        wanted = [canonical(value) for value in (values if isinstance(values, list | tuple) else [values])]
        found = Counter(cells)
        for value in wanted:
            if value not in found:
                listed = ", ".join(show(name, 40) or "an empty cell" for name in sorted(found)[:20])
                raise InputError(
                    f"{where}: column '{show(column)}' must hold the value '{show(value)}' to keep, got {listed}; "
                    "mend keep"
                )
        kept &= np.isin(cells, wanted)
        others = {name: n for name, n in sorted(found.items()) if name not in wanted}
        if others:
            told = ", ".join(f"{show(name, 40) or 'empty'} {n}" for name, n in list(others.items())[:20])
            quarantine.note(where, f"rows of other values in column '{show(column)}' are left out by keep: {told}")
    return kept


def plain(cells: pd.Series) -> np.ndarray:
    """(N,) text cells as they are compared."""
    return cells.map({value: canonical(value) for value in cells.unique()}).to_numpy(str)


def contents(text: pd.DataFrame) -> list[Hashable]:
    """What the cells of every row are compared by: 1 and 1.0 are the same."""
    return list(zip(*(plain(text[name]) for name in text)))


def agreeing(content: Sequence[Hashable], odd: np.ndarray, where: str, quarantine: Quarantine) -> np.ndarray:
    """(N,) whether no row of the same content has the other label; the others are noted."""
    labels: dict[Hashable, set[bool]] = {}
    for item, label in zip(content, odd.tolist()):
        labels.setdefault(item, set()).add(label)
    agree = np.array([len(labels[item]) == 1 for item in content], bool)
    if not agree.all():
        quarantine.note(
            where,
            "rows of one content must have one label, those with both are left out by conflicts, got "
            f"{int((~agree & odd).sum())} anomalous and {int((~agree & ~odd).sum())} normal rows",
        )
    return agree


def limited(strata: Sequence[Hashable], limit: int | None, where: str, quarantine: Quarantine) -> np.ndarray:
    """(N,) whether a row is among the `limit` that are read, drawn at random with a fixed seed.

    Of every stratum its share is kept, but FEW rows at least, or all that there are, as far as the limit allows.
    """
    if limit is None or len(strata) <= limit:
        return np.ones(len(strata), bool)
    shuffled = np.random.default_rng(SEED).permutation(len(strata))
    sizes, seen = Counter(strata), Counter()
    share = np.zeros(len(strata))  # of its stratum drawn before a row; below 0 for the first FEW
    for row in shuffled:
        before = seen[strata[row]]
        share[row] = before / sizes[strata[row]] if before >= FEW else before - FEW
        seen[strata[row]] += 1
    first = shuffled[np.argsort(share[shuffled], kind="stable")][:limit]
    quarantine.note(where, f"rows are left out by limit, got {len(strata)} for {limit}; drawn with a fixed seed")
    return np.isin(np.arange(len(strata)), first)
