"""Token reducers between the decoder layers of Hugging Face video-language models.

>>> import tokenreduce
>>> with tokenreduce.reduce(model, "vas", ratio=0.3) as run:  # doctest: +SKIP
...     out = model.generate(**inputs, max_new_tokens=32)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokenreduce.hookspecs import hookimpl

if TYPE_CHECKING:
    from tokenreduce.ablations.run import ablate
    from tokenreduce.adapter import ModelAdapter
    from tokenreduce.api import reduce
    from tokenreduce.benchmark import Benchmark
    from tokenreduce.errors import TokenReduceError
    from tokenreduce.inference import load
    from tokenreduce.layout import Layout
    from tokenreduce.plan import Plan
    from tokenreduce.reducer import Reducer, ScoringReducer
    from tokenreduce.results import Results
    from tokenreduce.trace import Trace
    from tokenreduce.video import load_video
    from tokenreduce.view import View

__all__ = [
    "Benchmark",
    "Layout",
    "ModelAdapter",
    "Plan",
    "Reducer",
    "Results",
    "ScoringReducer",
    "TokenReduceError",
    "Trace",
    "View",
    "ablate",
    "hookimpl",
    "load",
    "load_video",
    "reduce",
]

_HOMES = {
    "Benchmark": "benchmark",
    "Layout": "layout",
    "ModelAdapter": "adapter",
    "Plan": "plan",
    "Reducer": "reducer",
    "Results": "results",
    "ScoringReducer": "reducer",
    "TokenReduceError": "errors",
    "Trace": "trace",
    "View": "view",
    "ablate": "ablations.run",
    "load": "inference",
    "load_video": "video",
    "reduce": "api",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that `import tokenreduce` imports neither torch nor transformers.
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenreduce' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tokenreduce.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
