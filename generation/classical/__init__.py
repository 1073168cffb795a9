"""Generators without learning, the baselines to beat: name -> f(hosts, support, seeds, *, severity) per modality.

Record i depends on seeds[i] and on the two sets only. hosts: normals. support: the few real anomalies.
"""

from __future__ import annotations

import numpy as np

from data.records import Records, concat
from generation.classical.image import cutpaste
from generation.classical.row import jitter, smote
from generation.classical.series import paste, taxonomy

CLASSICAL = {
    "image": {"cutpaste": cutpaste},
    "series": {"paste": paste, "taxonomy": taxonomy},
    "row": {"jitter": jitter, "smote": smote},
}


def classical(modality: str, hosts: Records, support: Records, seeds: list[int], severity: float = 1.0) -> Records:
    """One record a seed by the modality's generators in turn: the seed modulo their number picks which."""
    makers = list(CLASSICAL[modality].values())
    seeds = np.asarray(seeds, dtype=np.int64)
    turn = seeds % len(makers)
    parts, order = [], []
    for k, make in enumerate(makers):
        mine = np.flatnonzero(turn == k)
        if len(mine) or (k == 0 and not len(seeds)):
            parts.append(make(hosts, support, [int(s) for s in seeds[mine]], severity=severity))
            order.append(mine)
    return concat(parts).take(np.argsort(np.concatenate(order)))
