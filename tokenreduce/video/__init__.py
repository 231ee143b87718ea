"""Sampled frames of a video file, decoded exactly and robustly with PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import VideoError
from tokenreduce.video.decoding import read_index, sample_frames
from tokenreduce.video.sampling import sample_indices

if TYPE_CHECKING:
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

    Returns
    -------
    Video

    Raises
    ------
    VideoError
        The file is missing, not a video, has no frame that can be decoded, or the rule picks more
        than `max_frames`.
    ConfigError
        `frames` or `sampling` is not valid.
    """
    path = Path(path)
    _check_file(path)
    index = read_index(path)
    indices = sample_indices(sampling, len(index.times), frames, index.rate)
    limit = MAX_FRAMES if max_frames is None else max_frames
    if len(indices) > limit:
        raise VideoError(
            f"{path}: {sampling!r} picks {len(indices)} frames and the limit is {limit}; "
            "sample fewer frames or raise max_frames."
        )
    pixels = MAX_PIXELS if max_pixels is None else max_pixels
    result = sample_frames(path, index, indices, pixels, careful=False)
    if result.bad or result.inexact:
        # One thread and no seeking lose the fewest frames around a broken packet.
        result = sample_frames(path, index, indices, pixels, careful=True)
    if result.images is None:
        raise VideoError(f"{path}: none of its {len(index.times)} frames can be decoded.")
    import torch

    first = index.times[0]
    return Video(
        frames=torch.from_numpy(result.images),
        indices=tuple(indices),
        timestamps=tuple(float((index.times[max(i, 0)] - first) * index.unit) for i in indices),
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


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path}: there is no such file.")
    if not path.is_file():
        raise VideoError(f"{path}: not a regular file; give the path of a video file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty.")
