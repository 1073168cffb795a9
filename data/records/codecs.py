"""The codec of every modality: fit, encode, decode, state."""

from __future__ import annotations

from data.records.image import ImageCodec
from data.records.series import SeriesCodec
from data.records.table import RowCodec

CODECS = {"image": ImageCodec, "series": SeriesCodec, "row": RowCodec}
