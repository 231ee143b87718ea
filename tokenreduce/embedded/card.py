"""The model card, written from measured numbers only."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from tokenreduce.embedded.evaluate import Condition
from tokenreduce.embedded.questions import CATEGORIES, CHANCE, COLOURS, SHAPES, TEMPLATES

Row = Mapping[str, float | str]
Scores = Mapping[str, Mapping[str, tuple[int, int]]]

HEADER = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video, synthetic, tiny]
---

# tokenreduce embedded model

A tiny video-language model ({parameters:,} parameters, {megabytes:.1f} MB in bf16) for trying token
reducers without a GPU, a network or a checkpoint. It is a standard
`LlavaOnevisionForConditionalGeneration`: SigLIP tower 3 x 96 on 64 px frames, 16 tokens per frame
and one newline token per video, Qwen2 decoder 14 x 128. It answers ten kinds of one-word questions
about synthetic clips and knows nothing else.

Licence: Apache-2.0. Data and weights were made by this project; nothing was downloaded.

## How it was trained

`python -m tokenreduce.embedded.train --seed {seed}` made these weights in {steps:,} steps and
{minutes:.0f} minutes of wall clock on 2 CPU cores (one process with one thread per core, bf16).
A stopped run goes on from its last checkpoint and gives the same result.

| stage | steps | clips | minutes | loss at its end |
|---|---|---|---|---|
{stages}

Ideas that made it work, and that plain training lacks: the vision tower first, by naming the
object in a cell; mimetic attention weights from layer 6 on; single frames before videos; in a
share of the batches words do not see the video below layer 6, so that reducers that act earlier
have something to lose; motion, ordinal and time words as targets of visual tokens just below that
layer; and, for questions in two steps, targets for *where* the second step looks (half of the
heads of layer 9) and for what the named shape's word knows after layers 7 and 10. Without the last
of these the two-hop question stayed at chance. The whole curve is in `curve.csv`.

## Data

64 x 64 px clips from integer arithmetic on PCG64 words: ten shapes, eight colours, three sizes,
drifting grey texture, flickering dots in object colours, noise. Eight different shapes of a clip
play roles: two move, two stay, three are seen in one frame each, one appears one to four times in
changing colours. Training draws endless new clips; the benchmark's clips come from another domain
of seeds and are rendered to H.264 files at 256 x 256 px.

| category | question | chance |
|---|---|---|
{questions}

## Accuracy

Measured on the benchmark's `full` split through the mp4 files and the ordinary video path, in
float32, an answer counting only if the end-of-turn token follows it.

{accuracy}

What is taken away costs (accuracy over all categories):

{conditions}

*wrong clip*: the video tokens are those of another clip of the same length. *text only*: there are
none. *random 50 % after layer 2*: half of the visual tokens are removed after layer index 2.

## Limits

These are the numbers of one tiny model, of one seed, on one synthetic benchmark. They rank
reducers by how well they keep single cells of single frames that a question asks about, and say
nothing about models of billions of parameters. It knows these words only; others are read as
`<unk>`. Clips longer than 16 frames were rare in training (see the table of stages).

{words}
"""


def _rate(pair: tuple[int, int]) -> str:
    return f"{pair[0] / pair[1]:.3f}"


def _lengths(scores: Scores) -> list[str]:
    return sorted((k for k in scores if k != "all"), key=int)


def accuracy_table(scores: Scores) -> str:
    """Markdown table: category by frames, with the number of questions."""
    lengths = _lengths(scores)
    lines = [
        "| category | " + " | ".join(f"F = {n}" for n in lengths) + " | all | questions |",
        "|---|" + "---|" * (len(lengths) + 2),
    ]
    for category in (*CATEGORIES, "all"):
        cells = [_rate(scores[n][category]) for n in (*lengths, "all")]
        lines.append(f"| {category} | {' | '.join(cells)} | {scores['all'][category][1]} |")
    return "\n".join(lines)


def conditions_table(measured: Mapping[Condition, Scores]) -> str:
    """Markdown table: condition by frames."""
    lengths = _lengths(next(iter(measured.values())))
    lines = [
        "| condition | " + " | ".join(f"F = {n}" for n in lengths) + " | all |",
        "|---|" + "---|" * (len(lengths) + 1),
    ]
    for condition, scores in measured.items():
        cells = [_rate(scores[n]["all"]) for n in (*lengths, "all")]
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def stages_table(curve: Sequence[Row], clips: Mapping[str, str]) -> str:
    """Markdown rows: what each stage did, from the last row of the curve that belongs to it."""
    last = {str(row["stage"]): row for row in curve}
    lines, before = [], 0.0
    for name, row in last.items():
        seconds = float(row["seconds"])
        minutes = (seconds - before) / 60
        lines.append(f"| {name} | {row['step']} | {clips[name]} | {minutes:.1f} | {row['loss']} |")
        before = seconds
    return "\n".join(lines)


def model_card(
    *,
    measured: Mapping[Condition, Scores],
    curve: Sequence[Row],
    clips: Mapping[str, str],
    seed: int,
    parameters: int,
    bytes_on_disk: int,
) -> str:
    """Return the model card in Markdown.

    Parameters
    ----------
    measured : mapping
        Condition -> frames or "all" -> category or "all" -> (right, asked).
    curve : sequence of mapping
        Rows with stage, step, seconds and loss.
    clips : mapping
        Stage -> which clips it saw.
    seed, parameters, bytes_on_disk : int
    """
    steps = {str(row["stage"]): int(row["step"]) for row in curve}
    questions = (f"| {c} | {TEMPLATES[c]} | {CHANCE[c]:.2f} |" for c in CATEGORIES)
    return HEADER.format(
        parameters=parameters,
        megabytes=bytes_on_disk / 1e6,
        seed=seed,
        minutes=float(curve[-1]["seconds"]) / 60,
        steps=sum(steps.values()),
        stages=stages_table(curve, clips),
        questions="\n".join(questions),
        accuracy=accuracy_table(measured["none"]),
        conditions=conditions_table(measured),
        words=textwrap.fill(f"Shapes: {', '.join(SHAPES)}. Colours: {', '.join(COLOURS)}.", 100),
    )
