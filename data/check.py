"""What a data set holds and what is worth a second look, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from data.records import Records
from data.sources.common import show
from data.split import Split

FEW = 10  # fewer test anomalies than this make every interval wide
INVERTED = 0.5  # masks that mark more than this, on the median, mark what is normal
DARK = 0.25  # 16-bit images whose brightest pixel is below this share of the range hold 14 bits or fewer
ALIKE = 2 / 3  # a support that is more of the pool than this has little to differ by from the others
MOST_LISTED, MOST_RULES, SHOWN = 5, 3, 3


def summarise(records: Records, quarantine: list[dict], split: Split | None, source: Any) -> dict:
    """Counts, content and findings of raw records, what was left out, and, with a split, its parts; JSON."""
    parts = {"all": records} if split is None else {"all": records, **split.parts()}
    return {
        "source": str(source),
        "modality": records.modality,
        "parts": {name: counts(part) for name, part in parts.items()},
        "content": CONTENT[records.modality](records),
        "findings": [] if split is None else check(split),
        "quarantine": [{"item": str(row["item"]), "reason": str(row["reason"])} for row in quarantine],
        "reasons": dict(Counter(rule_of(row["reason"]) for row in quarantine).most_common()),
    }  # fmt: skip


def left_out(quarantine: list[dict]) -> str:
    """'12 items were left out or changed: 12 x a defect image must have a mask (test/a.png, test/b.png and 10 more)',
    the first rules of a quarantine that holds something."""
    first: dict[str, list[str]] = {}
    for row in quarantine:
        first.setdefault(rule_of(row["reason"]), []).append(str(row["item"]))
    rules = sorted(first, key=lambda rule: -len(first[rule]))
    told = [f"{len(first[rule])} x {show(rule)} ({listed(first[rule], 2)})" for rule in rules[:MOST_RULES]]
    more = [f"{len(rules) - MOST_RULES} rules more"] if len(rules) > MOST_RULES else []
    return f"{len(quarantine)} items were left out or changed: {', '.join(told + more)}"


def counts(records: Records) -> dict:
    """Records, normals and anomalies, groups, and records a kind."""
    odd = records.meta["label"] == 1
    kinds = records.meta.loc[odd, "kind"].value_counts().sort_index()
    return {
        "records": len(records),
        "normal": int((~odd).sum()),
        "anomalous": int(odd.sum()),
        "groups": int(records.meta["group"].nunique()),
        "kinds": {str(k): int(n) for k, n in kinds.items()},
    }


def rule_of(reason: str) -> str:
    """The rule of a reason, without the value and the mend: what reasons are counted by."""
    return str(reason).split("; ")[0].split(", got ")[0].split(", found ")[0].split(": ")[0]


def images(records: Records) -> dict:
    """Sizes, depths and colours of the images, and how much of the marked ones is marked."""
    marked = [float(mask.mean()) for mask in records.mask if mask.any()]
    heights, widths = ([image.shape[axis] for image in records.x] for axis in (0, 1))
    return {
        "pairs": len(marked),
        "sizes": len(set(zip(heights, widths))),
        "height": extent(heights), "width": extent(widths),
        "types": dict(Counter(depth(image) for image in records.x)),
        "marked": extent(marked),
    }  # fmt: skip


def depth(image: np.ndarray) -> str:
    """Such as "grey 8 bit"."""
    return f"{'grey' if image.ndim == 2 else 'colour'} {8 * image.dtype.itemsize} bit"


def series(records: Records) -> dict:
    """Every recording's steps, segments and labelled share, and the channels that never change."""
    low = np.min([x.min(axis=0) for x in records.x if len(x)], axis=0) if len(records) else np.zeros(0)
    high = np.max([x.max(axis=0) for x in records.x if len(x)], axis=0) if len(records) else np.zeros(0)
    names = records.schema["channels"]
    given = records.meta["given"] if "given" in records.meta else [""] * len(records)
    rows = []
    for group, side, mask in zip(records.meta["group"], given, records.mask):
        odd = mask.any(axis=1)
        starts = int(np.count_nonzero(np.diff(np.concatenate([[0], odd])) == 1))
        rows.append(
            {
                "entity": group,
                "part": side,
                "steps": len(odd),
                "segments": starts,
                "anomalous": int(odd.sum()),
            }
        )
    return {
        "channels": len(names),
        "constant": [name for name, a, b in zip(names, low, high) if a == b],
        "recordings": rows,
    }


