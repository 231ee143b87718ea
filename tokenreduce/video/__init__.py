"""Sampled frames of a video file, decoded exactly and robustly with PyAV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import ConfigError, VideoError
from tokenreduce.video.decoding import Index, Sampled, read_index, sample_frames
from tokenreduce.video.sampling import frames_between, sample_indices

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

MAX_FRAMES = 1024  # frames held in memory at once
MAX_PIXELS = 1920 * 1088  # per frame; larger frames are scaled down while they are decoded


@dataclass(frozen=True, eq=False)
class Video:
    """Sampled frames of one file.

    Attributes
    ----------
    frames : torch.Tensor
        RGB, uint8, [frames, height, width, 3].
    indices : tuple of int
        Which frame of the file each one is, in presentation order, 0-based; -1: a black frame.
    timestamps : tuple of float
        Seconds after the file's first frame.
    fps : float
        Mean frame rate of the file in frames per second (0 where it cannot be known).
    total_frames : int
        Frames the file holds.
    path : pathlib.Path
        The file.
    bad_packets : int
        Packets that are missing or could not be decoded.
    inexact : int
        Sampled frames that are a neighbour of the one asked for, which could not be decoded, or
        that build on a broken packet.
    """

    frames: torch.Tensor
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]
    fps: float
    total_frames: int
    path: Path
    bad_packets: int = 0
    inexact: int = 0

    def __len__(self) -> int:
        return len(self.indices)


def load_video(
    path: str | Path,
    frames: int = 16,
    sampling: str = "uniform",
    *,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Video:
    """Decode sampled frames of a video file.

    Parameters
    ----------
    path : str or pathlib.Path
        Any file FFmpeg reads. The best video stream is used, its rotation is applied.
    frames : int
        How many frames to sample. Frames of a shorter clip repeat, unless the rule says otherwise.
    sampling : str
        `uniform`, `linspace`, `segments`, `before_last`, `all` or `fps:X`; see `sample_indices`.
    max_frames : int, optional
        Most frames to hold in memory (default 1024).
    max_pixels : int, optional
        Larger frames are scaled down to this many pixels while decoding (default 1920 x 1088).
    start, end : float, optional
        Seconds after the first frame: only frames shown from `start` on and before `end` are
        sampled. `indices` and `timestamps` stay those of the file.

    Returns
    -------
    Video

    Raises
    ------
    VideoError
        The file is missing, not a video, has no frame that can be decoded, or the rule picks more
        than `max_frames`; or `start` and `end` do not lie within the clip.
    ConfigError
        `frames` or `sampling` is not valid, or `start` and `end` are no part of any clip.
    """
    path = Path(path)
    _check_file(path)
    index = read_index(path)
    part = _part(path, index, start, end)
    picked = sample_indices(sampling, len(part), frames, index.rate)
    indices = [part.start + i if i >= 0 else i for i in picked]
    limit = MAX_FRAMES if max_frames is None else max_frames
    if len(indices) > limit:
        raise VideoError(
            f"{path}: {sampling!r} picks {len(indices)} frames and the limit is {limit}; "
            "sample fewer frames or raise max_frames."
        )
    pixels = MAX_PIXELS if max_pixels is None else max_pixels
    result, images = _decoded(path, index, indices, pixels)
    import torch

    first = index.times[0]
    shown = [index.times[i if i >= 0 else part.start] for i in indices]
    return Video(
        frames=torch.from_numpy(images),
        indices=tuple(indices),
        timestamps=tuple(float((time - first) * index.unit) for time in shown),
        fps=float(index.rate),
        total_frames=len(index.times),
        path=path,
        bad_packets=index.missing + result.bad,
        inexact=sum(result.inexact.get(i, 0) for i in indices),
    )


def check_video(path: str | Path, frames: int = 1, sampling: str = "uniform") -> None:
    """Check that a file is a video and a sampling rule is one, without decoding a frame.

    Raises
    ------
    VideoError, ConfigError
        As :func:`load_video`.
    """
    path = Path(path)
    _check_file(path)
    index = read_index(path)
    sample_indices(sampling, len(index.times), frames, index.rate)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a file after a look at a few of its frames.

    Attributes
    ----------
    total_frames, fps
        Frames it holds, and their mean rate per second (0 where it cannot be known).
    seconds
        From its first frame to the end of its last one.
    bad_packets
        Packets that are missing, or could not be decoded on the way to the frames looked at.
    """

    total_frames: int
    fps: float
    seconds: float
    bad_packets: int
    _path: Path = field(repr=False)
    _index: Index = field(repr=False)

    def check_part(self, start: float | None, end: float | None) -> None:
        """Check that a part of the clip holds a frame; arguments and errors as `load_video`."""
        _part(self._path, self._index, start, end)


def inspect_video(path: str | Path, frames: int = 4) -> Inspection:
    """Decode a few frames of a file.

    Parameters
    ----------
    path : str or pathlib.Path
        As for :func:`load_video`.
    frames : int
        Frames to decode, evenly spread.

    Raises
    ------
    VideoError
        The file is missing, not a video, or has no frame that can be decoded.
    """
    path = Path(path)
    _check_file(path)
    index = read_index(path)
    total = len(index.times)
    numbers = sample_indices("uniform", total, min(frames, total), index.rate)
    found, _ = _decoded(path, index, numbers, MAX_PIXELS)
    bad = index.missing + found.bad
    return Inspection(total, float(index.rate), float(_seconds(index)), bad, path, index)


def _decoded(
    path: Path, index: Index, numbers: Sequence[int], pixels: int
) -> tuple[Sampled, npt.NDArray[np.uint8]]:
    result = sample_frames(path, index, numbers, pixels, careful=False)
    if result.bad or result.inexact:
        # One thread and no seeking lose the fewest frames around a broken packet.
        result = sample_frames(path, index, numbers, pixels, careful=True)
    if result.images is None:
        raise VideoError(f"{path}: none of its {len(index.times)} frames can be decoded.")
    return result, result.images


def _seconds(index: Index) -> Fraction:
    """From the first frame to the end of the last one, which lasts as long as frames do."""
    shown = (index.times[-1] - index.times[0]) * index.unit
    return shown + (1 / index.rate if index.rate else 0)


def _part(path: Path, index: Index, start: float | None, end: float | None) -> range:
    """Numbers of the frames between `start` and `end`; all of them where neither is given."""
    if start is None and end is None:
        return range(len(index.times))
    for value in (start, end):
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{path}: a part of a clip from {start} s to {end} s is none.")
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"{path}: start={start:g} is not before end={end:g}.")
    seconds = _seconds(index)
    # A frame's length of slack: containers round the length of a clip, and sound may be longer.
    if end is not None and Fraction(str(end)) > seconds + (1 / index.rate if index.rate else 0):
        raise VideoError(f"{path}: end={end:g} is after the clip's end at {float(seconds):g} s.")
    part = frames_between(index.times, index.unit, start, end)
    if not part:
        raise VideoError(
            f"{path}: no frame lies from {start or 0:g} s to "
            f"{'the end' if end is None else f'{end:g} s'}; the clip has {len(index.times)} frames "
            f"in {float(seconds):g} s."
        )
    return part


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path}: there is no such file.")
    if not path.is_file():
        raise VideoError(f"{path}: not a regular file; give the path of a video file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty.")
