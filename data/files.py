"""What another stage wrote, read again: a torn file is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_json(path: Path, *, needed: bool = True) -> Any:
    """The parsed file. InputError where it is torn; where there is none FileNotFoundError, or None if not `needed`."""
    if not needed and not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: must be JSON ({error}); run dvc repro") from error


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A parquet file, or all of a folder. InputError where one is torn or lacks a column, FileNotFoundError where there
    is none."""
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path, columns=columns)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError(f"{path}: must be whole parquet, got {error}; run dvc repro") from error
