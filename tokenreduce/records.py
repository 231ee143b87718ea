"""What workers make of questions, one row of the results file each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """What one cell made of one question.

    Attributes
    ----------
    cell
        Key of the cell.
    sample, category, answer
        From the benchmark.
    digest
        Of the question and its file: another digest under the same id is another question.
    prediction, correct
        The model's words and whether they count as right; None where the question failed.
    error
        Why it failed; None where it did not.
    visual_tokens
        Visual tokens before any reduction.
    tokens_per_layer
        Visual tokens in the cache of each decoder layer.
    flops, flops_full
        Of the prefill, reduced and not.
    kv_bytes, kv_bytes_full
        Of keys and values after the prefill, reduced and not.
    bad_packets, inexact
        How sound the video was; see :class:`tokenreduce.video.Video`.
    video
        Name of the video: the same for all questions about it, which are not independent of each
        other. Empty: nothing else is asked about it.
    frames
        Frames that the setup and the benchmark ask for, before any down-sampling.
    """

    cell: str
    sample: str
    digest: str
    category: str
    answer: str
    prediction: str | None = None
    correct: bool | None = None
    error: str | None = None
    visual_tokens: int | None = None
    tokens_per_layer: tuple[int, ...] = ()
    flops: int | None = None
    flops_full: int | None = None
    kv_bytes: int | None = None
    kv_bytes_full: int | None = None
    bad_packets: int = 0
    inexact: int = 0
    video: str = ""
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class TimingRecord:
    """One timed prefill, and that of the unreduced model in the same round.

    Attributes
    ----------
    cell, sample
        Key of the cell, and which question was asked.
    round
        Number of the round, from 0.
    ttft, ttft_full
        Seconds from encoded video to first token, under the cell's reducers and without any.
    peak_bytes
        Peak memory of one prefill, measured apart; None in all rounds but the first.
    """

    cell: str
    sample: str
    round: int
    ttft: float
    ttft_full: float
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """What a picture of one cell and question is drawn from.

    Attributes
    ----------
    cell, sample
        Key of the cell, and which question was asked.
    kind
        ``overlay``: frames, and what became of each patch; ``levels``: attention by frame and
        layer.
    document
        JSON; see :mod:`tokenreduce.pictures`.
    """

    cell: str
    sample: str
    kind: str
    document: str


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """Settings of a cell that were solved for a budget.

    Attributes
    ----------
    cell
        Key of the cell as it was before solving.
    document
        JSON; see :class:`tokenreduce.ablations.budget.Solution`.
    """

    cell: str
    document: str


Record = SampleRecord | TimingRecord | PictureRecord | CalibrationRecord
