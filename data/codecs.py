"""The codec of every modality: fit, encode, decode, state."""

from __future__ import annotations

from data.image import ImageCodec
from data.series import SeriesCodec
from data.table import RowCodec

CODECS = {"image": ImageCodec, "series": SeriesCodec, "row": RowCodec}
