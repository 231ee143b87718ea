"""Position policies against the bare model with masks and rotary embeddings made by hand."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import pytest
import torch

import tokenreduce
from tokenreduce.errors import UnsupportedError
from tokenreduce.testing.oracle import Recorder, dense_merges, masked
from tokenreduce.testing.tiny import batch, ragged, single, tiny_onevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc

SETTINGS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def rotated(model: Any, ids_of: Any) -> ExitStack:
    """Give layer ``k`` the rotary embeddings of ``ids_of(k, sample, position)``, and no others."""
    decoder = model.get_decoder()
    stack = ExitStack()

    def hook_for(number: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            cache = kwargs["past_key_values"]
            past = cache.layers[number].get_seq_length() if number < len(cache.layers) else 0
            ids = torch.tensor(
                [
                    [ids_of(number, row, past + q) for q in range(hidden.shape[1])]
                    for row in range(hidden.shape[0])
                ]
            )
            rope = decoder.rotary_emb(hidden, ids)
            return args, {**kwargs, "position_embeddings": rope}

        return hook

    for number, layer in enumerate(decoder.layers):
        handle = layer.register_forward_pre_hook(hook_for(number), with_kwargs=True)
        stack.callback(handle.remove)
    return stack


REDUCERS = {
    "fastv": FastV(),
    "random": Random(layers=[0, 2]),
    "vas": Vas(start_layer=1, end_layer=4, interval=2, axis="tokens"),
    "vcc": Vcc(stride=3),
    "tome": ToMe(r=3),
}


def real_ids(inputs: dict[str, Any]) -> list[list[int]]:
    """Return the ids that ``generate`` gives the prompt: padding is not counted."""
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0).tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", [single, ragged])
@pytest.mark.parametrize("name", REDUCERS)
def test_renumbered_positions(name, inputs, attention):
    model, prompt = tiny_onevision(attention=attention), inputs()
    recorder = Recorder(inner=REDUCERS[name], answers=[])
    length = prompt["input_ids"].shape[1]
    with torch.no_grad(), tokenreduce.reduce(model, recorder, positions="renumber") as run:
        ours = model.generate(**prompt, max_new_tokens=8, **SETTINGS)
    held = run.trace.kept_positions()
    rank = [[{p: i for i, p in enumerate(row)} for row in layer] for layer in held]

    def ids_of(layer: int, sample: int, position: int) -> int:
        if position >= length:
            return len(rank[layer][sample]) + position - length
        return rank[layer][sample].get(position, 0)

    merges = dense_merges(run.trace, [recorder], length)
    with torch.no_grad(), masked(model, held, length, merges), rotated(model, ids_of):
        expected = model.generate(**prompt, max_new_tokens=8, **SETTINGS)
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        assert (one - other).abs().max() <= 1e-4


@pytest.mark.parametrize("inputs", [single, ragged])
@pytest.mark.parametrize("name", ["vcc", "tome"])
def test_mean_positions(name, inputs):
    model, prompt = tiny_onevision(), inputs()
    recorder = Recorder(inner=REDUCERS[name], answers=[])
    length = prompt["input_ids"].shape[1]
    with torch.no_grad(), tokenreduce.reduce(model, recorder, positions="mean") as run:
        ours = model.generate(**prompt, max_new_tokens=8, **SETTINGS)
    held = run.trace.kept_positions()
    ids = real_ids(prompt)
    position_of = [
        {
            (int(i), int(f), int(r), int(c)): p
            for p, (role, i, f, r, c) in enumerate(zip(*columns, strict=True))
            if role == 1
        }
        for columns in grid_columns(model, prompt)
    ]
    # Per layer and sample, the id of every carrier: the floored mean over all its originals.
    means: list[list[dict[int, int]]] = [[{} for _ in ids] for _ in range(6)]
    for event in run.trace.events:
        cells = position_of[event.sample]
        groups = {}
        for group in event.merged:
            members = [cells[cell] for cell in group]
            total = sum(ids[event.sample][p] for p in members)
            groups[members[0]] = int(Fraction(total, len(members)) // 1)
        for layer in range(event.layer + 1, 6):
            means[layer][event.sample] = groups

    def ids_of(layer: int, sample: int, position: int) -> int:
        if position >= length:
            return ids[sample][-1] + 1 + position - length
        return means[layer][sample].get(position, ids[sample][position])

    merges = dense_merges(run.trace, [recorder], length)
    with torch.no_grad(), masked(model, held, length, merges), rotated(model, ids_of):
        expected = model.generate(**prompt, max_new_tokens=8, **SETTINGS)
    assert any(means[5])
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        assert (one - other).abs().max() <= 1e-4


def grid_columns(model: Any, prompt: dict[str, Any]) -> Any:
    from tokenreduce_model_adapters.llava_onevision import LlavaOnevision

    layout = LlavaOnevision().layout(model, prompt)
    names = ("role", "item", "frame", "row", "column")
    return [
        [getattr(layout, name)[sample].tolist() for name in names] for sample in range(layout.batch)
    ]


def test_policies_differ_and_keep_is_the_default():
    model = tiny_onevision()

    def logits(**options: Any) -> Any:
        with torch.no_grad(), tokenreduce.reduce(model, "vcc", stride=3, **options):
            return model(**single()).logits

    keep, renumber, mean = (logits(positions=p) for p in ("keep", "renumber", "mean"))
    assert torch.equal(keep, logits())
    assert not torch.allclose(keep, renumber, atol=1e-3)
    assert not torch.allclose(keep, mean, atol=1e-3)


def test_renumbering_holds_over_turns():
    """What a layer holds is numbered without gaps, over both turns and the answers between."""
    model, prompt = tiny_onevision(), single()
    with torch.no_grad(), tokenreduce.reduce(model, FastV(), positions="renumber") as run:
        first = model.generate(**prompt, max_new_tokens=4, **SETTINGS)
        ids = torch.cat([first.sequences, torch.tensor([[31, 121, 121, 121, 121, 121, 32, 33]])], 1)
        second = {
            **batch([[1]], 1, 1, seed=7),
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
        }
        ours = model.generate(
            **second, max_new_tokens=4, past_key_values=first.past_key_values, **SETTINGS
        )
    one, two = run.traces
    length, total = prompt["input_ids"].shape[1], ids.shape[1]

    def ids_for(held: Any, prompt_length: int) -> Any:
        rank = [[{p: i for i, p in enumerate(row)} for row in layer] for layer in held]

        def ids_of(layer: int, sample: int, position: int) -> int:
            if position >= prompt_length:
                return len(rank[layer][sample]) + position - prompt_length
            return rank[layer][sample].get(position, 0)

        return ids_of

    with torch.no_grad():
        held = one.kept_positions()
        with masked(model, held, length), rotated(model, ids_for(held, length)):
            bare = model.generate(**prompt, max_new_tokens=4, **SETTINGS)
        held = two.kept_positions()
        with masked(model, held, total), rotated(model, ids_for(held, total)):
            expected = model.generate(
                **second, max_new_tokens=4, past_key_values=bare.past_key_values, **SETTINGS
            )
    assert torch.equal(ours.sequences, expected.sequences)
    for mine, other in zip(ours.logits, expected.logits, strict=True):
        assert (mine - other).abs().max() <= 1e-4


@pytest.mark.parametrize("policy", ["renumber", "mean"])
def test_positions_on_three_axes_are_only_kept(policy):
    model = tiny_onevision()
    model.config.text_config.rope_parameters["mrope_section"] = [1, 1, 2]
    with (
        pytest.raises(UnsupportedError, match=r"time, row, column"),
        tokenreduce.reduce(model, "fastv", positions=policy),
    ):
        pass
    with tokenreduce.reduce(model, "fastv", positions="keep"):
        pass
