"""Which of the paper's numbers cannot be had on this machine, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from tokenreduce.paper.comparison import columns
from tokenreduce.paper.published import AVERAGE, BENCHMARKS, JUDGED
from tokenreduce.paper.recipes import Recipe

JUDGE_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True, slots=True)
class Ours:
    """What our numbers are made of.

    Attributes
    ----------
    model, benchmark
        As people call them.
    known
        The paper's model that it is; None: none of them.
    asked
        The paper's benchmark that was asked; None: none of them.
    device
        Where the model runs.
    timed
        Whether the recipe times anything.
    """

    model: str
    benchmark: str
    known: str | None
    asked: str | None
    device: str
    timed: bool = True


def missing(recipe: Recipe, ours: Ours) -> list[str]:
    """Return a sentence for each group of the paper's numbers that was not had."""
    return [] if recipe.table is None else list(_missing(recipe, ours))


def _missing(recipe: Recipe, ours: Ours) -> Iterator[str]:
    models = [model for model in recipe.published if model != ours.known]
    if models:
        yield (
            f"rows of {', '.join(models)}: no checkpoint of theirs was given; "
            "--model DIR, one at a time."
        )
    yield from _benchmarks(recipe, ours)
    judged = [name for name in columns(recipe) if name in JUDGED]
    if judged:
        key = "is set" if os.environ.get(JUDGE_KEY) else "is not set"
        yield (
            f"judged accuracy and marks of {', '.join(judged)}: a GPT model gives them, for which "
            f"{JUDGE_KEY} {key}; without it an answer is right if the words are said."
        )
    if ours.timed and not ours.device.startswith("cuda"):
        yield f"times of a GPU: ours are of the device '{ours.device}'."
    elif ours.timed:
        yield "times of the paper's own GPU, which it does not name: ours are of another."


def _benchmarks(recipe: Recipe, ours: Ours) -> Iterator[str]:
    needed = {
        known: name
        for column in columns(recipe)
        for known, name in BENCHMARKS.items()
        if column.startswith(known) and known != ours.asked
    }
    if needed:
        names = ", ".join(f"{title} ({name})" for title, name in needed.items())
        yield f"accuracy on {names}: not asked here; --benchmark NAME, one at a time."
    if any(name.startswith("lmms:") for name in needed.values()) and find_spec("lmms_eval") is None:
        yield (
            "names with lmms: need the extra tokenreduce[lmms], which is not installed, and the "
            "data of the task on this machine."
        )
    if AVERAGE in columns(recipe) and ours.asked is not None:
        yield "the average over all benchmarks: one was asked."
