"""A video file to try a benchmark on."""

from __future__ import annotations

from pathlib import Path


def write_clip(path: Path, frames: int = 4) -> None:
    """Write a short mp4 of noise, the same every time; its folder must exist."""
    import numpy as np

    from tokenreduce.embedded.render import write_mp4

    noise = np.random.default_rng(0).integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    write_mp4(path, noise)
