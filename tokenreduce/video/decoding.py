"""Frames of one file by number: an index without decoding, then as little decoding as possible.

A demux-only pass counts the frames and finds the keyframes, which also works where the header has
no frame count (MKV, variable frame rate). The decoder then seeks only over whole groups of
pictures, and goes on after a broken packet.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


@dataclass(frozen=True)
class Index:
    """What the demux-only pass found. Times are pts, or ordinals where packets carry no pts."""

    times: Sequence[int]
    keyframes: Sequence[int]
    unit: Fraction  # seconds
    rate: Fraction  # frames per second
    missing: int  # packets the header promises and the file does not hold
    ordinal: bool  # times are ordinals
    pixels: int  # per frame, as the header says; 0 where it does not


@dataclass
class Sampled:
    """What one pass over the file gave for one list of frame numbers.

    Attributes
    ----------
    images
        ``[frames, height, width, 3]`` uint8 RGB, one for each number asked for; None: no good
        frame.
    bad
        Packets of the whole pass that could not be decoded.
    inexact
        Frame numbers for which another frame stands in, each with 1.
    """

    images: npt.NDArray[np.uint8] | None = None
    bad: int = 0
    inexact: dict[int, int] = field(default_factory=dict)


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Decoding was told to stop."""


def _open(path: Path) -> InputContainer:
    import av

    try:
        # Playlists may name other files and hosts: read this file and nothing else.
        options = {"protocol_whitelist": "file"}
        return av.open(str(path), options=options, metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not readable as video ({error.strerror}).") from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    from av.stream import Disposition

    stream = container.streams.best("video")
    # FFmpeg draws text files as terminal art, and cover pictures of music count as video.
    if container.format.name == "tty":
        raise VideoError(f"{path}: a text file, not a video.")
    if stream is None or stream.disposition & Disposition.attached_pic:
        found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{path}: no video stream in it (found: {found}).")
    return stream  # type: ignore[return-value]  # best("video") is a VideoStream


def read_index(path: Path) -> Index:
    """Demux without decoding: presentation times of all frames, and of the keyframes."""
    import av

    seen = []
    with _open(path) as container:
        stream = _video_stream(container, path)
        promised, unit = stream.frames, stream.time_base
        rate = Fraction(stream.average_rate or 0)
        pixels = stream.width * stream.height
        try:
            for packet in container.demux(stream):
                if packet.size:
                    seen.append((packet.pts, packet.is_keyframe, packet.is_discard))
        except (av.FFmpegError, OSError):
            promised = max(promised, len(seen) + 1)
    missing = max(0, promised - len(seen))
    if any(pts is None for pts, _, _ in seen):
        # AVI and raw streams: number the frames as they come out of the decoder.
        shown = range(sum(not discard for _, _, discard in seen))
        step = 1 / rate if rate else Fraction(1, 25)
        return _checked(path, Index(shown, [], step, 1 / step, missing, True, pixels))
    times = sorted({pts for pts, _, discard in seen if pts is not None and not discard})
    keyframes = sorted({pts for pts, key, _ in seen if pts is not None and key})
    unit = unit or Fraction(1, 1)
    if len(times) > 1:
        rate = (len(times) - 1) / ((times[-1] - times[0]) * unit)
    return _checked(path, Index(times, keyframes, unit, rate, missing, False, pixels))


def _checked(path: Path, index: Index) -> Index:
    if not index.times:
        raise VideoError(f"{path}: its video stream holds no frame.")
    return index


@dataclass(frozen=True)
class Decoded:
    """A decoded frame, its time (pts or ordinal), and whether no broken packet is behind it."""

    time: int
    frame: VideoFrame
    clean: bool


class Decoder:
    """Frames in presentation order from one stream, going on after broken packets."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        index: Index,
        stop: Callable[[], bool],
    ) -> None:
        self._container, self._stream, self._index = container, stream, index
        self._stop = stop
        self._newest_keyframe = index.keyframes[0] if index.keyframes else 0
        self._clean_from = -math.inf  # presentation time up to which references are damaged
        self.bad = 0
        self._frames = self._decode()

    def __iter__(self) -> Iterator[Decoded]:
        while (item := next(self._frames, None)) is not None:
            if self._stop():
                raise Stopped
            yield item

    def skip_towards(self, time: int) -> None:
        """Seek if a keyframe before `time` lies ahead of everything given to the decoder."""
        position = bisect_right(self._index.keyframes, time)
        if position and (keyframe := self._index.keyframes[position - 1]) > self._newest_keyframe:
            self._frames.close()
            self._container.seek(keyframe, stream=self._stream)
            self._frames = self._decode()

    def _decode(self) -> Generator[Decoded]:
        frames = (frame for packet in self._packets() for frame in self._decode_packet(packet))
        for ordinal, frame in enumerate(frames):
            time = ordinal if self._index.ordinal else frame.pts
            if time is not None and not frame.is_corrupt:
                yield Decoded(time, frame, time >= self._clean_from)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        import av

        try:
            yield from self._container.demux(self._stream)
        except (av.FFmpegError, OSError):  # the demuxer itself gives up
            self.bad += 1

    def _decode_packet(self, packet: Packet[VideoStream]) -> Sequence[VideoFrame]:
        import av

        if packet.is_keyframe and packet.pts is not None:
            self._newest_keyframe = max(self._newest_keyframe, packet.pts)
            if self._clean_from == math.inf:
                self._clean_from = packet.pts
        try:
            return packet.decode()
        except av.FFmpegError:
            self.bad += 1
            self._clean_from = math.inf
            return []


def sample_frames(
    path: Path,
    index: Index,
    lists: Sequence[Sequence[int]],
    max_pixels: int,
    *,
    careful: bool,
    stop: Callable[[], bool] = lambda: False,
) -> list[Sampled]:
    """Decode the wanted frames, or for each one that is broken the nearest good one; -1: black.

    Parameters
    ----------
    path, index
        The file.
    lists
        Lists of frame numbers; one pass over the file serves all of them.
    max_pixels
        Larger frames are scaled down.
    careful
        Whether to use one thread and not to seek, which loses the fewest frames.
    stop
        Asked at each frame whether to end.

    Raises
    ------
    Stopped
        If ``stop`` says so.
    """
    import av

    found = [Sampled() for _ in lists]
    wanted = sorted({number for numbers in lists for number in numbers if number >= 0})
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "NONE" if careful else "AUTO"
        decoder = Decoder(container, stream, index, stop)
        try:
            for number, frame, exact in _nearest(decoder, index, wanted, careful):
                for numbers, one in zip(lists, found, strict=True):
                    _put(one, numbers, number, frame, max_pixels)
                    if not exact:
                        one.inexact[number] = 1
        except (av.FFmpegError, OSError) as error:
            if careful:
                raise VideoError(f"{path}: decoding failed ({error.strerror}).") from error
            decoder.bad += 1  # a container that cannot seek
    for one in found:
        one.bad = decoder.bad
    return found


def _put(
    one: Sampled, numbers: Sequence[int], number: int, frame: VideoFrame, max_pixels: int
) -> None:
    """Put a frame wherever a list has its number."""
    import numpy as np

    rows = [row for row, asked in enumerate(numbers) if asked == number]
    if not rows:
        return
    image = _to_rgb(frame, max_pixels, one.images)
    if one.images is None:
        one.images = np.zeros((len(numbers), *image.shape), dtype=np.uint8)
    for row in rows:
        one.images[row] = image


def _nearest(
    decoder: Decoder, index: Index, numbers: Sequence[int], careful: bool
) -> Iterator[tuple[int, VideoFrame, bool]]:
    """Yield (frame number, frame, whether it is that very frame) for ascending numbers."""
    around: list[Decoded] = []  # the last two good frames
    for number in numbers:
        time = index.times[number]
        if not careful:
            decoder.skip_towards(time)
        if not around or around[-1].time < time:
            for item in decoder:
                around = [*around[-1:], item]
                if item.time >= time:
                    break
        if not around:
            return
        best = min(around, key=lambda item: abs(item.time - time))
        yield number, best.frame, best.clean and best.time == time


def _to_rgb(
    frame: VideoFrame, max_pixels: int, like: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.uint8]:
    """RGB [height, width, 3], upright, at most `max_pixels`, and as large as the first frame."""
    import numpy as np

    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in numpy
    height, width = frame.height, frame.width
    if like is not None:
        height, width = like.shape[1:3] if turns % 2 == 0 else like.shape[2:0:-1]
    elif height * width > max_pixels:
        scale = (max_pixels / (height * width)) ** 0.5
        height, width = max(2, int(height * scale)), max(2, int(width * scale))
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
    return np.rot90(image, turns)
