"""Checks of reducers at work, between the layers of two tiny model families."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenreduce.api import reduce
from tokenreduce.reducer import Reducer
from tokenreduce.testing.check import Check, require
from tokenreduce.testing.families import FAMILIES, Family, Inputs, collate
from tokenreduce.testing.oracle import (
    Recorder,
    dense_merges,
    masked,
    require_close,
)
from tokenreduce.testing.plan_checks import depth_for
from tokenreduce.testing.tiny import IMAGE, VIDEO
from tokenreduce.trace import Trace

NEW_TOKENS = 4

Told = tuple[Any, ...]


def text_untouched(reducer: Reducer) -> None:
    """Every text token is in every layer's cache."""

    def check(family: Family, model: Any) -> None:
        inputs = collate(family.prompts())
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        text = mask & (ids != VIDEO) & (ids != IMAGE)
        for layer, held in enumerate(_run(reducer, model, inputs).kept_positions()):
            for sample, positions in enumerate(held):
                lost = set(text[sample].nonzero().flatten().tolist()) - set(positions)
                require(not lost, f"layer {layer}, sample {sample}: text at {lost} is gone")

    _on_every_family(reducer, check)


def batch_order_does_not_matter(reducer: Reducer) -> None:
    """A sample is reduced in the same way in whatever row of the batch it stands."""

    def check(family: Family, model: Any) -> None:
        prompts = family.prompts()
        one = _run(reducer, model, collate(prompts))
        other = _run(reducer, model, collate(prompts[::-1]))
        for sample in range(len(prompts)):
            require(
                _told(one, sample) == _told(other, len(prompts) - 1 - sample),
                f"sample {sample} is reduced differently as row {len(prompts) - 1 - sample}",
            )

    _on_every_family(reducer, check)


def padding_does_not_matter(reducer: Reducer) -> None:
    """A sample is reduced in the same way with padding in front of it."""

    def check(family: Family, model: Any) -> None:
        prompt = family.prompts()[0]
        bare, padded = (_run(reducer, model, collate([prompt], extra)) for extra in (0, 5))
        require(_told(bare, 0) == _told(padded, 0), "5 tokens of padding change the plan")

    _on_every_family(reducer, check)


def equals_masking_and_averaging(reducer: Reducer) -> None:
    """Dropping equals masking, merging equals a dense average: all logits of the prefill."""

    def check(family: Family, model: Any) -> None:
        for inputs in (collate([family.single(still=2)]), collate(family.prompts())):
            recorder = Recorder(inner=reducer, answers=[])
            length = inputs["input_ids"].shape[1]
            with torch.no_grad():
                with reduce(model, recorder) as run:
                    ours = model(**inputs).logits
                merges = dense_merges(run.trace, [recorder], length)
                with masked(model, run.trace.kept_positions(), length, merges):
                    theirs = model(**inputs).logits
            for sample, row in enumerate(run.logit_positions):
                columns = [column for column, position in enumerate(row) if position >= 0]
                positions = [position for position in row if position >= 0]
                require_close(ours[sample, columns], theirs[sample, positions], f"sample {sample}")

    _on_every_family(reducer, check)


def decodes_as_it_prefilled(reducer: Reducer) -> None:
    """Each decode step on the reduced cache equals one cacheless forward of the masked model."""

    def check(family: Family, model: Any) -> None:
        inputs = collate(family.prompts())
        recorder = Recorder(inner=reducer, answers=[])
        length = inputs["input_ids"].shape[1]
        settings: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True}
        # A placeholder that is generated would ask for one more video in the forward below.
        settings |= {"output_logits": True, "suppress_tokens": [IMAGE, VIDEO]}
        with torch.no_grad():
            with reduce(model, recorder) as run:
                ours = model.generate(**inputs, max_new_tokens=NEW_TOKENS, **settings)
            merges = dense_merges(run.trace, [recorder], length)
            ids = ours.sequences[:, :-1]
            said = torch.ones(len(ids), NEW_TOKENS - 1, dtype=torch.long)
            whole = {"attention_mask": torch.cat([inputs["attention_mask"], said], 1)}
            with masked(model, run.trace.kept_positions(), length, merges):
                theirs = model(**{**inputs, "input_ids": ids, **whole}, use_cache=False).logits
        for step in range(1, NEW_TOKENS):
            require_close(ours.logits[step], theirs[:, length - 1 + step], f"decode step {step}")

    _on_every_family(reducer, check)


def memory_does_not_grow(reducer: Reducer) -> None:
    """Calls leave no tensors behind."""

    def check(family: Family, model: Any) -> None:
        inputs = collate([family.single()])
        _run(reducer, model, inputs)  # what is made once and kept is no growth
        gc.freeze()  # the collector looks at what is new only: a whole process takes it seconds
        try:
            for _ in range(3):
                _run(reducer, model, inputs)
            gc.collect()
            alive = sum(issubclass(type(each), Tensor) for each in gc.get_objects())
        finally:
            gc.unfreeze()
        require(
            alive == 0,
            f"{alive} tensors are left after three calls: keep nothing of what was shown",
        )

    _on_every_family(reducer, check)


def nothing_is_left_on_the_model(reducer: Reducer) -> None:
    """The model, its configuration and transformers' registries are as they were."""

    def check(family: Family, model: Any) -> None:
        inputs = collate([family.single()])
        with torch.no_grad():
            model(**inputs)  # transformers itself keeps things from the first forward on
        before = state_of(model)
        _run(reducer, model, inputs)
        require(state_of(model) == before, "hooks, attributes or settings stay on the model")

    _on_every_family(reducer, check)


def state_of(model: Any) -> tuple[Any, ...]:
    """Return all that a session could leave on a model or in transformers' registries."""
    from transformers import AttentionInterface, AttentionMaskInterface

    modules = {
        name: (
            type(module),
            sorted(module.__dict__),
            len(module._forward_pre_hooks),
            len(module._forward_hooks),
        )
        for name, module in model.named_modules()
    }
    registries = (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping)
    implementation = model.get_decoder().config._attn_implementation
    weights = [(id(value), value._version) for value in model.parameters()]
    return modules, [*map(sorted, registries)], model.config.to_dict(), implementation, weights


def _on_every_family(reducer: Reducer, check: Callable[[Family, Any], None]) -> None:
    """Run a check on each family, under its name; a model is fresh for every check."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors lose more to a second thread than they gain: 5 times
    try:
        for family in FAMILIES:
            model = family.model(depth_for(reducer))
            try:
                check(family, model)
            except Exception as error:
                error.add_note(f"on the tiny family '{family.name}'")
                raise
    finally:
        torch.set_num_threads(threads)


def _run(reducer: Reducer, model: Any, inputs: Inputs) -> Trace:
    """Prefill once; what a plan has no right to depend on is the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.no_grad(), reduce(model, reducer) as run:
            model(**inputs)
    return run.trace


def _told(trace: Trace, sample: int) -> list[Told]:
    """Return what was done to one sample, without positions in the batch and times."""
    own = [event for event in trace.events if event.sample == sample]
    return [(event.layer, event.kept, event.merged, event.note) for event in own]


MODEL_CHECKS = (
    Check(text_untouched),
    Check(batch_order_does_not_matter),
    Check(padding_does_not_matter),
    Check(equals_masking_and_averaging),
    Check(decodes_as_it_prefilled),
    Check(memory_does_not_grow),
    Check(nothing_is_left_on_the_model),
)
