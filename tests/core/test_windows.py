"""Sliding windows, masks per layer type, and images whose tokens see each other.

The windows are smaller than the prompt, and the smallest is smaller than a frame.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenreduce
from tests.adapters.families import gemma3
from tests.adapters.families.gemma3 import tiny_gemma3
from tests.core.test_attention_scores import Spy, maps_of
from tokenreduce.cache import Held
from tokenreduce.errors import AdapterError, UnsupportedError
from tokenreduce.guards import check_blocks
from tokenreduce.masks import Sight, layer_windows
from tokenreduce.positions import renumbered
from tokenreduce.session import Session
from tokenreduce.testing.adapter_checks import EverySecond, Pairs
from tokenreduce.testing.oracle import Recorder, check_against_oracle, dense_merges, masked
from tokenreduce.testing.tiny import batch, ragged, single, tiny_onevision, video_ids
from tokenreduce_model_adapters.gemma3 import Gemma3
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas

SETTINGS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
SMALL, LARGE = 3, 11

mistral = partial(tiny_onevision, backbone="mistral")
mixed = partial(tiny_onevision, use_sliding_window=True, max_window_layers=2)


def sliding(name: str, attention: str, window: int) -> Any:
    """Return a model: every layer sliding, the last four, or four of six with image blocks."""
    if name == "gemma3":
        return tiny_gemma3(attention, window=window)
    make = {"mistral": mistral, "qwen2": mixed}[name]
    return make(attention=attention, sliding_window=window)


PROMPTS = {
    "gemma3": (gemma3.images, gemma3.ragged),
    "mistral": (single, ragged),
    "qwen2": (single, ragged),
}
MODELS = [
    pytest.param(name, inputs, id=f"{name}-{inputs.__name__}")
    for name, prompts in PROMPTS.items()
    for inputs in prompts
]
REDUCERS = {
    "drop": EverySecond(layers=(0, 3)),
    "drop-before-the-first": EverySecond(layers=(-1,)),
    "pairs": Pairs(layers=(1, 2)),
    "tome": ToMe(r=3),
    "fastv-all": FastV(queries="all", layer=1),
    "vas": Vas(start_layer=1, end_layer=4, interval=1, axis="tokens", ratio=0.4),
}


def generate(model: Any, inputs: dict[str, Any], new: int = 8, **options: Any) -> Any:
    with torch.no_grad():
        return model.generate(**inputs, max_new_tokens=new, **{**SETTINGS, **options})


# ------------------------------------------------------------------ nothing removed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_keep_all_is_bit_identical_past_the_window(name, inputs, window, attention):
    model = sliding(name, attention, window)
    bare = generate(model, inputs(), LARGE + 3)
    with tokenreduce.reduce(model, "keep_all"):
        attached = generate(model, inputs(), LARGE + 3)
    assert torch.equal(bare.sequences, attached.sequences)
    for ours, theirs in zip(attached.logits, bare.logits, strict=True):
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------------ the oracle


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS.keys())
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_generation_equals_the_oracle(name, inputs, reducer, window, attention):
    run = check_against_oracle(sliding(name, attention, window), [reducer], inputs(), new=9)
    assert run.trace.img_memory < 1


@pytest.mark.parametrize("reducer", ["drop", "tome", "fastv-all"])
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_beams_equal_the_oracle(name, inputs, reducer):
    model = sliding(name, "sdpa", LARGE)
    check_against_oracle(model, [REDUCERS[reducer]], inputs(), new=9, num_beams=3)


def test_a_window_counts_original_positions_not_what_is_left():
    """The prompt's last token sees three positions back: one of them is gone, none comes for it."""

    class LastButOne(EverySecond):
        name = "last_but_one"

        def plan(self, view: Any) -> Any:
            return tokenreduce.Plan.where(torch.arange(len(view)) != len(view) - 2)

    model = mistral(attention="eager", sliding_window=4)
    inputs = batch([[1, 2, 3, *video_ids(2), 9]], 1, 2)  # grid from 3 to 10, newline 11, text 12
    with torch.no_grad(), tokenreduce.reduce(model, LastButOne(layers=(-1,))) as run:
        maps = model(**inputs, output_attentions=True).attentions
    assert run.logit_positions == [[*range(9), 10, 11, 12]]
    seen = (maps[0][0].sum(0) > 0).tolist()
    # At its slot is position 10, which sees 7 to 10, of which 9 is gone.
    assert seen[9] == [position in (7, 8, 10) for position in run.logit_positions[0]]
    assert seen[11] == [position in (10, 11, 12) for position in run.logit_positions[0]]


