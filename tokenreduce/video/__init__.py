"""Sampled frames of a video file, decoded exactly and robustly with PyAV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import ConfigError, TokenReduceError, VideoError
from tokenreduce.video.decoding import Index, Sampled, read_index, sample_frames
from tokenreduce.video.sampling import frames_between, sample_indices

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
    reading = VideoPass(path, [VideoRequest(frames, sampling, start, end)], max_frames, max_pixels)
    (found,) = reading.decode()
    if isinstance(found, TokenReduceError):
        raise found
    return found


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """Frames that are wanted of a file; attributes as the parameters of :func:`load_video`."""

    frames: int = 16
    sampling: str = "uniform"
    start: float | None = None
    end: float | None = None


class VideoPass:
    """One pass over a file that serves several requests. Made, it has read the index only.

    A broken file is read once for each of them, because what stands in for a lost frame depends on
    the other frames that are read.

    Parameters
    ----------
    path
        The file.
    requests
        What is wanted of it.
    max_frames, max_pixels
        As for :func:`load_video`, of each request.

    Raises
    ------
    VideoError
        If the file is missing, or not a video. What else is wrong is in the place of the request.
    """

    def __init__(
        self,
        path: str | Path,
        requests: Sequence[VideoRequest],
        max_frames: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self._path = Path(path)
        _check_file(self._path)
        self._index = read_index(self._path)
        self._pixels = MAX_PIXELS if max_pixels is None else max_pixels
        limit = MAX_FRAMES if max_frames is None else max_frames
        self._picked = [_picked(self._path, self._index, each, limit) for each in requests]

    @property
    def bytes(self) -> int:
        """Bytes that all frames take, by the size of a frame in the file's header."""
        frames = sum(len(each.numbers) for each in self._picked if isinstance(each, _Picked))
        return 3 * frames * min(self._index.pixels, self._pixels)

    def decode(self, stop: Callable[[], bool] = lambda: False) -> list[Video | TokenReduceError]:
        """Return for each request the frames that :func:`load_video` returns, or what it raises.

        Parameters
        ----------
        stop
            Asked at each frame whether to end.

        Raises
        ------
        tokenreduce.video.decoding.Stopped
            If ``stop`` says so.
        """
        lists = [each.numbers for each in self._picked if isinstance(each, _Picked)]
        decoded = iter(_decoded_each(self._path, self._index, lists, self._pixels, stop))
        return [
            self._video(each, next(decoded)) if isinstance(each, _Picked) else each
            for each in self._picked
        ]

    def _video(self, picked: _Picked, sampled: Sampled | VideoError) -> Video | VideoError:
        import torch

        if isinstance(sampled, VideoError):
            return sampled
        assert sampled.images is not None
        index, numbers = self._index, picked.numbers
        shown = [index.times[i if i >= 0 else picked.first] for i in numbers]
        return Video(
            frames=torch.from_numpy(sampled.images),
            indices=tuple(numbers),
            timestamps=tuple(float((time - index.times[0]) * index.unit) for time in shown),
            fps=float(index.rate),
            total_frames=len(index.times),
            path=self._path,
            bad_packets=index.missing + sampled.bad,
            inexact=sum(sampled.inexact.get(i, 0) for i in numbers),
        )


@dataclass(frozen=True, slots=True)
class _Picked:
    """Frame numbers of a request, and the first number of its part of the clip."""

    numbers: list[int]
    first: int


def _picked(
    path: Path, index: Index, request: VideoRequest, limit: int
) -> _Picked | TokenReduceError:
    try:
        part = _part(path, index, request.start, request.end)
        picked = sample_indices(request.sampling, len(part), request.frames, index.rate)
    except TokenReduceError as error:
        return error
    if len(picked) > limit:
        return VideoError(
            f"{path}: {request.sampling!r} picks {len(picked)} frames and the limit is {limit}; "
            "sample fewer frames or raise max_frames."
        )
    return _Picked([part.start + i if i >= 0 else i for i in picked], part.start)


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
    (found,) = _decoded_each(path, index, [numbers], MAX_PIXELS)
    if isinstance(found, VideoError):
        raise found
    bad = index.missing + found.bad
    return Inspection(total, float(index.rate), float(_seconds(index)), bad, path, index)


def _decoded_each(
    path: Path,
    index: Index,
    lists: Sequence[Sequence[int]],
    pixels: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[Sampled | VideoError]:
    """Return the frames of each list of numbers, or why there is none."""
    found = sample_frames(path, index, lists, pixels, careful=False, stop=stop)
    if not any(one.bad or one.inexact or one.images is None for one in found):
        return list(found)
    if len(lists) > 1:
        alone = (_decoded_each(path, index, [numbers], pixels, stop) for numbers in lists)
        return [one for each in alone for one in each]
    return [_carefully(path, index, numbers, pixels, stop) for numbers in lists]


def _carefully(
    path: Path, index: Index, numbers: Sequence[int], pixels: int, stop: Callable[[], bool]
) -> Sampled | VideoError:
    """Read a broken file: one thread and no seeking lose the fewest frames."""
    try:
        (found,) = sample_frames(path, index, [numbers], pixels, careful=True, stop=stop)
    except VideoError as error:
        return error
    if found.images is None:
        return VideoError(f"{path}: none of its {len(index.times)} frames can be decoded.")
    return found


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
