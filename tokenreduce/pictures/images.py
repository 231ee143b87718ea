"""Frames as small JPEG images, encoded with PyAV."""

from __future__ import annotations

from base64 import b64encode
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_EDGE = 192  # pixels; a page shows frames no larger
QUANTISER = "5"  # of 1 (best) to 31


def jpeg_url(frame: Tensor) -> str:
    """Return a frame as a ``data:`` URL.

    Parameters
    ----------
    frame
        ``[height, width, 3]`` uint8 RGB; larger ones are made smaller first.
    """
    return "data:image/jpeg;base64," + b64encode(_jpeg(_small(frame))).decode()


def _small(frame: Tensor) -> Tensor:
    from tokenreduce.preprocess import resized

    height, width, _ = frame.shape
    longest = max(height, width)
    if longest <= LONGEST_EDGE:
        return frame
    size = [max(1, round(edge * LONGEST_EDGE / longest)) for edge in (height, width)]
    return resized(frame[None], (size[0], size[1]))[0]


def _jpeg(frame: Tensor) -> bytes:
    import av

    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = frame.shape[:2]
    encoder.pix_fmt = "yuvj444p"  # colours at full resolution: shapes may be a few pixels wide
    encoder.time_base = Fraction(1, 1)
    encoder.options = {"qmin": QUANTISER, "qmax": QUANTISER, "flags": "+bitexact"}
    picture = av.VideoFrame.from_ndarray(frame.contiguous().cpu().numpy(), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])
