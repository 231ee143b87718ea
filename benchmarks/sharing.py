"""What shared prefixes save: the eight cells of the paper's table 4, together and one by one.

Two measurements, each interleaved in this process:

1. prefills on a decoder of 32 layers with random weights, under the forced schedule, against the
   arithmetic of the tree;
2. the same cells over the embedded benchmark, against a loop over cells that decodes and encodes
   each video again.

    python benchmarks/sharing.py [--repeats 3] [--clips 8]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any

import torch

from tokenreduce.ablations.forecast import Forecaster, apart, shared
from tokenreduce.ablations.questions import by_video, spread
from tokenreduce.bench.shapes import TextShape, find_shape
from tokenreduce.bench.subject import Subject, shape_subject
from tokenreduce.course import Variant
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.inference import EncodedVideo, answer, answer_each, load
from tokenreduce.session import Session
from tokenreduce.sharing import run_each
from tokenreduce.video import load_video
from tokenreduce_plugins.vas import Vas

RATIOS, INTERVALS = (0.2, 0.3, 0.4, 0.5), (3, 4)
SHAPE = TextShape("llama", 32, 512, 1376, 8, 8, 64, 1024)  # narrow, over VILA1.5-8B's 1568 tokens
TEXT = 64
PREFILL_LIMIT, GRID_LIMIT = 1.1, 0.6


def table_4(start_layer: float, **settings: Any) -> list[Variant]:
    """Return the cells of table 4."""
    return [
        Variant([Vas(ratio=ratio, interval=interval, start_layer=start_layer, **settings)])
        for ratio in RATIOS
        for interval in INTERVALS
    ]


def in_turns(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of calls that take turns, after one that is not timed."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, own in zip(calls, seconds, strict=True):
            began = perf_counter()
            call()
            if turn:
                own.append(perf_counter() - began)
    return [median(own) for own in seconds]


def prefill(subject: Subject, variants: Sequence[Variant]) -> None:
    """Run the prefill under all variants, sharing what they have in common."""
    (reducers, seed), *others = variants
    session = Session(
        subject.model, subject.adapter, reducers, seed=seed, layout=subject.layout, others=others
    )

    def call() -> object:
        return subject.model.generate(**subject.inputs, max_new_tokens=1, do_sample=False)

    for outcome in run_each(session, call):
        if isinstance(outcome, Exception):
            raise outcome


def measure_prefill(repeats: int) -> dict[str, Any]:
    """Time table 4 on a 32-layer decoder, together and one by one."""
    shape = replace(find_shape("llama3-8b"), text=SHAPE)
    subject = shape_subject(
        shape, shape.grid, text=TEXT, dtype="float32", device="cpu", attention="sdpa"
    )
    variants = table_4(6 / 32, trigger_share=1)  # index 5
    forecasts = Forecaster(32).forecasts(subject.layout, variants)
    with torch.no_grad():
        together, alone = in_turns(
            [
                lambda: prefill(subject, variants),
                lambda: [prefill(subject, [variant]) for variant in variants],
            ],
            repeats,
        )
    ideal = shared(forecasts) / apart(forecasts)
    ratio = together / alone
    return {
        "seconds_together": together,
        "seconds_one_by_one": alone,
        "ratio": ratio,
        "ratio_of_token_layers": ideal,
        "over_arithmetic": ratio / ideal,
        "limit": PREFILL_LIMIT,
        "met": ratio / ideal <= PREFILL_LIMIT,
    }


def measure_grid(clips: int, repeats: int) -> dict[str, Any]:
    """Time table 4 over clips of the embedded benchmark."""
    loaded = load("embedded", device="cpu")
    groups = spread(by_video(EmbeddedBenchmark().samples()), clips)
    variants = table_4(6 / 32)
    said: dict[str, list[list[str]]] = {}

    def encoded(path: Any, frames: int | None) -> EncodedVideo:
        video = load_video(path, frames or 16)
        return EncodedVideo(loaded, video.frames, video.timestamps)

    def together() -> None:
        rows = []
        for group in groups:
            video = encoded(group[0].video, group[0].frames)
            for sample in group:
                answers: Any = answer_each(loaded, video.inputs(sample.question), variants)
                rows.append([each.text for each in answers])
        said["together"] = rows

    def one_by_one(*, each_question: bool = False) -> None:
        columns = []
        for variant in variants:
            column = []
            for group in groups:
                video = encoded(group[0].video, group[0].frames)
                for number, sample in enumerate(group):
                    if each_question and number:
                        video = encoded(sample.video, sample.frames)
                    inputs = video.inputs(sample.question)
                    column.append(answer(loaded, inputs, variant.reducers).text)
            columns.append(column)
        said["one by one"] = [list(row) for row in zip(*columns, strict=True)]

    seconds = in_turns([together, one_by_one, lambda: one_by_one(each_question=True)], repeats)
    assert said["together"] == said["one by one"], "shared prefixes changed an answer"
    ratio = seconds[0] / seconds[1]
    return {
        "questions": sum(map(len, groups)),
        "seconds_together": seconds[0],
        "seconds_one_by_one": seconds[1],
        "ratio": ratio,
        "ratio_each_question": seconds[0] / seconds[2],  # whose loop opens the video each time
        "limit": GRID_LIMIT,
        "met": ratio <= GRID_LIMIT,
    }


def main() -> None:
    """Print both measurements for people, and one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "prefill": measure_prefill(options.repeats),
        "embedded grid": measure_grid(options.clips, options.repeats),
    }
    for name, numbers in result.items():
        print(name)
        for key, value in numbers.items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            print(f"  {key:<22} {shown}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
