"""Decoded videos for workers: each file once, and the next ones while the model works."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Condition, Thread
from time import perf_counter
from typing import TYPE_CHECKING

from tokenreduce.errors import ConfigError
from tokenreduce.schedule import exact, share_count
from tokenreduce.video import Video, VideoPass, VideoRequest
from tokenreduce.video.decoding import Stopped

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.benchmark import Sample

AHEAD = 2**30
"""Bytes of frames that may wait for their unit, by default: some 170 frames of 1920 x 1080."""

TOGETHER = 2**30
"""Bytes of frames that one pass over a file may bring; what does not fit is decoded as asked."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    """What of a file is wanted.

    Attributes
    ----------
    path
        The file.
    frames, sampling, start, end
        See :func:`tokenreduce.load_video`.
    """

    path: Path
    frames: int
    sampling: str
    start: float | None = None
    end: float | None = None

    @classmethod
    def of(cls, sample: Sample, frames: int, sampling: str, share: float = 1.0) -> ClipRequest:
        """Return what a question needs to be asked.

        Parameters
        ----------
        sample
            The question.
        frames, sampling
            How the model samples a whole video.
        share
            Share of the frames to sample, at least one.
        """
        if share != 1:
            frames, sampling = fewer_frames(frames, sampling, share)
        return cls(sample.video, frames, sampling, sample.start, sample.end)

    @property
    def wanted(self) -> VideoRequest:
        """What is wanted, without the file."""
        return VideoRequest(self.frames, self.sampling, self.start, self.end)


Batch = tuple[ClipRequest, ...]
"""What a unit asks for, or a part of it about one file."""


class Clips:
    """Keeps the decoded frames of the present unit of work, and decodes those of the next ahead.

    Frames are let go when their unit is done. A file that cannot be decoded is tried once for it.
    Methods may be called from any thread.

    Parameters
    ----------
    ahead
        Bytes of frames that may wait for their unit, beside those of the present one; 0: nothing
        is decoded ahead. A unit whose frames would not fit is decoded when it comes.

    Attributes
    ----------
    waited
        Seconds that callers of :meth:`get` have waited for frames.
    peak
        Most bytes of frames that were held at a time.
    """

    def __init__(self, ahead: int = AHEAD) -> None:
        self._ahead = ahead
        self._changed = Condition()
        self._decoded: dict[ClipRequest, Video | Exception] = {}
        self._present: Batch = ()
        self._coming: tuple[Batch, ...] = ()
        self._too_large: set[ClipRequest] = set()
        self._reading: Batch = ()  # what the thread is at
        self._reserved = 0  # bytes that it will take
        self._thread: Thread | None = None
        self.waited, self.peak = 0.0, 0

    @property
    def held(self) -> int:
        """Bytes of the frames that are held, with those that are being decoded ahead."""
        with self._changed:
            return self._reserved + sum(map(_bytes, self._decoded.values()))

    def begin(
        self, present: Iterable[ClipRequest], coming: Iterable[Iterable[ClipRequest]] = ()
    ) -> None:
        """Note what the unit that begins asks for, and what those do that come after it.

        What is held besides is let go.
        """
        with self._changed:
            self._present = tuple(dict.fromkeys(present))
            self.expect(coming)

    def expect(self, coming: Iterable[Iterable[ClipRequest]]) -> None:
        """Note what the units that come next ask for; a thread decodes it."""
        with self._changed:
            self._coming = tuple(tuple(dict.fromkeys(batch)) for batch in coming)
            self._too_large.clear()  # there may be room now
            self._keep(self._wanted())
            self._start()

    def get(self, request: ClipRequest) -> Video:
        """Return the frames; raise what decoding them raised the first time."""
        began = perf_counter()
        with self._changed:
            if request not in self._present:
                self._present = (*self._present, request)
            self._changed.wait_for(lambda: request not in self._reading)
            found = self._decoded.get(request)
        if found is None:
            found = self._decode(request)
        self.waited += perf_counter() - began
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self, but: Path | None = None) -> None:
        """Let go of the frames of the present unit, or of all its files but one."""
        with self._changed:
            self._present = tuple(each for each in self._present if each.path == but)
            self._keep(self._wanted())

    def close(self) -> None:
        """Let go of everything; return when nothing is being decoded."""
        self.begin(())
        thread = self._thread
        if thread is not None:
            thread.join()

    def _wanted(self) -> set[ClipRequest]:
        return {*self._present, *(request for batch in self._coming for request in batch)}

    def _keep(self, wanted: set[ClipRequest]) -> None:
        for request in self._decoded.keys() - wanted:
            del self._decoded[request]

    def _store(self, found: Mapping[ClipRequest, Video | Exception]) -> None:
        self._decoded |= found
        self.peak = max(self.peak, self.held)

    def _decode(self, request: ClipRequest) -> Video | Exception:
        """Decode a request now, together with the unit's others about the same file."""
        with self._changed:
            mates = [each for each in self._present if each.path == request.path]
            left = [each for each in mates if each not in self._decoded and each != request]
        found = _decoded((request, *left))
        with self._changed:
            self._store(found)
            self._start()
        return found[request]

    def _start(self) -> None:
        if self._ahead and self._thread is None and self._next():
            self._thread = Thread(target=self._work, name="decoding ahead", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """Decode ahead until there is nothing more to decode, in a thread."""
        while batch := self._take():
            found = self._read(batch)
            with self._changed:
                wanted = self._wanted()
                self._reading, self._reserved = (), 0
                self._store({each: video for each, video in found.items() if each in wanted})
                self._changed.notify_all()

    def _take(self) -> Batch:
        with self._changed:
            self._reading = self._next()
            if not self._reading:
                self._thread = None
            return self._reading

    def _next(self) -> Batch:
        """Return what is missing of the next file; nothing while the present unit has no frames."""
        if self._present and self._decoded.keys().isdisjoint(self._present):
            return ()
        missing = [
            request
            for batch in self._coming
            for request in batch
            if request not in self._decoded and request not in self._too_large
        ]
        return tuple(each for each in missing if each.path == missing[0].path)

    def _read(self, batch: Batch) -> Mapping[ClipRequest, Video | Exception]:
        try:
            reading = VideoPass(batch[0].path, [each.wanted for each in batch])
            if not self._reserve(reading.bytes):
                self._too_large.update(batch)
                return {}
            return dict(zip(batch, reading.decode(self._unwanted), strict=True))
        except Stopped:
            return {}
        except Exception as error:  # raised when the unit asks
            return dict.fromkeys(batch, error)

    def _reserve(self, size: int) -> bool:
        """Take room for frames that are to wait."""
        with self._changed:
            present = set(self._present)
            waiting = [video for each, video in self._decoded.items() if each not in present]
            fits = sum(map(_bytes, waiting)) + size <= self._ahead
            self._reserved = size if fits else 0
            self.peak = max(self.peak, self.held)
            return fits

    def _unwanted(self) -> bool:
        with self._changed:
            return self._wanted().isdisjoint(self._reading)


def _bytes(found: Video | Exception) -> int:
    return 0 if isinstance(found, Exception) else found.frames.nbytes


def _decoded(batch: Batch) -> dict[ClipRequest, Video | Exception]:
    """Decode requests about one file; of more than fit together the first one."""
    try:
        reading = VideoPass(batch[0].path, [each.wanted for each in batch])
        if len(batch) > 1 and reading.bytes > TOGETHER:
            return _decoded(batch[:1])
        return dict(zip(batch, reading.decode(), strict=True))
    except Exception as error:
        return dict.fromkeys(batch, error)


def fewer_frames(frames: int, sampling: str, share: float) -> tuple[int, str]:
    """Return number of frames and sampling rule for a share of the frames.

    Raises
    ------
    ConfigError
        If the rule takes every frame of a file.
    """
    rule, colon, rate = sampling.partition(":")
    if colon:
        slower = Fraction(rate) * exact(share)
        return frames, f"{rule}:{float(slower):g}"
    if rule == "all":
        raise ConfigError("the model takes all frames of a video, so there is no share to take.")
    return max(1, share_count(frames, share)), sampling


def smaller(frames: Tensor, share: float) -> Tensor:
    """Return frames ``[frames, height, width, 3]`` uint8 scaled to a share of height and width."""
    if share == 1:
        return frames
    import torch.nn.functional as F

    height, width = (max(1, share_count(int(side), share)) for side in frames.shape[1:3])
    images = frames.permute(0, 3, 1, 2)
    scaled = F.interpolate(images, (height, width), mode="bicubic", antialias=True)
    return scaled.permute(0, 2, 3, 1)