@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_layers_with_a_window_hold_no_more_than_it(name, inputs, window):
    model = sliding(name, "sdpa", window)
    with tokenreduce.reduce(model, REDUCERS["drop"]):
        cache = generate(model, inputs()).past_key_values
    windows = layer_windows(model.get_decoder().config, 6)
    assert any(windows)
    for layer, limit in zip(cache.layers, windows, strict=True):
        assert limit is None or layer.keys.shape[2] <= limit - 1


def test_what_a_window_let_go_of_is_counted_by_hand():
    held = Held.of(torch.tensor([[-1, 0, 1, 4], [0, 2, 3, 5]])).last(2)
    assert held.positions.tolist() == [[1, 4], [3, 5]]
    assert held.gone.tolist() == [1, 2]  # padding does not count
    more = held.joined(Held.of(torch.tensor([[6], [6]]))).last(1)
    assert more.gone.tolist() == [3, 4]
    beams = more.rows(torch.tensor([1, 0, 1]))
    assert (beams.positions.tolist(), beams.gone.tolist()) == ([[6]] * 3, [4, 3, 4])
    assert renumbered(beams, 1).tolist() == [[4], [3], [4]]


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize("drop_at", [(), (1, 3)])
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_scores_equal_eager_attention(name, inputs, drop_at, window, attention):
    spy, prompt = Spy(seen=[], drop_at=drop_at), inputs()
    model = sliding(name, attention, window)
    with torch.no_grad(), tokenreduce.reduce(model, spy) as run:
        model(**prompt)
    held = run.trace.kept_positions()
    reference = maps_of(sliding(name, "eager", window), prompt, held).attentions
    adapter = Gemma3() if name == "gemma3" else LlavaOnevision()
    layout = adapter.layout(model, prompt)
    samples = [s for s, total in enumerate(run.trace.visual_tokens) if total]
    checked = 0
    for order, (layer, index, received, _, _) in enumerate(spy.seen):
        sample = samples[order % len(samples)]
        rows = _text_rows(layout.role[sample])
        for key, ours in received.items():
            if key == "next" and layer in drop_at:
                continue
            source = layer + 1 if key == "next" else layer - key[1]
            asked = "text" if key == "next" else key[0]
            every = sorted(held[source][sample])
            chosen = {"text": rows, "last": rows[-1:], (1,): rows[1:2], "all": every}[asked]
            expected = reference[source][sample][:, chosen][:, :, index].sum(1)
            assert (ours - expected).abs().max() <= 1e-5 * len(chosen), (layer, key)
            checked += 1
    assert checked > 20


def _text_rows(role: Tensor) -> list[int]:
    last = int((role > 0).nonzero()[-1])
    return list(range(last + 1, len(role)))


# ------------------------------------------------------------------ later turns, own caches


