"""Moved to :mod:`tokenreduce.testing.tiny`; this name goes once nothing imports it."""

from tokenreduce.testing.tiny import (
    IMAGE,
    PAD,
    PER_FRAME,
    SIDE,
    VIDEO,
    batch,
    ragged,
    single,
    tiny_onevision,
    video_ids,
)

__all__ = [
    "IMAGE",
    "PAD",
    "PER_FRAME",
    "SIDE",
    "VIDEO",
    "batch",
    "ragged",
    "single",
    "tiny_onevision",
    "video_ids",
]
