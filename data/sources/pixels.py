"""One image file as pixels, one mask file as truth values: every conversion is defined or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.records import Records, make_meta
from data.sources.common import Quarantine, content_groups, show

MOST_PIXELS = 64_000_000
MOST_CLASSES = 32  # a mask of values up to here holds class numbers, above it grey levels
PLAIN = 0.5  # of a grey mask's pixels lie near black or white at least; of a photograph's fewer
LOSSY = {".jpg", ".jpeg", ".webp"}  # may turn one level into several
FORMATS = {"PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}, "BMP": {".bmp"}, "WEBP": {".webp"},
           "TIFF": {".tif", ".tiff"}}  # fmt: skip
SUFFIXES = frozenset().union(*FORMATS.values())
BITS, ORIENTATION = 258, 274  # TIFF and EXIF tags


class BadImage(ValueError):
    """An image or mask breaks a rule; the message says which, the value and the mend."""


def read_image(path: Path) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16 pixels, upright; BadImage with the rule that the file breaks."""
    return pixels(path)[0]


def pixels(path: Path) -> tuple[np.ndarray, bool]:
    """(pixels, whether they were a palette's)."""
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImage(f"the file must be readable, got {error.strerror}") from error
    if not data:
        raise BadImage("the file must not be empty; copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own, later limit on pixels
            with Image.open(BytesIO(data), formats=list(FORMATS)) as image:
                _check_header(image, path)
                if image.format == "PNG":  # loading alone passes over broken checksums
                    Image.open(BytesIO(data)).verify()
                return _oriented(_converted(image, data), image), image.mode == "P"
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"an image must have at most {MOST_PIXELS // 10**6} megapixels; crop it") from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise BadImage(f"the content must be {known}, found none of them; convert it") from error
    except Exception as error:  # decoders raise nearly anything on corrupt data
        raise BadImage(f"the image must be whole, got {show(error, 80)}; copy it again") from error


