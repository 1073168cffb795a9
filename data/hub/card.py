"""The card of a data set: our part between markers, whatever people wrote around it left as it is."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import yaml

from data.errors import InputError
from data.hub.licences import Licence
from data.hub.shards import Split

MARKS = {"front": ("# oddsmith:begin", "# oddsmith:end"), "body": ("<!-- oddsmith:begin -->", "<!-- oddsmith:end -->")}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"))  # fmt: skip
TASKS = {"image": ["image-segmentation"], "series": [], "row": ["tabular-classification"]}
TAGS = ["anomaly-detection", "synthetic", "oddsmith"]
LONGEST = 500  # characters of one user's text
LISTED = 100  # kinds and checks
DRAWN = "diffusion"  # how the generator of a record that a diffusion model drew begins
UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")  # control, format, private, surrogate, line and paragraph separators
# what Markdown or HTML could take for more than text: marks, links that make themselves, underscores at a word's edge
LIVE = re.compile(r"[<>&`*\[\]|\\~$#!@{}^]|(?<![^\W_])_|_(?![^\W_])|:(?!\s|$)|(?<=www)\.", re.IGNORECASE)


class Plain(str):
    """Text of ours, put into the card as it stands."""


def inert(value: object) -> str:
    """Text that shows as it is and does nothing: no markup, no links, no control characters, one line."""
    if isinstance(value, Plain):
        return value
    text = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in UNSEEN else c for c in str(value))
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return LIVE.sub(lambda found: f"&#{ord(found[0])};", text)


def number(value: object, digits: int = 3, sign: bool = False) -> Plain:
    """`0.123`, `+0.123`; a dash where there is no number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return Plain(f"{value:{'+' if sign else ''}.{digits}f}" if known else "–")


def render(facts: dict, splits: list[Split], licence: Licence) -> str:
    """The card: metadata as YAML, then what is in the data set, how it was made, and what is known of it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    world = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, finalize=inert,
                        trim_blocks=True, lstrip_blocks=True, autoescape=False)  # fmt: skip
    world.filters |= {"number": number, "plain": Plain, "inert": inert}
    generators = splits[0].generators
    found = {"facts": facts, "splits": splits, "licence": licence, "table": counted(splits), "kinds": kinds(splits),
             "drawn": sum(n for name, n in generators.items() if name.startswith(DRAWN)),
             "how": [text for begin, text in facts["made"].items() if any(n.startswith(begin) for n in generators)],
             }  # fmt: skip
    body = world.get_template("card.md.j2").render(found, listed=LISTED)
    begin, end = MARKS["body"]
    return f"---\n{front(metadata(facts, splits, licence))}---\n\n{begin}\n{body.strip()}\n{end}\n"


def metadata(facts: dict, splits: list[Split], licence: Licence) -> dict:
    """The keys of the card's YAML that are ours."""
    rows = sum(map(len, splits))
    size = next((name for limit, name in SIZES if rows < limit), "n>10M")
    files = [{"split": split.name, "path": f"data/{split.name}-*.parquet"} for split in splits if len(split)]
    found = {"pretty_name": facts["name"], **licence.tags, "task_categories": TASKS[facts["modality"]], "tags": TAGS,
             "size_categories": [size], "configs": [{"config_name": "default", "data_files": files}]}  # fmt: skip
    return {key: value for key, value in found.items() if value}


def front(keys: dict) -> str:
    begin, end = MARKS["front"]
    return f"{begin}\n{yaml.safe_dump(keys, sort_keys=False, allow_unicode=True) if keys else ''}{end}\n"


def counted(splits: list[Split]) -> list[dict]:
    """A row a split: real normals, real anomalies, synthetic anomalies, synthetic normals (twins)."""
    rows = []
    for split in splits:
        found = Counter()
        for (_, label, made), n in split.counts.items():
            found[bool(made), int(label)] += n
        rows.append({"split": split.name, "normal": found[False, 0], "anomaly": found[False, 1],
                     "synthetic": found[True, 1], "twins": found[True, 0]})  # fmt: skip
    return rows


def kinds(splits: list[Split]) -> list[dict]:
    """A row a kind: real and synthetic records over all splits, most frequent first."""
    found: dict[str, list[int]] = {}
    for split in splits:
        for (kind, _, made), n in split.counts.items():
            found.setdefault(kind, [0, 0])[made] += n
    rows = [{"kind": kind, "real": real, "synthetic": made} for kind, (real, made) in found.items()]
    return sorted(rows, key=lambda row: (-row["real"] - row["synthetic"], row["kind"]))


# ---------------------------------------------------------------- what others wrote

FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)


def merge(ours: str, theirs: str | None, where: str = "README.md") -> str:
    """Our card put into theirs: between our markers it is ours, outside every byte is theirs.

    Without markers ours goes to the end, and of our metadata only keys that they do not give. InputError where a
    marker lacks its other half or their metadata is no YAML.
    """
    if not theirs or not theirs.strip():
        return ours
    own, found = FRONT.match(ours), FRONT.match(theirs)
    head, body = (found[1], theirs[found.end() :]) if found else ("", theirs)
    block = marked(ours[own.end() :], "body", where)
    rest = marked(head, "front", where)
    kept = "\n".join(part for part in (rest.before, rest.after) if part.strip())
    try:
        given = yaml.safe_load(kept) or {}
        if not isinstance(given, dict):
            raise yaml.YAMLError("no keys")
    except yaml.YAMLError as error:
        got = " ".join(str(error).split())
        raise InputError(f"{where}: its metadata must be YAML keys, got {got}; mend it") from error
    keys = {key: value for key, value in yaml.safe_load(own[1]).items() if key not in given}
    old = marked(body, "body", where)
    body = f"{old.before}{block.block}{old.after}" if old.block else f"{body.rstrip()}\n\n{block.block}\n"
    return f"---\n{rest.before}{front(keys)}{rest.after}---\n{body}"


class Marked(NamedTuple):
    """A text around and between our two markers; all of it is `before` where there are none."""

    before: str
    block: str = ""
    after: str = ""


def marked(text: str, place: str, where: str) -> Marked:
    begin, end = MARKS[place]
    if (text.count(begin), text.count(end)) == (0, 0):
        return Marked(text)
    if (text.count(begin), text.count(end)) != (1, 1) or text.index(begin) > text.index(end):
        raise InputError(f"{where}: '{begin}' and '{end}' must stand there once each, in this order; mend them")
    start, stop = text.index(begin), text.index(end) + len(end)
    if place == "front" and (line := re.match(r"\r?\n", text[stop:])):  # the whole line
        stop += line.end()
    return Marked(text[:start], text[start:stop], text[stop:])


def model_card(facts: dict, licence: Licence) -> str:
    """The card of the LoRA adapters that lie beside the data."""
    bases = [base["name"] for base in facts["bases"]]
    name = inert(facts["name"])
    keys = {"library_name": "peft", **licence.tags, "tags": ["lora", "anomaly-generation", "oddsmith"]}
    base = " and ".join(map(inert, bases)) or (
        "a small denoiser that was trained on the normal records of this data set (not included)"
    )
    lines = [
        f"---\n{yaml.safe_dump(keys, sort_keys=False)}---", f"# Adapters of {name}",
        f"LoRA adapters on {base}, one for each support of labelled anomalies. They turn a masked piece of a record "
        "into an anomaly like those of their support; what was generated for the data set was made with them.",
        *(f"Base model licence: {inert(base['licence'])}." for base in facts["bases"]),
        "They were fitted on a few examples and can repeat parts of them. Use: `generation.lora` of oddsmith.",
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"
