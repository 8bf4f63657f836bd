"""Where images come from: names, folders, Parquet files and the Hub; decoded once and kept."""

from datastill.sources.dataset import (
    Dataset,
    Images,
    SourceInfo,
    encoded_train_bytes,
    list_sources,
    load,
)
from datastill.sources.pictures import PictureError, decode_picture, encode_picture

__all__ = [
    "Dataset",
    "Images",
    "PictureError",
    "SourceInfo",
    "decode_picture",
    "encode_picture",
    "encoded_train_bytes",
    "list_sources",
    "load",
]
