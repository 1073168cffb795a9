"""Generators without learning, the baselines to beat: name -> f(hosts, support, seeds, *, severity) per modality.

Record i depends on seeds[i] and on the sets only. hosts: normals. support: the few real anomalies. One of series that
takes `seen` too is given what all normals say of the channels, as its hosts may be some of them.
"""

from __future__ import annotations

from inspect import signature

import numpy as np

from data.records import Records, concat
from data.records.series import SeriesCodec
from generation.classical.image import cutpaste
from generation.classical.row import jitter, smote
from generation.classical.series import Channels, paste, taxonomy

CLASSICAL = {
    "image": {"cutpaste": cutpaste},
    "series": {"paste": paste, "taxonomy": taxonomy},
    "row": {"jitter": jitter, "smote": smote},
}


def classical(
    modality: str, hosts: Records, support: Records, seeds: list[int], severity: float = 1.0, normals=None
) -> Records:
    """One record a seed by the modality's generators in turn: the seed modulo their number picks which.

    normals: Records that channels of series are measured by, the hosts by default.
    """
    makers, seen = list(CLASSICAL[modality].values()), None
    if modality == "series" and normals is not None:
        seen = Channels.of(normals, support, SeriesCodec.fit(normals))
    seeds = np.asarray(seeds, dtype=np.int64)
    turn = seeds % len(makers)
    parts, order = [], []
    for k, make in enumerate(makers):
        mine = np.flatnonzero(turn == k)
        if len(mine) or (k == 0 and not len(seeds)):
            given = {"seen": seen} if seen and "seen" in signature(make).parameters else {}
            parts.append(make(hosts, support, [int(s) for s in seeds[mine]], severity=severity, **given))
            order.append(mine)
    return concat(parts).take(np.argsort(np.concatenate(order)))
