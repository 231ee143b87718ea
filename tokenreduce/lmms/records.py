"""What came of each question in a run of lmms-eval: one line of JSON, and the means of all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenreduce.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer, and what it took.

    Attributes
    ----------
    text
        The answer; empty where the question failed.
    error
        Why it failed; None where it did not.
    visual_tokens
        Visual tokens before any reduction.
    tokens_per_layer
        Visual tokens in the cache of each decoder layer.
    flops_ratio
        FLOPs of the prefill as a share of the unreduced one's.
    ttft, seconds
        Seconds from encoded video to the first token, and to the last; of the whole batch.
    input_tokens, output_tokens
        Of the prompt, visual ones before reduction included, and of the answer.
    batch
        Questions in the same ``generate``.
    """

    text: str = ""
    error: str | None = None
    visual_tokens: int | None = None
    tokens_per_layer: tuple[int, ...] = ()
    flops_ratio: float | None = None
    ttft: float | None = None
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    batch: int = 1

    @property
    def kept_tokens(self) -> float | None:
        """Visual tokens in the cache of a decoder layer, the mean over layers."""
        return fmean(self.tokens_per_layer) if self.tokens_per_layer else None

    @property
    def img_memory(self) -> float | None:
        """``kept_tokens`` as a share of ``visual_tokens``."""
        if self.kept_tokens is None or not self.visual_tokens:
            return None
        return self.kept_tokens / self.visual_tokens


def line_of(answer: Answered, task: str, split: str, doc_id: Any) -> str:
    """Return the record of one question: a line of JSON."""
    values = asdict(answer)
    return json.dumps(
        {
            "task": task,
            "split": split,
            "doc_id": doc_id,
            "prediction": values.pop("text"),
            **values,
            "kept_tokens": answer.kept_tokens,
            "img_memory": answer.img_memory,
        },
        ensure_ascii=False,
    )


def write_records(file: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, making its folder.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise ConfigError(
            f"the records cannot be written to '{file}' ({error.strerror}): give records=FILE."
        ) from error


def means(answers: Sequence[Answered]) -> Mapping[str, float]:
    """Return the mean of each measure over the questions that were answered, and what failed."""
    named = ("ttft", "kept_tokens", "img_memory", "flops_ratio")
    found: dict[str, float] = {}
    for name in named:
        values = [getattr(answer, name) for answer in answers]
        if numbers := [value for value in values if value is not None]:
            found[name] = fmean(numbers)
    return {**found, "failed_samples": float(sum(a.error is not None for a in answers))}
