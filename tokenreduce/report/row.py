"""The numbers of one row, and of two rows compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The accuracy of two rows on the questions that both answered in every seed.

    Attributes
    ----------
    first, second
        Labels.
    pairs
        Questions that both answered.
    difference
        Accuracy of the first minus that of the second; None without a pair.
    interval
        Its 95 % bootstrap interval over videos; None if there are fewer than two.
    first_only, second_only
        Questions that the first, or the second, got right in more of its seeds.
    p_value
        Of McNemar's exact test on these two counts, which takes questions as independent.
    p_clustered
        Of a t-test of the difference that takes only videos as independent.
    p_adjusted
        Holm's correction of the larger of the two for the comparisons that were made together; None
        for one alone.
    verdict
        What may be said about the first row: ``better`` or ``worse`` only if both p-values,
        corrected if they were, are at most 0.05 and the interval does not hold 0.
    """

    first: str
    second: str
    pairs: int
    difference: float | None
    interval: Interval | None
    first_only: int
    second_only: int
    p_value: float
    p_clustered: float
    p_adjusted: float | None
    verdict: Verdict

    @property
    def p(self) -> float:
        """The p-value that counts: the larger one, corrected if it was."""
        larger = max(self.p_value, self.p_clustered)
        return larger if self.p_adjusted is None else self.p_adjusted


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one row, over all its seeds; its fields are the keys of the JSON document.

    Attributes
    ----------
    label
        Name of the row.
    reducer, settings
        Its reducers, joined by ``+``, and their settings; a list, if there are several.
    accuracy
        Share of the answered questions that are right; None if none was answered. A question that
        was asked under several seeds counts as the share of them that were right.
    accuracy_interval
        Its 95 % Wilson interval, widened for questions that share a video
        (:func:`tokenreduce.statistics.clustered_wilson`). Other seeds ask the same questions, so
        they do not make it narrower.
    categories, lengths
        Accuracy by category, and by frames of the clip.
    img_memory, flops_ratio, kv_ratio
        Mean over the answered questions of visual tokens in the KV cache averaged over the layers,
        FLOPs of the prefill and bytes of keys and values, each as a share of no reduction.
    tokens_per_layer
        Visual tokens in the cache of each layer, mean over the answered questions.
    ttft_speedup, ttft_interval
        Median over timed questions and rounds of baseline time / own time, and its 95 % bootstrap
        interval over questions.
    ttft_ms
        Median time from encoded video to first token, in milliseconds.
    peak_memory_mb
        Largest peak memory of one prefill in 10^6 bytes.
    samples, failed
        How often a question was asked (once for each seed), and how often there was no answer.
    questions, planned
        Questions that were asked in every seed, and those that are to be; None if that is unknown.
    seeds
        Of the reducers' random choices.
    summary
        The settings that were written out, for people.
    budget
        What the settings were solved for: ``measure``, ``target`` and ``tolerance``; what was
        ``reached`` on the questions held out for solving, and whether that is ``within`` the
        tolerance; and a ``note``, such as why the target cannot be reached and what is nearest.
    comparison
        With the baseline, corrected over the table; None for the baseline itself.
    """

    label: str
    reducer: str
    settings: Any
    accuracy: float | None
    accuracy_interval: Interval | None
    categories: Mapping[str, float]
    img_memory: float | None
    flops_ratio: float | None
    ttft_speedup: float | None
    ttft_ms: float | None
    peak_memory_mb: float | None
    samples: int
    failed: int
    kv_ratio: float | None = None
    tokens_per_layer: tuple[float, ...] = ()
    ttft_interval: Interval | None = None
    lengths: Mapping[str, float] = field(default_factory=dict)
    questions: int = 0
    planned: int | None = None
    seeds: tuple[int, ...] = (0,)
    summary: str = ""
    budget: Mapping[str, Any] | None = None
    comparison: Comparison | None = None

    @property
    def finished(self) -> bool:
        """Whether every question was asked."""
        return self.planned is None or self.questions >= self.planned
