"""Where models, benchmarks and videos lie, said so that every process finds them.

What cells are known by stays as it was written: a results folder goes on wherever its project is
moved to, as long as it is called from the same place in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tokenreduce.config import EMBEDDED_MODEL

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Sample
    from tokenreduce.cells import Setup


def located(setup: Setup, benchmark: Benchmark) -> Setup:
    """Return a setup with absolute paths: the folder of its model, and its benchmark's files.

    Parameters
    ----------
    setup
        As it was written, relative to the working directory.
    benchmark
        Made of its settings; those that are paths there are paths here.
    """
    model = setup.model
    files = {
        name: str(value.absolute())
        for name, value in benchmark
        if isinstance(value, Path) and name in setup.benchmark
    }
    return replace(
        setup,
        model=model if model == EMBEDDED_MODEL else str(Path(model).absolute()),
        benchmark={**setup.benchmark, **files},
    )


def located_sample(sample: Sample) -> Sample:
    """Return a question about the absolute path of its video."""
    return replace(sample, video=sample.video.absolute())
