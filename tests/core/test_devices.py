"""Weights on the CPU or on disk by accelerate's hooks, and half precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import tokenreduce
from tests.adapters.families import gemma3, mistral3
from tests.adapters.families.gemma3 import tiny_gemma3
from tests.adapters.families.mistral3 import tiny_mistral3
from tests.adapters.family import ready
from tokenreduce import Reducer
from tokenreduce.testing.oracle import Recorder, dense_merges, masked
from tokenreduce.testing.tiny import ragged, tiny_onevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.tome import ToMe

SETTINGS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
REDUCERS = {"fastv": FastV(layer=1), "pyramid": PyramidDrop(layers=(1, 3)), "tome": ToMe(r=3)}
MODELS = {"gemma3": (tiny_gemma3, gemma3.ragged), "mistral3": (tiny_mistral3, mistral3.ragged)}


def on_cpu(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def on_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def split(model: Any, folder: Path) -> Any:
    """Every second layer on disk, the rest in memory, as a ``device_map`` has it."""
    model.save_pretrained(folder / "saved")
    decoder = ["embed_tokens", "norm", "rotary_emb", *(f"layers.{k}" for k in range(6))]
    inner = ["vision_tower", "multi_modal_projector", *(f"language_model.{n}" for n in decoder)]
    places = {f"model.{n}": "disk" if n[-1] in "135" else "cpu" for n in inner}
    loaded = type(model).from_pretrained(
        folder / "saved",
        device_map={**places, "lm_head": "cpu"},
        offload_folder=folder / "offloaded",
    )
    return ready(loaded)


def generated(model: Any, reducer: Reducer, inputs: dict[str, Any]) -> tuple[Any, Any]:
    with torch.no_grad(), tokenreduce.reduce(model, reducer) as run:
        return model.generate(**inputs, max_new_tokens=8, **SETTINGS), run.trace


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("place", [on_cpu, on_disk, split])
def test_offloaded_models_generate_what_the_plain_one_does(
    place: Callable[[Any, Path], Any], name: str, family: str, tmp_path: Path
) -> None:
    make, inputs = MODELS[family]
    model = place(make(), tmp_path)
    weights = [weight.device.type for weight in model.parameters()]
    assert "meta" in weights
    expected, trace = generated(make(), REDUCERS[name], inputs())
    ours, offloaded = generated(model, REDUCERS[name], inputs())
    assert torch.equal(ours.sequences, expected.sequences)
    for mine, theirs in zip(ours.logits, expected.logits, strict=True):
        assert torch.equal(mine, theirs)
    assert offloaded.kept_positions() == trace.kept_positions()
    assert trace.img_memory < 1
    # Weights that were fetched for a look at the next layer have been put back.
    assert [weight.device.type for weight in model.parameters()] == weights


HALF = {"random": Random(layers=[0, 2]), "spatial": SpatialAverage(layers=[0, 2])}
HALF_TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}


@pytest.mark.parametrize("dtype", HALF_TOLERANCE, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", HALF)
def test_half_precision_keeps_the_same_tokens(name, attention, dtype):
    """These two do not look at the data: what is kept may not depend on the precision."""
    inputs = ragged()
    _, full = generated(tiny_onevision(attention=attention), HALF[name], inputs)
    _, half = generated(in_half(attention, dtype), HALF[name], cast(inputs, dtype))
    assert half.kept_positions() == full.kept_positions()
    assert half.img_memory < 1


@pytest.mark.parametrize("dtype", HALF_TOLERANCE, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*REDUCERS, *HALF])
def test_half_precision_is_near_the_oracle(name, attention, dtype):
    """Scores are finite, and logits differ from the oracle's by the type's own rounding."""
    recorder = Recorder(inner=(REDUCERS | HALF)[name], answers=[])
    model, inputs = in_half(attention, dtype), cast(ragged(), dtype)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), tokenreduce.reduce(model, recorder) as run:
        ours = model(**inputs).logits
    merges = dense_merges(run.trace, [recorder], length)
    with torch.no_grad(), masked(model, run.trace.kept_positions(), length, merges):
        theirs = model(**inputs).logits
    assert ours.dtype == dtype
    for event in run.trace.events:
        assert event.scores is None or finite(event.scores)
    scale = theirs.abs().max()
    for sample, row in enumerate(run.logit_positions):
        columns = [column for column, position in enumerate(row) if position >= 0]
        positions = [position for position in row if position >= 0]
        difference = (ours[sample, columns] - theirs[sample, positions]).abs().max()
        assert difference <= HALF_TOLERANCE[dtype] * scale


def in_half(attention: str, dtype: torch.dtype) -> Any:
    return tiny_onevision(attention=attention).to(dtype)


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}


def finite(scores: Any) -> bool:
    return bool(torch.tensor(scores).isfinite().all())