def _check_header(image, path: Path) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise BadImage(
            f"an image must have at most {MOST_PIXELS // 10**6} megapixels, got {width} x {height}; crop it"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImage(f"an image must have one frame, got {frames}; save the frames one by one")
    if path.suffix.lower() not in FORMATS.get(image.format, ()):
        raise BadImage(
            f"the extension must fit the content, got {image.format} in '{show(path.suffix)}'; rename it"
        )


def _converted(image, data: bytes) -> np.ndarray:
    """Pixels as grey or RGB: 16 bits stay, palettes are looked up, CMYK is turned, opaque alpha dropped."""
    import cv2

    depth = _depth(image, data)
    if depth == 16 and image.mode in ("RGB", "RGBA"):  # PIL would keep 8 of the 16 bits
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # ignores the orientation
        if array is None:
            raise BadImage("a 16-bit colour image must be decodable, got a broken one; copy it again")
        image.load()
        return np.ascontiguousarray(_without_alpha(array)[..., ::-1])
    if image.mode.startswith("I;16"):
        array = np.asarray(image).astype(np.uint16)
        scale = 2**depth - 1 if depth else 65535  # 12 declared bits fill the range as 16 do
        return array if scale == 65535 else np.round(array * (65535 / scale)).astype(np.uint16)
    if image.mode == "I":
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise BadImage(
                f"pixels must lie in 0..65535, got {array.min()}..{array.max()}; scale them to 16 bits"
            )
        return array.astype(np.uint16)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
        array = _without_alpha(np.asarray(image))
        grey = (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all()
        return array[..., 0].copy() if grey else array
    if image.mode in ("LA", "RGBA"):
        array = _without_alpha(np.asarray(image))
        return array[..., 0].copy() if image.mode == "LA" else array
    if image.mode in ("RGB", "L") and "transparency" in image.info:
        raise BadImage("an image must not be transparent, got a transparent colour; flatten it")
    if image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        raise BadImage(f"pixels must be grey or colour of 8 or 16 bits, got mode {image.mode}; convert it")
    return np.array(image)


def _depth(image, data: bytes) -> int:
    """Declared bits of a sample, 0 where the file does not say."""
    if image.format == "PNG":
        return data[24]  # IHDR: width, height, depth
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS, 0)
        return int(bits[0] if isinstance(bits, tuple) else bits)
    return 0


def _without_alpha(array: np.ndarray) -> np.ndarray:
    if array.shape[2] == 3:
        return array
    alpha, opaque = array[..., -1], np.iinfo(array.dtype).max
    if (alpha != opaque).any():
        clear = int((alpha != opaque).sum())
        raise BadImage(f"an image must be opaque, got {clear} transparent pixels; flatten it")
    return np.ascontiguousarray(array[..., :-1])


def _oriented(array: np.ndarray, image) -> np.ndarray:
    """The pixels turned as the EXIF orientation 1..8 says."""
    turn = image.getexif().get(ORIENTATION, 1)
    axes = (1, 0, *range(2, array.ndim))
    turned = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
              5: lambda a: a.transpose(axes), 6: lambda a: a.transpose(axes)[:, ::-1],
              7: lambda a: a[::-1, ::-1].transpose(axes), 8: lambda a: a.transpose(axes)[::-1]}  # fmt: skip
    return np.ascontiguousarray(turned.get(turn, lambda a: a)(array))


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) truth values of a mask file; BadImage where it is of another size.

    Two values 0 and v, class numbers up to 32 or a few grey levels that are classes: all above 0 are anomalous; a
    colour: all but black; other grey levels (JPEG, antialiased edges): from half of the bits that they need on.
    """
    try:
        array, palette = pixels(path)
    except BadImage as error:
        raise BadImage(f"mask: {error}") from error
    if array.shape[:2] != shape:
        hint = "; turn it as the image's EXIF says" if array.shape[1::-1] == shape else "; export it again"
        raise BadImage(
            f"the mask must have the image's size {shape[1]} x {shape[0]}, got "
            f"{array.shape[1]} x {array.shape[0]}{hint}"
        )
    exact = path.suffix.lower() not in LOSSY
    if array.ndim == 3:
        tint = int(np.ptp(array, axis=2).max())  # JPEG tints a grey by less than colours differ
        apart = palette or tint > MOST_CLASSES
        colours = colours_of(array) if apart or (exact and tint) else None
        if apart or (colours is not None and (array.max() <= MOST_CLASSES or are_class_colours(colours))):
            if not palette and len(colours) > MOST_CLASSES:
                raise BadImage(
                    f"a colour mask must have at most {MOST_CLASSES} colours, got {len(colours)}; "
                    "is it a photograph?"
                )
            return array.any(axis=2)
        array = np.sort(array, axis=2)[..., 1]  # the middle channel: a tint moves one
    values = np.unique(array)
    binary = len(values) == 2 and values[0] == 0
    if binary or values[-1] <= MOST_CLASSES or len(values) == 1:
        return array > 0
    if exact and are_classes(array, values):
        return array > 0
    low = values[(values > 0) & (values <= MOST_CLASSES)]
    if exact and len(low) and np.isin(values, [0, *low, 255]).all():
        raise BadImage(
            f"a mask must hold class numbers up to {MOST_CLASSES} or grey levels, got {low[0]} beside 255; if 255 is "
            "'ignore', write 0 there"
        )
    full = 2 ** int(values[-1]).bit_length()  # 256 of 8 bits, in a file of 16 too
    plain = ((array < full // 8) | (array >= full - full // 8)).mean()
    if len(values) > MOST_CLASSES and plain < PLAIN:
        raise BadImage(
            f"a grey mask must be black and white but for its edges, got {len(values)} levels and {plain:.0%} of the "
            "pixels near the ends; is it a photograph?"
        )
    return array >= full // 2


def colours_of(array: np.ndarray) -> np.ndarray:
    """(K, 3) int64, the colours of an (H, W, 3) array, black first where it is there."""
    packed = np.unique(array @ np.array([1, 2**16, 2**32]))
    return np.stack([packed % 2**16, packed // 2**16 % 2**16, packed // 2**32], axis=1)


def are_class_colours(colours: np.ndarray) -> bool:
    """Whether these are black and a few colours, one at least no tinted grey: (1, 0, 0), (2, 2, 0)."""
    few = len(colours) <= MOST_CLASSES and not colours[0].any()
    return few and bool((2 * np.ptp(colours[1:], axis=1) >= colours[1:].max(axis=1)).any())


def are_classes(array: np.ndarray, values: np.ndarray) -> bool:
    """Whether grey levels number classes: there are few, none next to another, and those between black and the
    brightest are no soft edges, which lie beside what is brighter."""
    import cv2

    if values[0] != 0 or len(values) > MOST_CLASSES or (np.diff(values) < 2).any():
        return False
    between = (array > 0) & (array < values[-1])
    return float((cv2.dilate(array, np.ones((3, 3), np.uint8)) > array)[between].mean()) < 0.5


def check_mask(mask: np.ndarray | None, normal: bool, shape: tuple[int, int]) -> np.ndarray:
    """The mask of a record, none marked on a normal; BadImage where label and mask disagree."""
    if normal:
        if mask is not None and mask.any():
            raise BadImage(
                f"a normal image must have no mask, got {int(mask.sum())} marked pixels; mend its label"
            )
        return np.zeros(shape, bool)
    if mask is None:
        raise BadImage("a defect image must have a mask, found none; draw it or leave the image out")
    if not mask.any():
        raise BadImage(
            "the mask of a defect must not be empty, got 0 pixels: an image-level label only; draw it"
        )
    if mask.all():
        raise BadImage(
            "the mask of a defect must leave a normal pixel, got a full one; draw the defect alone"
        )
    return mask


class Images:
    """Image records being read one by one; what breaks a rule goes to the quarantine."""

    def __init__(self, quarantine: Quarantine) -> None:
        self.quarantine = quarantine
        self.x, self.mask, self.rows = [], [], []

    def add(self, path: Path, mask: Path | None, *, id: str, kind: str, group: str, given: str) -> None:
        """Reads an image and its mask. `kind`: "normal" or a defect's."""
        try:
            if mask == path:
                raise BadImage("a mask must be another file than its image, got the same; name the mask")
            image = read_image(path)
            found = None if mask is None else read_mask(mask, image.shape[:2])
            found = check_mask(found, kind == "normal", image.shape[:2])
        except BadImage as error:
            self.quarantine.add(id, str(error))
            return
        self.x.append(image)
        self.mask.append(found)
        self.rows.append({"id": id, "kind": kind, "group": group, "given": given})

    def records(self, source: str) -> Records:
        """All that was read. Without a group of its own a record shares that of its exact copies."""
        columns = {name: [row[name] for row in self.rows] for name in ("id", "kind", "group", "given")}
        contents = [(x.shape, x.dtype.str, hash(x.tobytes())) for x in self.x]
        copies = content_groups(columns["id"], contents)
        columns["group"] = [group or copy for group, copy in zip(columns["group"], copies)]
        label = np.array([kind != "normal" for kind in columns["kind"]], np.int8)
        drawn = ["file" if odd else "" for odd in label]
        meta = make_meta(len(self.x), **columns, label=label, source=source, mask_source=drawn)
        return Records("image", meta, self.x, self.mask, {})


def read_lines(path: Path, names: list[str], raw: Collection[str] = ()) -> list[dict[str, str]]:
    """Rows of a csv file that must have the columns `names`; raw: columns whose missing cells stay as written."""
    from data.sources.text import read_text

    table = read_text(path, raw=raw)
    lacking = [name for name in names if name not in table]
    if lacking:
        raise InputError(
            f"{show(path)}: the file must have the column '{lacking[0]}', got "
            f"{', '.join(map(show, table.columns))}; mend the header or the option"
        )
    return table.to_dict("records")
