"""Which frames of a video to look at: named rules, in integers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from fractions import Fraction

from tokenreduce.errors import ConfigError


def uniform(total: int, frames: int) -> list[int]:
    """Middle frame of each of `frames` equal segments; all frames where `frames == total`.

    The rule of TSN-style loaders (`OpenGVLab/Ask-Anything: get_index`).
    """
    return [total * (2 * i + 1) // (2 * frames) for i in range(frames)]


def segments(total: int, frames: int) -> list[int]:
    """Start of each of `frames` equal segments of 0..`total - 1`, rounded, plus half a segment.

    Starts round half to even, the half segment rounds down. The rule of `magic-research/PLLaVA:
    tasks/eval/eval_utils.py`.
    """
    last = total - 1
    half = last // (2 * frames)
    return [half + round(Fraction(last * i, frames)) for i in range(frames)]


def linspace(total: int, frames: int) -> list[int]:
    """`linspace(0, total - 1, frames)` cut to integers: first and last frame included.

    The rule of `EvolvingLMMs-Lab/LongVA` and `LLaVA-VL/LLaVA-NeXT`.
    """
    return [(total - 1) * i // max(1, frames - 1) for i in range(frames)]


def before_last(total: int, frames: int) -> list[int]:
    """`linspace(0, total - 2, frames)` cut to integers: the last frame is left out.

    A clip that is shorter than asked is whole, with black frames (-1) before it. The rule of
    `NVlabs/VILA: llava/mm_utils.py`.
    """
    if total < frames:
        return [-1] * (frames - total) + list(range(total))
    return [(total - 2) * i // max(1, frames - 1) for i in range(frames)]


def every(total: int, frames: int) -> list[int]:
    """Every frame of the file; `frames` is not used."""
    return list(range(total))


SAMPLING: dict[str, Callable[[int, int], list[int]]] = {
    "uniform": uniform,
    "linspace": linspace,
    "segments": segments,
    "before_last": before_last,
    "all": every,
}


def sample_indices(sampling: str, total: int, frames: int, rate: Fraction) -> list[int]:
    """Frame numbers that a named rule picks; they repeat where the clip is shorter than asked.

    -1 is a black frame.

    Parameters
    ----------
    sampling : str
        A key of `SAMPLING`, or `fps:X`: X frames per second from the first one on, falling back to
        `linspace` where that is more than `frames` (`LLaVA-VL/LLaVA-NeXT: load_video`).
    total : int
        Frames in the file.
    frames : int
        Frames to pick.
    rate : Fraction
        Frames per second of the file.

    Raises
    ------
    ConfigError
        Unknown rule, or `frames` below 1.
    """
    if frames < 1:
        raise ConfigError(f"frames={frames} asks for no frame; give 1 or more.")
    if sampling in SAMPLING:
        return SAMPLING[sampling](total, frames)
    step = rate / _fps_value(sampling)
    picked = [int(step * i) for i in range(frames + 1) if int(step * i) < total] if step else [0]
    return picked if len(picked) <= frames else linspace(total, frames)


def frames_between(
    times: Sequence[int], unit: Fraction, start: float | None, end: float | None
) -> range:
    """Numbers of the frames shown from `start` on and before `end`.

    Parameters
    ----------
    times : sequence of int
        When each frame of the file is shown, ascending, in `unit`s.
    unit : Fraction
        Seconds.
    start, end : float, optional
        Seconds after the first frame; None: the first frame, and after the last one.
    """

    def before(seconds: float) -> int:
        # Decimals as they are written: a frame at exactly 0.1 s is not before 0.1.
        return bisect_left(times, times[0] + Fraction(str(seconds)) / unit)

    first = 0 if start is None else before(start)
    return range(first, len(times) if end is None else before(end))


def _fps_value(sampling: str) -> Fraction:
    """X of `fps:X`."""
    known = ", ".join([*SAMPLING, "fps:X"])
    prefix, _, value = sampling.partition(":")
    try:
        fps = Fraction(value) if prefix == "fps" else Fraction(0)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if fps <= 0:
        raise ConfigError(f"sampling={sampling!r} is not a sampling rule; known are {known}.")
    return fps
