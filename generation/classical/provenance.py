"""Where a classical record comes from: its META columns."""

from __future__ import annotations

import pandas as pd

from data.errors import InputError
from data.records import Records, make_meta


def provenance(
    name: str, hosts: Records, support: Records, seeds: list[int], *,
    host: list[int], parents: list[list[int]], severity: list[float], mask_source: list[str], **columns,
) -> pd.DataFrame:  # fmt: skip
    """META of records made by `name`.

    host: positions in `hosts`. parents: positions in `support`; the first gives the kind.
    severity: contrast of each record over its parent's, 1 = like the example.
    """
    of, ids = hosts.meta, support.meta["id"].to_numpy()
    kind = support.meta["kind"].to_numpy()
    return make_meta(
        len(seeds), id=[f"{name}-{s}" for s in seeds], split="generated", label=1, kind=[kind[p[0]] for p in parents],
        group=[of["group"].iloc[h] for h in host], source=[of["source"].iloc[h] for h in host],
        start=[int(of["start"].iloc[h]) for h in host], synthetic=True, host=[of["id"].iloc[h] for h in host],
        parents=[[str(ids[p]) for p in each] for each in parents], severity=severity,
        seed=[int(s) for s in seeds], generator=name, mask_source=mask_source, **columns,
    )  # fmt: skip


def check_sets(hosts: Records, support: Records, *, need_mask: bool) -> list[int]:
    """Positions of the support records that can be parents; InputError where there is none, or no host."""
    if not len(hosts):
        raise InputError("hosts: at least one normal record is needed to edit, got 0; add normals to the fit split")
    usable = [i for i in range(len(support)) if not need_mask or support.mask[i].any()]
    if not usable:
        raise InputError(f"support: at least one anomaly with a mask is needed, got 0 of {len(support)}; label one")
    return usable
