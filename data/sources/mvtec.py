"""The MVTec AD tree: train/good, test/good, test/<kind>, and masks in ground_truth/<kind>/<stem>_mask.png."""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError, SettingsError, closest
from data.records import Records
from data.sources.common import Quarantine, call, entries, fit_name, inside, show, stem_key
from data.sources.pixels import SUFFIXES, Images, read_lines

NORMAL = "good"
INDEX = "index.csv"


def read(path: Path | str, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """(records, quarantine) of a tree; options: group, kinds, strict."""
    return call({"image": read_tree}, path, modality, options, "mvtec")


def read_tree(
    path: Path, *, group: str | None = None, kinds: list[str] | None = None, strict: bool = False
) -> tuple[Records, list[dict]]:
    """Records of every image; `given` is "train" or "test".

    group: a column of index.csv (beside a column `image`) whose value no split parts. kinds: the defect
    folders to read, all by default.
    """
    quarantine = Quarantine(strict)
    folders = find_folders(path, kinds, quarantine)
    groups = read_groups(path, group) if group else {}
    images, seen = Images(quarantine), set()
    for given, kind, folder in folders:
        masks = find_masks(path, kind, quarantine) if kind != "normal" and given == "test" else {}
        for image in pick_images(path, folder, quarantine):
            name = image.relative_to(path).as_posix()
            mask = masks.pop(stem_key(image.name), None)
            seen.add(name)
            if group and name not in groups:
                quarantine.add(
                    name, f"an image must be listed in {INDEX} when 'group' is set, found no row; add it"
                )
                continue
            images.add(image, mask, id=name, kind=kind, group=groups.get(name, ""), given=given)
        for mask in masks.values():
            quarantine.add(
                mask.relative_to(path),
                f"a mask must have an image in {show(folder.relative_to(path))}, found none; restore it",
            )
    report_leftovers(path, folders, kinds, groups, seen, quarantine)
    return images.records(path.name), quarantine.rows


def find_folders(path: Path, kinds: list[str] | None, quarantine: Quarantine) -> list[tuple[str, str, Path]]:
    """(given, kind, folder) of every image folder to read."""
    if not path.is_dir():
        raise InputError(f"{show(path)}: an mvtec tree must be a folder, got a file; unpack it")
    found = []
    for given in ("train", "test"):
        part = path / given
        if not (part / NORMAL).is_dir():
            if given == "train":
                raise InputError(
                    f"{show(path)}: an mvtec tree must hold train/{NORMAL}, found none; "
                    "check source.path or use the reader folder"
                )
            if not part.is_dir():
                continue
        for folder in entries(part):
            if not folder.is_dir():
                quarantine.add(folder.relative_to(path), "a file must lie in a folder of its kind; move it")
            elif not inside(path, folder):
                quarantine.add(
                    folder.relative_to(path), "a link must stay inside the data, leads out; copy it"
                )
            elif folder.name.lower() == "normal":
                raise InputError(
                    f"{show(folder)}: a defect must not be named 'normal'; name the folder "
                    f"'{NORMAL}' if it holds normals"
                )
            else:
                found.append((given, "normal" if folder.name == NORMAL else folder.name, folder))
    defects = {kind for _, kind, _ in found} - {"normal"}
    for kind in kinds or []:
        if kind not in defects:
            raise SettingsError(f"source mvtec: unknown kind '{show(kind)}'; {closest(kind, defects)}")
    return [entry for entry in found if not kinds or entry[1] in (*kinds, "normal")]


def pick_images(path: Path, folder: Path, quarantine: Quarantine) -> list[Path]:
    """The image files of a folder that can be told apart and lie inside the tree."""
    stems: dict[str, list[Path]] = {}
    for image in entries(folder):
        name = image.relative_to(path)
        if reason := fit_name(image.name):
            quarantine.add(name, reason)
        elif not inside(path, image):
            quarantine.add(name, "a link must stay inside the data, leads out; copy the file")
        elif image.is_dir():
            quarantine.add(name, "an image folder must hold no folder; move its images up")
        elif image.suffix.lower() not in SUFFIXES:
            quarantine.add(
                name,
                f"an image must end in {', '.join(sorted(SUFFIXES))}, got '{show(image.suffix)}'; "
                "convert or remove it",
            )
        else:
            stems.setdefault(stem_key(image.name), []).append(image)
    for several in stems.values():
        if len(several) > 1:
            for image in several:
                others = ", ".join(show(other.name) for other in several if other != image)
                quarantine.add(
                    image.relative_to(path), f"a stem must name one image, {others} has it too; rename"
                )
    return sorted(several[0] for several in stems.values() if len(several) == 1)


def find_masks(path: Path, kind: str, quarantine: Quarantine) -> dict[str, Path]:
    """Mask files of a kind by the stem of their image: `<stem>_mask` or plain `<stem>`."""
    folder = path / "ground_truth" / kind
    if not folder.is_dir():
        return {}
    masks = {}
    for mask in pick_images(path, folder, quarantine):
        stem = stem_key(mask.name)
        key = stem.removesuffix("_mask")
        if key in masks:
            quarantine.add(
                mask.relative_to(path),
                f"an image must have one mask, also {show(masks[key].name)}; remove one",
            )
            continue
        masks[key] = mask
    return masks


def read_groups(path: Path, group: str) -> dict[str, str]:
    """Group by image path from index.csv; an empty cell is the image's own group."""
    rows = read_lines(path / INDEX, ["image", group])
    return {Path(row["image"]).as_posix(): f"{group}-{row[group]}" if row[group] else "" for row in rows}


def report_leftovers(
    path: Path, folders: list[tuple[str, str, Path]], kinds: list[str] | None, groups: dict[str, str],
    seen: set[str], quarantine: Quarantine,
) -> None:  # fmt: skip
    """Quarantines what is named but not there: images of index.csv, images of a mask folder."""
    read_kinds = {kind for _, kind, _ in folders}
    for name in groups:
        parts = Path(name).parts
        wanted = len(parts) > 1 and (parts[1] == NORMAL or parts[1] in read_kinds or not kinds)
        if wanted and name not in seen and not (path / name).is_file():
            quarantine.add(name, f"an image listed in {INDEX} must exist, found none; restore it")
    truth = path / "ground_truth"
    for folder in entries(truth) if truth.is_dir() else []:
        if folder.name == NORMAL and folder.is_dir() and not kinds:
            for mask in pick_images(path, folder, quarantine):
                quarantine.add(
                    mask.relative_to(path), "a normal image must have no mask, found one; mend its label"
                )
        elif folder.is_dir() and not kinds and folder.name not in read_kinds:
            quarantine.add(
                folder.relative_to(path),
                f"masks must have images in test/{show(folder.name)}, found no such folder; restore it",
            )
