"""The audit of generated records: where they come from, who judged them, what they changed, what gives them away.

Every function returns one line of audit.json (`data.leaks.check`) from records, ids and numbers; the stage reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from data.fingerprint import digests
from data.leaks import check
from data.records import Records
from detection.novelty import Copies, edit_vectors

SAME = 1e-3  # of the distance between real anomalies: nearer is the same anomaly
REPEATED = 0.3  # of the remade cells of a column: a value may be as much more frequent than real ones have it
TELLING = 10  # records named that are easiest to tell
Named = tuple[str, str]
ARMS = ("standard", "classical", "dropped", "filtered", "mixed")  # add equally many records
FEWEST = 3  # supports that an interval should rest on


# where they come from


def strangers(meta: pd.DataFrame, hosts: set[str], parents: set[str], outside: set[str]) -> Iterator[tuple[str, str]]:
    """(record, id) of every host that is not of `hosts`, parent not of `parents`, mask of another, and any mention of
    ids `outside`.

    meta: of generated records. A mask's source may name a record after a colon; `bank:<id>` and
    `label:<id>` are of `parents`.
    """
    for name, host, above, source in zip(meta["id"], meta["host"], meta["parents"], meta["mask_source"].astype(str)):
        if host not in hosts:
            yield name, host
        yield from ((name, parent) for parent in above if parent not in parents)
        where, _, lender = source.partition(":")
        if where in ("bank", "label") and lender not in parents | outside:
            yield name, lender
        yield from ((name, other) for other in {lender, name} if other in outside)


def provenance(pairs: Iterable[tuple[str, str]], records: int) -> dict:
    """Every parent and host is a training record of the same support, and no test or calib record is named."""
    return check("provenance", pairs, detail=f"no host, parent or mask is from outside training, {records} records")


def synthetic_outside(
    parts: dict[str, pd.DataFrame], made: set[str], contents: dict[str, str]
) -> list[tuple[str, str]]:
    """(part, id) of synthetic records where only real ones may be. parts: fingerprints; contents: {sha256: id} made."""
    out = []
    for part, marks in parts.items():
        for name, flag, sha in zip(marks["id"], marks["synthetic"], marks["sha256"]):
            if flag or name in made or sha in contents:
                out.append((part, name))
    return out


def synthetic(pairs: list[tuple[str, str]]) -> dict:
    """Generated records are in training alone."""
    return check("synthetic", pairs, detail="no generated record among the real ones of fit, support, calib or test")


# who judged them


def judged_by(
    seed: int, meta: pd.DataFrame, folds: dict[str, int], seen: dict[int, set[str]], real: set[str], made: set[str]
) -> Iterator[tuple[str, str]]:
    """(judge, id) of whatever a judge was trained on and must not have been, (record, host or parent) of another fold.

    With the records in their own fold and the judges without it, no judge knows the host or a parent of what it judges.

    meta: of one support's generated records, with `fold`; folds: {id: fold} of splits.json; seen: ids a fold's judge
    was trained on; real: ids of fit and this support; made: ids of all generated records.
    """
    for fold in sorted({int(fold) for fold in meta["fold"]} - set(seen)):
        yield f"judges/seed{seed}/fold{fold}", "seen.json, missing"
    for fold, ids in seen.items():
        wrong = {name for name in ids if name in made or name not in real or folds.get(name) == fold}
        yield from ((f"judges/seed{seed}/fold{fold}", name) for name in sorted(wrong))
    for name, host, parents, fold in zip(meta["id"], meta["host"], meta["parents"], meta["fold"]):
        yield from ((name, source) for source in dict.fromkeys([host, *parents]) if folds.get(source) != fold)


def ledger_gaps(meta: pd.DataFrame, ledger: pd.DataFrame, kept: list[str]) -> Iterator[tuple[str, str]]:
    """(record, what is wrong) where a ledger lacks or invents a record, has another fold, or is not what was kept."""
    made, told = dict(zip(meta["id"], meta["fold"])), set(ledger["id"])
    yield from ((name, "not in the ledger") for name in made if name not in told)
    yield from ((name, "in the ledger alone") for name in told if name not in made)
    if "fold" in ledger:
        yield from ((name, "another fold in the ledger")
                    for name, fold in zip(ledger["id"], ledger["fold"]) if made.get(name, fold) != fold)  # fmt: skip
    passed = set(ledger["id"][ledger["keep"].astype(bool)])
    yield from ((name, "kept against the ledger") for name in sorted(set(kept) ^ passed))


def cross_fit(pairs: Iterable[tuple[str, str]]) -> dict:
    """No judge knows what it judges, and the ledgers tell everything as it was."""
    return check("cross-fit", pairs, detail="no judge was trained on what it judges, the ledgers tell all")


# what they changed


def changed_outside(made: Records, hosts: Records) -> Iterator[tuple[str, str]]:
    """(record, host) where a record differs from its host outside its mask. hosts: the host of each record.

    Rows may differ in the cells that their meta column `changed` names; without it nothing is said.
    """
    if made.modality == "row":
        if "changed" in made.meta:
            for i, (cells, free) in enumerate(zip(differs(made.x, hosts.x), made.meta["changed"])):
                if (cells & ~np.asarray(free, bool)).any():
                    yield made.meta["id"].iloc[i], hosts.meta["id"].iloc[i]
        return
    for name, host_name, x, host, mask in zip(made.meta["id"], hosts.meta["id"], made.x, hosts.x, made.mask):
        if x.shape != host.shape or x.dtype != host.dtype or not same_bits(x, host, ~np.asarray(mask, bool)):
            yield name, host_name


def same_bits(x: np.ndarray, host: np.ndarray, where: np.ndarray) -> bool:
    """Whether two arrays hold the same bits at `where`."""
    return np.ascontiguousarray(x[where]).tobytes() == np.ascontiguousarray(host[where]).tobytes()


def differs(cells: pd.DataFrame, hosts: pd.DataFrame) -> np.ndarray:
    """(N, D) where typed cells differ; missing equals missing."""
    out = np.zeros(cells.shape, bool)
    for i, name in enumerate(cells):
        a, b = cells[name].reset_index(drop=True), hosts[name].reset_index(drop=True)
        either, both = a.isna() | b.isna(), a.isna() & b.isna()
        out[:, i] = np.where(either, ~both, (a != b).fillna(True)).astype(bool)
    return out


def outside_mask(pairs: Iterable[tuple[str, str]], records: int) -> dict:
    """Outside its mask every record looked at equals its host, bit for bit."""
    return check("outside the mask", pairs, detail=f"no record differs from its host, {records} looked at")


# what gives them away


def shortcut_check(made: Records, hosts: Records, pool: Records, normals: Records, *, limit: float) -> dict:
    """Whether generated records have a trace that a detector could take for the anomaly.

    The real images and series are the hosts themselves with the mask of another record hidden. Rows, whose masks are
    whole rows, are held against the real anomalies in `pool` by a detector trained on generated rows and `normals`.
    Fails where the interval of the AUROC lies above `limit`.
    """
    from detection.shortcut import LEAST, shortcut, shortcut_of_rows

    if made.modality == "row":
        what, real = "a detector trained on others of them, over real anomalies", pool
        found = shortcut_of_rows(made, list(made.meta["host"]), real, list(real.meta["id"]), normals)
    else:
        changed = np.array([bool(np.any(m)) for m in made.mask], bool)  # what is its host tells nothing
        made, real = made.take(changed), hosts.take(changed)
        what = "generated against real, the mask hidden"
        found = shortcut(made, list(made.mask), list(made.meta["host"]), real, list(real.meta["id"]))
    if not np.isfinite(found["auroc"]):
        detail = f"too few to say: {len(made)} generated and {len(real)} real, {LEAST} each are needed"
        return check("shortcut", [], figure=np.nan, limit=limit, detail=detail)
    worst = np.argsort(-found["scores"], kind="stable")[:TELLING]
    pairs = [(made.meta["id"].iloc[i], made.meta["host"].iloc[i]) for i in worst] if found["low"] > limit else []
    area = f"AUROC {found['auroc']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    detail = f"{what}: {area}, {len(made)} and {len(real)} records"
    return check("shortcut", pairs, figure=found["auroc"], limit=limit, detail=detail)


def repeats(made: Records, pool: Records, normals: Records) -> dict:
    """Whether remade cells hold one value (a gap is one too) far more often than the real anomalies in `pool` and the
    `normals` do: a trace that lies within what is usual for anomalies. figure: the greatest excess of its share."""
    import pandas as pd

    from detection.shortcut import LEAST

    worst, detail, pairs = 0.0, "no value stands out", []
    changed = np.array([np.asarray(c, bool) for c in made.meta["changed"]]) if len(made) else np.zeros((0, 0), bool)
    for i, name in enumerate(pool.x.columns if len(made) else ()):
        rows = np.flatnonzero(changed[:, i])
        if len(rows) < LEAST:
            continue
        parts = [made.x[name].iloc[rows], pool.x[name], normals.x[name]]
        codes, values = pd.factorize(pd.concat(parts), use_na_sentinel=False)
        own, *real = np.split(codes, np.cumsum([len(part) for part in parts])[:-1])
        share, *others = (np.bincount(c, minlength=len(values)) / max(1, len(c)) for c in (own, *real))
        excess = share - np.maximum(*others)
        top = int(excess.argmax())
        if excess[top] > worst:
            worst, detail = float(excess[top]), f"column '{name}': {share[top]:.0%} of remade cells are {values[top]}"
            told = rows[own == top][:TELLING]
            pairs = list(zip(made.meta["id"].iloc[told], made.meta["host"].iloc[told]))
    return check("repeats", pairs if worst > REPEATED else [], figure=worst, limit=REPEATED, detail=detail)


# what they remember


def copies_of(made: Records, support: Records, copies: Copies, codec) -> tuple[np.ndarray, list[Named], list[Named]]:
    """((N,) distance to the nearest training anomaly over that between them, (record, it) of each, of the identical).

    Identical are contents that equal a training anomaly's, and edits within SAME of one. copies: of the support.
    """
    if not len(made) or not len(support):
        return np.full(len(made), np.inf), [], []
    distance, nearest = copies.nearest(made, edit_vectors(made, codec))
    pairs = list(zip(made.meta["id"], support.meta["id"].iloc[nearest]))
    whole = {sha: name for sha, name in zip(digests(support), support.meta["id"])}
    same = [(pair[0], whole[sha]) if sha in whole else pair
            for pair, d, sha in zip(pairs, distance, digests(made)) if sha in whole or d < SAME]  # fmt: skip
    return distance, pairs, same


def memorisation(
    distance: np.ndarray, pairs: list[tuple[str, str]], same: list[tuple[str, str]], *, copy: float, copies: float
) -> dict:
    """Among the kept records none is a training anomaly over again, and no more than `copies` of them lie within `copy`
    of one, measured by how far real anomalies are from each other. figure: their share."""
    near = np.flatnonzero(distance < copy)
    share = len(near) / len(distance) if len(distance) else 0.0
    listed = list(dict.fromkeys(same))
    if share > copies:
        listed = list(dict.fromkeys([*same, *(pairs[i] for i in near[np.argsort(distance[near], kind="stable")])]))
    finite = distance[np.isfinite(distance)]
    typical = f", the median is {np.median(finite):.2f}" if len(finite) else ""
    detail = (f"{len(same)} training anomalies over again, {len(near)} of {len(distance)} kept within {copy:g} of one, "
              f"1 being how far real ones are apart{typical}")  # fmt: skip
    return check("memorisation", listed, figure=share, limit=copies, detail=detail)


# what they are measured by


def controls(metrics: dict | None, counts: dict | None) -> dict:
    """Every arm has as many records as its rivals, a value a support and a paired interval of the gain.

    metrics: of evaluate, None where it has not run; counts: anomalies each arm was trained on, a support. Fewer than
    FEWEST supports are told, and pass.
    """
    if metrics is None:
        return check("control arms", [], detail="not evaluated yet")
    values = {arm: {len(cell.get("values") or []) for cell in cells.values()} for arm, cells in metrics["arms"].items()}
    supports = max((max(own, default=0) for own in values.values()), default=0)
    pairs = [(arm, f"{min(own, default=0)} values of {supports}") for arm, own in values.items() if own != {supports}]
    pairs += [(a, "missing") for a in ("real", "classical", "dropped", "filtered") if a not in values]
    gain = metrics.get("gain") or {}
    if supports > 1 and (gain.get("low") is None or gain.get("high") is None):
        pairs.append((str(gain.get("arm")), f"no paired interval over {gain.get('over')}"))
    for seed, own in (counts or {}).items():
        sizes = {arm: own[arm] for arm in ARMS if arm in own}
        if own.get("kept") and len(set(sizes.values())) > 1:
            pairs += [(f"{seed}/{arm}", f"{size} anomalies") for arm, size in sizes.items()]
    few = f"; {supports} supports, {FEWEST} or more make an interval" if supports < FEWEST else ""
    detail = f"rival arms are equally large and have intervals{few}"
    return check("control arms", pairs, figure=supports, limit=FEWEST, detail=detail)