def rows(records: Records) -> dict:
    """Every column's type and missing cells, the values that were labels, and what text columns hold."""
    columns = []
    for column in records.schema["columns"]:
        cells = records.x[column["name"]]
        distinct = cells.nunique()
        about = {"name": column["name"], "type": column["type"], "missing": int(cells.isna().sum())}
        about |= {"note": "empty"} if not distinct else {"note": "constant"} if distinct == 1 else {}
        about |= {"padded": column["padded"]} if "padded" in column else {}
        if "categories" in column:
            common = cells.value_counts(sort=True).index[:SHOWN]
            about |= {"categories": len(column["categories"]), "common": [str(value) for value in common]}
        columns.append(about)
    labels = {}
    if "label_value" in records.meta:
        for side, odd in (("anomalous", 1), ("normal", 0)):
            values = records.meta.loc[records.meta["label"] == odd, "label_value"]
            labels[side] = {str(value): int(n) for value, n in values.value_counts().items()}
    return {"columns": columns, "types": dict(Counter(column["type"] for column in columns)), "labels": labels}


CONTENT = {"image": images, "series": series, "row": rows}


def extent(values: list) -> list:
    """[least, most], [] of none."""
    return [min(values), max(values)] if values else []


def check(split: Split) -> list[str]:
    """Findings of a split that a person should see; an empty list where there is nothing to say."""
    found = []
    pool, test = (counts(part)["kinds"] for part in (split.support, split.test))
    for here, there, what in ((test, pool, "in the test alone: nothing can be made from it"),
                              (pool, test, "in the pool alone: the test cannot judge it")):  # fmt: skip
        names = sorted(set(here) - set(there))
        if names:
            found.append(f"kind {listed(names)} {what}")
    if (anomalies := sum(test.values())) < FEW:
        found.append(f"the test holds {anomalies} anomalies: below {FEW} every interval is wide")
    supports, pooled = split.plan["supports"], len(split.support)
    drawn = len(supports[0])
    if len(supports) > 1 and drawn > ALIKE * pooled:
        how = "are all the same" if drawn == pooled else "hardly differ"
        found.append(f"the pool holds {pooled} anomalies, so that {len(supports)} supports of {drawn} {how}: intervals "
                     "leave out the luck of which anomalies were labelled; label more, or lower prepare.support")
    if left := split.plan.get("left_out"):
        why = "anomalies that share a group with calib, or " if split.fit.modality != "series" else ""
        why += "copies of what the test holds"
        found.append(f"{len(left)} records are left out, {why}: {listed(left)}")
    group, most = Counter(split.fit.meta["group"]).most_common(1)[0]
    if split.fit.modality != "series" and most > len(split.fit) / 2 and most > 1:
        found.append(f"{most} of the {len(split.fit)} normals to fit on share the group '{group}', a name of the "
                     "source or the same content: a judge is fitted on all of them or none")  # fmt: skip
    return found + (pictures(split) if split.fit.modality == "image" else told(split)) + copies(split)


def pictures(split: Split) -> list[str]:
    """Lines on masks that look inverted and on images that use little of their range."""
    found, parts = [], split.parts().values()
    marked = [float(mask.mean()) for part in parts for mask in part.mask if mask.any()]
    if (usual := float(np.median(marked))) > INVERTED:
        found.append(f"masks mark {usual:.0%} of the pixels on the median: a mask is white on the defect; are they "
                     "inverted?")  # fmt: skip
    deep = [int(x.max()) for part in parts for x in part.x if x.dtype == np.uint16]
    if deep and max(deep) < DARK * 65535:
        found.append(f"the brightest pixel of the 16-bit images is {max(deep)} of 65535, of a camera of fewer bits? "
                     "scale them up, since contrast is measured against the whole range")  # fmt: skip
    return found


def told(split: Split) -> list[str]:
    """Lines on channels of series, or columns of rows, whose value alone says what is anomalous."""
    parts, found = list(split.parts().values()), []
    if split.fit.modality == "row":
        what, names = "column", list(split.fit.x)
        odd = np.concatenate([part.meta["label"] == 1 for part in parts])
    else:
        what, names = "channel", split.fit.schema["channels"]
        odd = np.concatenate([mask.any(axis=1) for part in parts for mask in part.mask])
    for at, name in enumerate(names):
        if what == "column":
            cells = pd.concat([part.x[name] for part in parts], ignore_index=True)
        else:
            cells = pd.Series(np.concatenate([x[:, at] for part in parts for x in part.x]))
        one, other = cells[odd].unique(), cells[~odd].unique()
        if len(one) == len(other) == 1 and not pd.Series(one).equals(pd.Series(other)):
            found.append(f"{what} '{show(name, 60)}' equals the labels: is it one? if so, leave it out")
    return found


