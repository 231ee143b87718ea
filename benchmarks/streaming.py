"""What decoding ahead saves: how long the model waits for frames, and how many bytes of them wait.

Three measurements, in this process with one thread for the model:

1. the embedded benchmark, a few questions about each of many small clips;
2. clips of 1920 x 1080 that are rendered here, with so many questions about each that the model
   works longer than decoding takes, without which nobody can keep it busy;
3. more of these clips with fewer questions, for the bytes of frames that are held.

And the embedded benchmark in worker processes, one per core, where no core is free to decode.

    python benchmarks/streaming.py [--clips 10] [--many 40] [--questions 24]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from tokenreduce.ablations.questions import by_video, spread
from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.clips import AHEAD
from tokenreduce.config import written
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.engines import engine
from tokenreduce.plugins import load_plugins
from tokenreduce.units import Unit
from tokenreduce.worker import ModelWorker, make_worker
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.vas import Vas

SETUP = Setup("embedded", {"use": "embedded"}, device="cpu", max_new_tokens=4)
REDUCERS = (KeepAll(), Vas(), FastV())
LIMIT = 0.1
FEW = 2  # questions, where only memory is looked at
WIDTH, HEIGHT, RATE, SECONDS = 1920, 1080, 24, 5


def units_of(groups: Sequence[Sequence[Sample]]) -> list[Unit]:
    """Return a unit for each video, with all reducers."""
    cells = tuple(
        (each.name, Cell(SETUP, each.name, each.name, (written(each),))) for each in REDUCERS
    )
    return [Unit("answers", SETUP, tuple(samples), cells) for samples in groups]


def embedded(videos: int) -> list[Unit]:
    """Return units of the embedded benchmark."""
    return units_of(spread(by_video(EmbeddedBenchmark().samples()), videos))


def render(path: Path, seed: int) -> None:
    """Write a picture of noise and gradients that moves."""
    import av
    import numpy as np

    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    picture = noise.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        for number in range(RATE * SECONDS):
            moved = np.roll(picture, (3 * number, 7 * number), (0, 1))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        out.mux(stream.encode())


def large(folder: Path, clips: int, questions: int) -> list[Unit]:
    """Return units about clips of 1080p, two that are rendered under many names."""
    rendered = [folder / f"rendered{seed}.mp4" for seed in range(2)]
    for seed, file in enumerate(rendered):
        if not file.exists():
            render(file, seed)
    groups = []
    for clip in range(clips):
        path = folder / f"clip{clip}.mp4"
        if not path.exists():
            os.link(rendered[clip % 2], path)
        groups.append(
            [
                Sample(f"{clip}-{number}", path, f"What is in part {number}?", "-", "-", frames=8)
                for number in range(questions)
            ]
        )
    return units_of(groups)


def measure(units: Sequence[Unit], ahead: int) -> dict[str, Any]:
    """Run units in this process, and see how long the model waits for frames."""
    worker = ModelWorker(load_plugins().registry, ahead=ahead)
    worker.load(SETUP)
    answers = 0

    def write(record: Any) -> None:
        nonlocal answers
        assert record.error is None, record.error
        answers += 1

    with engine("local", 0) as inline:
        began = perf_counter()
        inline.run(units, lambda: worker, write)
        seconds = perf_counter() - began
    assert answers == sum(len(unit.todo()) for unit in units)
    return {
        "seconds": seconds,
        "waited": worker.clips.waited,
        "idle": worker.clips.waited / seconds,
        "peak_mib": worker.clips.peak / 2**20,
    }


def with_and_without(units: Sequence[Unit]) -> dict[str, Any]:
    """Measure the same units without decoding ahead and with it."""
    without, ahead = measure(units, 0), measure(units, AHEAD)
    clips = len(units)
    return {
        "clips": clips,
        "answers": sum(len(unit.todo()) for unit in units),
        "decoding_s_per_clip": without["waited"] / clips,
        "model_s_per_clip": (without["seconds"] - without["waited"]) / clips,
        "idle_without": without["idle"],
        "idle_ahead": ahead["idle"],
        "seconds_without": without["seconds"],
        "seconds_ahead": ahead["seconds"],
        "peak_mib_without": without["peak_mib"],
        "peak_mib_ahead": ahead["peak_mib"],
        "limit": LIMIT,
        "met": ahead["idle"] <= LIMIT,
    }


def in_processes(units: Sequence[Unit], repeats: int = 2) -> dict[str, Any]:
    """Time units in one worker process per core, in turns, after a round that is not timed."""
    pools = [engine("local", small=True, device="cpu") for _ in range(2)]
    makers = [partial(make_worker, (), False, ahead) for ahead in (0, AHEAD)]
    seconds: list[list[float]] = [[], []]
    for pool, make in zip(pools, makers, strict=True):
        pool.run(units, make, lambda record: None)
    for _ in range(repeats):
        for pool, make, own in zip(pools, makers, seconds, strict=True):
            began = perf_counter()
            pool.run(units, make, lambda record: None)
            own.append(perf_counter() - began)
    for pool in pools:
        pool.close()
    without, ahead = map(median, seconds)
    return {
        "workers": pools[0].about()[0],
        "seconds_without": without,
        "seconds_ahead": ahead,
        "ratio": ahead / without,
    }


def main() -> None:
    """Print the measurements for people, and one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--many", type=int, default=40)
    parser.add_argument("--questions", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = embedded(options.clips)
    measure(small[:2], 0)  # what is loaded and set up at first use
    result = {
        "embedded": with_and_without(small),
        "embedded in processes": in_processes(small[:6]),
    }
    with tempfile.TemporaryDirectory() as folder:
        few = large(Path(folder), options.clips, options.questions)
        many = large(Path(folder), options.many, FEW)
        result["1080p"] = with_and_without(few)
        held = [result["1080p"]["peak_mib_ahead"], measure(many, AHEAD)["peak_mib"]]
    result["memory"] = {
        "clips": [options.clips, options.many],
        "peak_mib": held,
        "met": all(later <= earlier for earlier, later in pairwise(held)),
    }
    for name, numbers in result.items():
        print(name)
        for key, value in numbers.items():
            shown = f"{value:.4f}" if isinstance(value, float) else value
            shown = ("met" if value else "missed") if key == "met" else shown
            print(f"  {key:<22} {shown}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
