"""Decoded videos for workers: each part of a file once, whoever asks how often."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.errors import ConfigError
from tokenreduce.schedule import exact, share_count
from tokenreduce.video import Video, load_video

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.benchmark import Sample


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

    def load(self) -> Video:
        """Decode it."""
        return load_video(self.path, self.frames, self.sampling, start=self.start, end=self.end)


class Clips:
    """Decodes what is asked for, and keeps it until it is told to let go.

    A file that cannot be decoded is tried once.
    """

    def __init__(self) -> None:
        self._decoded: dict[ClipRequest, Video | Exception] = {}

    def get(self, request: ClipRequest) -> Video:
        """Return the frames; raise what decoding them raised the first time."""
        if request not in self._decoded:
            try:
                self._decoded[request] = request.load()
            except Exception as error:
                self._decoded[request] = error
        found = self._decoded[request]
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self) -> None:
        """Let go of all frames."""
        self._decoded.clear()


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