def second_turn(first: Any, inputs: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the next prompt of a conversation: one more image or video, and a question."""
    rows, begun = inputs["input_ids"].shape
    tail = gemma3.picture() if name == "gemma3" else video_ids(2)
    tails = torch.tensor([[31, *tail, 32, 33, 34]] * rows)
    ids = torch.cat([first.sequences, tails], 1)
    grown = torch.ones(rows, ids.shape[1] - begun, dtype=torch.long)
    more = {"input_ids": ids, "attention_mask": torch.cat([inputs["attention_mask"], grown], 1)}
    if name == "gemma3":
        new = gemma3.prompt([[1, *tail]] * rows, rows)
        return {**new, **more, "token_type_ids": (ids == gemma3.IMAGE).long()}
    return {**batch([[1, *tail]] * rows, rows, 2, seed=7), **more}


@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize(("name", "inputs"), MODELS)
def test_second_turn_on_the_same_cache(name, inputs, window):
    model, prompt = sliding(name, "sdpa", window), inputs()
    suppress = {"suppress_tokens": [120, 121]}
    reducers = [EverySecond(layers=(0, 2)), FastV(queries="all", layer=3)]
    with tokenreduce.reduce(model, reducers) as run:
        first = generate(model, prompt, **suppress)
        turn = second_turn(first, prompt, name)
        second = generate(model, turn, past_key_values=first.past_key_values, **suppress)
    one, two = (trace.kept_positions() for trace in run.traces)
    with masked(model, one, prompt["input_ids"].shape[1]):
        bare = generate(model, prompt, **suppress)
    assert torch.equal(first.sequences, bare.sequences)
    with masked(model, two, turn["input_ids"].shape[1]):
        expected = generate(model, turn, past_key_values=bare.past_key_values, **suppress)
    assert torch.equal(second.sequences, expected.sequences)
    for ours, theirs in zip(second.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize("name", PROMPTS)
def test_a_second_turn_after_one_of_text_alone(name, window):
    """No layer was reduced before: those with a window hold the last positions only."""
    model = sliding(name, "sdpa", window)
    ids = torch.arange(1, 31).expand(2, -1)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prompt["attention_mask"] = torch.stack([torch.ones(30), torch.arange(30) > 24]).long()
    suppress = {"suppress_tokens": [120, 121]}
    with tokenreduce.reduce(model, [EverySecond(layers=(0, 2)), REDUCERS["fastv-all"]]) as run:
        first = generate(model, prompt, **suppress)
        turn = second_turn(first, prompt, name)
        ours = generate(model, turn, past_key_values=first.past_key_values, **suppress)
    bare = generate(model, prompt, **suppress)
    held = run.trace.kept_positions()
    with masked(model, held, turn["input_ids"].shape[1]):
        theirs = generate(model, turn, past_key_values=bare.past_key_values, **suppress)
    for mine, expected in zip(ours.logits, theirs.logits, strict=True):
        assert (mine - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("with_config", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
def test_caches_of_the_caller(name, with_config):
    from transformers import DynamicCache

    model, inputs = sliding(name, "sdpa", SMALL), PROMPTS[name][0]()
    config = model.get_decoder().config if with_config else None
    with tokenreduce.reduce(model, REDUCERS["drop"]):
        expected = generate(model, inputs)
        ours = generate(model, inputs, past_key_values=DynamicCache(config=config))
    for mine, theirs in zip(ours.logits, expected.logits, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_forward_without_cache(name):
    model, inputs = sliding(name, "sdpa", SMALL), PROMPTS[name][1]()
    with torch.no_grad(), tokenreduce.reduce(model, REDUCERS["fastv-all"]):
        with_cache = model(**inputs).logits
        without = model(**inputs, use_cache=False).logits
    assert torch.equal(with_cache, without)


# ------------------------------------------------------------------ positions


@pytest.mark.parametrize("policy", ["renumber", "mean"])
def test_position_policies_turn_each_kind_of_layer_by_its_own_angles(policy):
    """Gemma 3 has two rotary embeddings: the bare model is given the ids layer by layer."""
    model, inputs = tiny_gemma3(), gemma3.images()
    recorder = Recorder(inner=Pairs(layers=(1,)), answers=[])
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), tokenreduce.reduce(model, recorder, positions=policy) as run:
        ours = model(**inputs).logits
    held = run.trace.kept_positions()
    merges = dense_merges(run.trace, [recorder], length)
    members = _members(recorder)
    decoder, hooks = model.get_decoder(), []

    def ids_of(layer: int) -> list[int]:
        if policy == "renumber":
            rank = {position: number for number, position in enumerate(held[layer][0])}
            return [rank.get(position, 0) for position in range(length)]
        if layer < 2:
            return list(range(length))
        return [sum(group) // len(group) for group in (members.get(p, [p]) for p in range(length))]

    def hook_for(layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            ids = torch.tensor([ids_of(layer)])
            rope = decoder.rotary_emb(args[0], ids, decoder.config.layer_types[layer])
            return args, {**kwargs, "position_embeddings": rope}

        return hook

    for number, layer in enumerate(decoder.layers):
        hooks.append(layer.register_forward_pre_hook(hook_for(number), with_kwargs=True))
    with torch.no_grad(), masked(model, held, length, merges):
        theirs = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    assert (ours[0] - theirs[0, run.logit_positions[0]]).abs().max() <= 1e-4


@pytest.mark.parametrize("policy", ["keep", "renumber", "mean"])
@pytest.mark.parametrize("window", [SMALL, LARGE])
@pytest.mark.parametrize("name", PROMPTS)
def test_each_decode_step_equals_the_prefill_of_the_longer_prompt(name, window, policy):
    model, inputs = sliding(name, "sdpa", window), PROMPTS[name][0]()
    before = inputs["input_ids"].shape[1]
    with tokenreduce.reduce(model, Pairs(layers=(0, 3)), positions=policy):
        stepped = generate(model, inputs, suppress_tokens=[120, 121])
        ids = stepped.sequences[:, :-1]
        longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if name == "gemma3":
            longer["token_type_ids"] = (ids == gemma3.IMAGE).long()
        at_once = generate_forward(model, longer).logits
    for step, logits in enumerate(stepped.logits):
        row = before - 1 + step - ids.shape[1]
        assert (logits - at_once[:, row]).abs().max() <= 1e-4


def _members(recorder: Recorder) -> dict[int, list[int]]:
    """Return, by position of each carrier, the positions that were merged into it."""
    found: dict[int, list[int]] = {}
    for _, index, slot, _ in recorder.answers:
        carrier: dict[int, int] = {}
        for position, output in zip(index, slot, strict=True):
            found.setdefault(carrier.setdefault(output, position), []).append(position)
    return found


# ------------------------------------------------------------------ what queries see


def test_what_queries_see_by_hand():
    blocks = torch.tensor([-1, 0, 0, 0, -1, 1, 1])
    sight = Sight(3, blocks, 10, torch.tensor([-1, 8, 9]))
    queries, keys = torch.tensor([11, 13, 16]), torch.tensor([-1, 8, 9, 10, 11, 12, 13, 15, 16])
    assert sight.visible(queries, keys).int().tolist() == [
        # pad 8  9  10 11 12 13 15 16
        [0, 0, 1, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (None,) * 6),
        ({"sliding_window": 5}, (None,) * 6),  # not switched on
        ({"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 4},
         (None, None, None, None, 5, 5)),
    ],
)  # fmt: skip
def test_windows_of_qwen2(settings, expected):
    assert layer_windows(tiny_onevision(**settings).config.text_config, 6) == expected


def test_windows_of_mistral():
    assert layer_windows(mistral(sliding_window=5).config.text_config, 6) == (5,) * 6
    assert layer_windows(mistral(sliding_window=None).config.text_config, 6) == (None,) * 6


# ------------------------------------------------------------------ refused


class Causal(Gemma3):
    """An adapter that forgets that images see themselves."""

    def blocks(self, model: Any, inputs: Any, layout: Any) -> None:
        return None


class Misshapen(Gemma3):
    """An adapter whose blocks are those of another sequence."""

    def blocks(self, model: Any, inputs: Any, layout: Any) -> Tensor:
        return torch.zeros(1, 3, dtype=torch.long)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_that_the_adapter_does_not_describe_is_refused(attention):
    model = tiny_gemma3(attention)
    session = Session(model, Causal(), [REDUCERS["drop"]])
    with session.attached(), pytest.raises(AdapterError, match=r"adapter's blocks\(\)"):
        generate(model, gemma3.image())
    session = Session(model, Misshapen(), [REDUCERS["drop"]])
    with session.attached(), pytest.raises(AdapterError, match=r"Misshapen\.blocks\(\) returned"):
        generate(model, gemma3.image())


def test_without_token_types_images_are_causal_as_in_the_model():
    inputs = gemma3.image()
    del inputs["token_type_ids"]
    check_against_oracle(tiny_gemma3(), [REDUCERS["drop"]], inputs, new=4)


def test_masks_that_are_not_the_sequences_are_refused():
    model, inputs = tiny_gemma3(), gemma3.image()
    count = inputs["input_ids"].shape[1]
    four = torch.ones(1, 1, count, count, dtype=torch.bool)
    masks = {"full_attention": four, "sliding_attention": four}
    with tokenreduce.reduce(model, Random()):
        for mask in (four, masks):
            with pytest.raises(UnsupportedError, match="2-D"):
                generate_forward(model, {**inputs, "attention_mask": mask})
        with pytest.raises(UnsupportedError, match="2-D"):
            generate_forward(
                model.model.language_model,
                {"input_ids": inputs["input_ids"], "attention_mask": masks},
            )


def generate_forward(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**inputs)


@pytest.mark.parametrize("name", PROMPTS)
def test_windows_under_flash_attention_are_refused(name):
    model = sliding(name, "sdpa", LARGE)
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with (
        pytest.raises(UnsupportedError, match=r"sliding-window layers, and flash .*'sdpa'"),
        tokenreduce.reduce(model, "fastv"),
    ):
        pass


def test_blocks_under_flash_attention_are_refused():
    blocks = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(UnsupportedError, match=r"see later ones, .*'sdpa'"):
        check_blocks(blocks, blocks, "tokenreduce_flash_attention_2", Gemma3())
