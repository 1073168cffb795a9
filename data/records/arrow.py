"""Records as arrow tables and back: typed columns that Hugging Face `datasets` decodes by itself."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa

from data.records import IMAGE, META, PAYLOAD, ROW_TYPES, Records, check_names, typed_meta, typed_rows


def to_table(records: Records, schema: pa.Schema | None) -> pa.Table:
    """Arrow table of the records; `schema` is that of the chunks before, None for the first."""
    columns = {
        name: pa.array(records.meta[name], arrow, from_pandas=name != "parents")
        for name, (_, arrow, _) in META.items()
    }
    for name in records.meta:
        if name in META:
            continue
        if name in PAYLOAD:
            raise ValueError(f"a meta column must not be named like a payload, got '{name}'")
        column = pa.array(records.meta[name], from_pandas=True)
        plain = pa.types.is_null(column.type) or pa.types.is_large_string(column.type)
        columns[name] = column.cast(pa.string()) if plain else column
    meta = list(columns)
    columns |= _payload(records)
    if schema is not None:
        if list(columns) != schema.names:
            odd = sorted(set(columns) ^ set(schema.names))
            raise ValueError(f"chunks of a store must have the same columns, these differ: {', '.join(odd)}")
        if json.loads(schema.metadata[b"oddsmith"])["schema"] != json.loads(json.dumps(records.schema)):
            raise ValueError(f"chunks of a store must have the same schema, got {records.schema}")
        cast = [column.cast(field.type) for column, field in zip(columns.values(), schema)]
        return pa.table(cast, schema=schema)
    note = {"format": 1, "modality": records.modality, "schema": records.schema, "meta": meta}
    features = {name: feature(column.type) for name, column in columns.items()}
    return pa.table(columns).replace_schema_metadata(
        {b"oddsmith": json.dumps(note), b"huggingface": json.dumps({"info": {"features": features}})}
    )


def _payload(records: Records) -> dict[str, pa.Array]:
    if records.modality == "image":
        columns = {"image": _pngs(records.x), "mask": _pngs([np.uint8(255) * mask for mask in records.mask])}
        return columns | ({"control": _pngs(records.control)} if records.control is not None else {})
    if records.modality == "series":
        width = len(records.schema["channels"])
        columns = {
            "series": _nested(records.x, width, np.float64),
            "mask": _nested(records.mask, width, bool),
        }
        if records.time is not None:
            columns["time"] = _lists([np.asarray(t, np.int64) for t in records.time], pa.int64())
        if records.control is not None:
            columns["control"] = _nested(records.control, width, np.float64)
        return columns
    check_names([c["name"] for c in records.schema["columns"]], also=records.meta)
    columns = _cells(records.x, records.schema)
    width = len(records.schema["columns"])
    mask = np.asarray(records.mask, bool).reshape(len(records), width)
    columns["mask"] = _lists(list(mask), pa.bool_())
    if records.control is not None:
        cells = _cells(records.control, records.schema)
        columns["control"] = pa.StructArray.from_arrays(list(cells.values()), names=list(cells))
    return columns


def _cells(frame: pd.DataFrame, schema: dict) -> dict[str, pa.Array]:
    frame = typed_rows(frame, schema)
    return {
        c["name"]: pa.array(frame[c["name"]], ROW_TYPES[c["type"]][1], from_pandas=True)
        for c in schema["columns"]
    }


def _lists(arrays: list[np.ndarray], inner: pa.DataType) -> pa.Array:
    """list<inner> of one flat array a record; NaN stays NaN."""
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    flat = np.concatenate(arrays) if arrays else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, inner, from_pandas=False))


def _nested(arrays: list[np.ndarray], width: int, dtype: type) -> pa.Array:
    """list<list<dtype>> of (T, C) arrays: time outside, channels inside."""
    arrays = [np.asarray(array, dtype).reshape(-1, width) for array in arrays]
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    flat = np.concatenate(arrays).ravel() if arrays else np.empty(0, dtype)
    steps = np.arange(offsets[-1] + 1, dtype=np.int32) * np.int32(width)
    values = pa.array(flat, pa.from_numpy_dtype(dtype), from_pandas=False)
    inner = pa.ListArray.from_arrays(pa.array(steps), values)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)


def _pngs(images: list[np.ndarray]) -> pa.Array:
    return pa.array([{"bytes": encode_png(image), "path": None} for image in images], IMAGE)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes, exact, of (H, W) or (H, W, 3) RGB uint8 or uint16."""
    import cv2

    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"an image must be (H, W[, 3]) uint8 or uint16, got {image.shape} {image.dtype}")
    done, data = cv2.imencode(".png", image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1]))
    if not done:
        raise ValueError(f"an image must be writable as PNG, got {image.shape} {image.dtype}")
    return data.tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """(H, W) or (H, W, 3) RGB of PNG bytes that `encode_png` wrote."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])


def from_table(table: pa.Table) -> Records:
    """The records of a table that `to_table` made, in whole or in part."""
    note = json.loads(table.schema.metadata[b"oddsmith"])
    modality, schema = note["modality"], note["schema"]
    meta = {name: table[name].to_pandas() for name in note["meta"]}
    meta["parents"] = pd.Series(table["parents"].to_pylist(), dtype="object")
    meta = pd.DataFrame(meta, index=pd.RangeIndex(len(table)))
    named = {name: table[name].combine_chunks() for name in table.column_names if name not in note["meta"]}
    named = {
        name: pa.concat_arrays(part.chunks) if isinstance(part, pa.ChunkedArray) else part
        for name, part in named.items()
    }
    time = control = None
    if modality == "image":
        x, mask, control = (
            [decode_png(data.as_py()) for data in named[name].field("bytes")] if name in named else None
            for name in ("image", "mask", "control")
        )
        mask = [m > 0 for m in mask]
    elif modality == "series":
        width = len(schema["channels"])
        x, mask, control = (
            _split(named[name], width) if name in named else None for name in ("series", "mask", "control")
        )
        time = _split(named["time"], 0) if "time" in named else None
    else:
        x = _frame({c["name"]: named[c["name"]] for c in schema["columns"]}, schema, len(table))
        mask = named["mask"].flatten().to_numpy(zero_copy_only=False)
        mask = mask.astype(bool).reshape(len(table), len(schema["columns"]))
        if "control" in named:
            cells = {c["name"]: named["control"].field(c["name"]) for c in schema["columns"]}
            control = _frame(cells, schema, len(table))
    return Records(modality, typed_meta(meta), x, mask, schema, time, control)


def _frame(cells: dict[str, pa.Array], schema: dict, n: int) -> pd.DataFrame:
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # a null must not make them float
    frame = pd.DataFrame(
        {name: cell.to_pandas(types_mapper=nullable.get) for name, cell in cells.items()},
        index=pd.RangeIndex(n),
    )
    return typed_rows(frame, schema)


def _split(lists: pa.ListArray, width: int) -> list[np.ndarray]:
    """One (T, width) array a record, or (T,) where width is 0."""
    flat = lists.flatten()
    flat = flat.flatten() if width else flat
    flat = flat.to_numpy(zero_copy_only=False)
    flat = flat.reshape(-1, width) if width else flat
    ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))[:-1]
    return [part.copy() for part in np.split(flat, ends)] if len(lists) else []


def feature(kind: pa.DataType) -> dict:
    """Hugging Face's feature of an arrow type, so that `datasets` decodes images and knows the types."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": feature(kind.value_type)}
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    names = {pa.float64(): "float64", pa.float32(): "float32", pa.large_string(): "large_string"}
    return {"_type": "Value", "dtype": names.get(kind, str(kind))}