def copies(split: Split) -> list[str]:
    """A line on records of equal content in two parts, or in normals and anomalies."""
    seen: dict[Any, tuple[str, str, int]] = {}
    across, against = [], []
    for name, part in split.parts().items():
        for content, id, label in zip(contents(part), part.meta["id"], part.meta["label"]):
            where, other, other_label = seen.setdefault(content, (name, id, label))
            if label != other_label:
                against.append(f"{other} = {id}")
            elif where != name:
                across.append(f"{other} ({where}) = {id} ({name})")
    return [f"{len(pairs)} records have the content of another {what}: {listed(pairs)}"
            for pairs, what in ((across, "part"), (against, "label")) if pairs]  # fmt: skip


def contents(records: Records) -> list:
    """A hashable stand-in for the content of each record."""
    if records.modality == "row":
        return [tuple(row) for row in records.x.astype(object).where(records.x.notna(), None).to_numpy()]
    return [(x.shape, x.dtype.str, x.tobytes()) for x in records.x]


def listed(names: list, most: int = MOST_LISTED) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(show(name, 60) for name in names[:most]) + (
        f" and {more} more" if more > 0 else ""
    )


def lines(summary: dict) -> list[str]:
    """The summary as text, a fact a line."""
    out = [f"{summary['modality']} from {show(summary['source'])}"]
    for name, part in summary["parts"].items():
        kinds = ", ".join(f"{n} {show(kind, 60)}" for kind, n in part["kinds"].items())
        out.append(
            f"{name}: {part['records']} records ({part['normal']} normal, {part['anomalous']} anomalous) in "
            f"{part['groups']} groups" + (f": {kinds}" if kinds else "")
        )
    out += TEXT[summary["modality"]](summary["content"])
    out += [f"look at: {finding}" for finding in summary["findings"]]
    if summary["quarantine"]:
        out.append(f"quarantined or repaired: {len(summary['quarantine'])}")
        out += [f"  {n} x {show(rule)}" for rule, n in summary["reasons"].items()]
        out += [f"  {row['item']}: {row['reason']}" for row in summary["quarantine"]]
    return out


def image_lines(content: dict) -> list[str]:
    kinds = ", ".join(f"{n} {name}" for name, n in content["types"].items())
    spans = [f", {'-'.join(map(str, content[side]))} {what}" for side, what in (("width", "wide"), ("height", "high"))
             if content[side]]  # fmt: skip
    low, high = content["marked"] or (0, 0)
    return [f"images: {kinds}, {content['sizes']} sizes" + "".join(spans),
            f"image-mask pairs: {content['pairs']}, {low:.2%} to {high:.1%} of the pixels marked"]  # fmt: skip


def series_lines(content: dict) -> list[str]:
    out = [
        f"channels: {content['channels']}"
        + (
            f", {len(content['constant'])} constant: {listed(content['constant'])}"
            if content["constant"]
            else ""
        )
    ]
    for row in content["recordings"]:
        share = row["anomalous"] / max(row["steps"], 1)
        side = f" {row['part']}" if row["part"] else ""
        out.append(
            f"recording {show(row['entity'], 60)}{side}: {row['steps']} steps, {row['segments']} segments, "
            f"{share:.1%} anomalous"
        )
    return out


def row_lines(content: dict) -> list[str]:
    out = []
    if content["labels"]:
        told = {side: [f"{show(value, 40)} {n}" for value, n in own.items()] for side, own in content["labels"].items()}
        out.append("label values: " + "; ".join(f"{side} {listed(values)}" for side, values in told.items()))
    out.append("columns: " + ", ".join(f"{n} {name}" for name, n in content["types"].items()))
    texts = [c for c in content["columns"] if "categories" in c]
    out += [f"text columns and their categories: {', '.join(map(categories, texts))}"] * bool(texts)
    for note in ("constant", "empty"):
        names = [c["name"] for c in content["columns"] if c.get("note") == note]
        out += [f"{note} columns, kept: {listed(names)}"] * bool(names)
    padded = [f"{show(c['name'], 40)} {c['padded']}" for c in content["columns"] if "padded" in c]
    out += [f"look at: values with leading zeros or 19 digits are read as numbers: {', '.join(padded)}"] * bool(padded)
    missing = [f"{show(c['name'], 40)} {c['missing']}" for c in content["columns"] if c["missing"]]
    return out + [f"missing cells: {', '.join(missing)}"] * bool(missing)


def categories(column: dict) -> str:
    """'land 12 (DE, FR, NL, ..)'."""
    shown = [show(value, 20) for value in column["common"]]
    shown += [".."] if column["categories"] > len(shown) else []
    return f"{show(column['name'], 40)} {column['categories']} ({', '.join(shown)})"


TEXT = {"image": image_lines, "series": series_lines, "row": row_lines}
