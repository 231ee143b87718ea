"""What a session does to a model, what it leaves behind, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenreduce
from tokenreduce import Layout, Plan, Reducer, Trace, View
from tokenreduce.errors import (
    AdapterError,
    CacheError,
    ConfigError,
    LayoutError,
    ReducerError,
    UnsupportedError,
)
from tokenreduce.testing.model_checks import state_of
from tokenreduce.testing.oracle import Recorder, check_against_oracle, masked
from tokenreduce.testing.tiny import (
    PER_FRAME,
    VIDEO,
    batch,
    ragged,
    single,
    tiny_onevision,
    video_ids,
)
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.vas import Vas

SETTINGS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def generate(model: Any, inputs: dict[str, Tensor], new: int = 6, **options: Any) -> Any:
    with torch.no_grad():
        return model.generate(**inputs, max_new_tokens=new, **{**SETTINGS, **options})


def forward(model: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model(**inputs, **options)


class Scripted(Reducer):
    """Keeps the tokens whose index is a multiple of ``step``, after each of ``at``."""

    name = "scripted"
    at: tuple[int, ...] = (1,)
    step: int = 2

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return self.at

    def plan(self, view: View) -> Plan | None:
        return Plan.where(torch.arange(len(view)) % self.step == 0)


# ------------------------------------------------------------------ keep_all, and nothing left


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_keep_all_is_bit_identical(inputs, attention):
    model = tiny_onevision(attention=attention)
    bare = generate(model, inputs())
    with tokenreduce.reduce(model, "keep_all") as run:
        attached = generate(model, inputs())
    assert torch.equal(bare.sequences, attached.sequences)
    for ours, theirs in zip(attached.logits, bare.logits, strict=True):
        assert torch.equal(ours, theirs)
    assert run.trace.img_memory == 1
    assert run.trace.flops_ratio == 1


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("reducer", [Vas(start_layer=1, end_layer=4), FastV(), Scripted()])
def test_nothing_is_left_on_the_model(reducer, raises):
    model = tiny_onevision()
    bare = generate(model, single()).sequences
    before = state_of(model)
    try:
        with tokenreduce.reduce(model, reducer):
            generate(model, single())
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert state_of(model) == before
    assert torch.equal(generate(model, single()).sequences, bare)


def test_nothing_is_left_when_a_reducer_raises():
    class Broken(Scripted):
        name = "broken"

        def plan(self, view: View) -> Plan | None:
            raise ZeroDivisionError("no mercy")

    model = tiny_onevision()
    generate(model, single())
    before = state_of(model)
    with (
        pytest.raises(ReducerError, match=r"'broken' failed after layer 1 on sample 0.*no mercy"),
        tokenreduce.reduce(model, Broken()),
    ):
        generate(model, single())
    assert state_of(model) == before


def test_a_session_works_again_after_a_failed_forward():
    model = tiny_onevision()
    with tokenreduce.reduce(model, Scripted()) as run:
        with pytest.raises(UnsupportedError):
            forward(model, single(), labels=single()["input_ids"])
        generate(model, single())
    assert run.trace.tokens_per_layer[0][-1] == 12


# ------------------------------------------------------------------ later turns, sampling, beams


def second_turn(first: Any, inputs: dict[str, Tensor], frames: int, pad: bool) -> dict[str, Tensor]:
    """Return a conversation's next prompt: one more video and a question, per row."""
    rows = len(inputs["input_ids"])
    tail = [31, *video_ids(frames), 32, 33, 34]
    tails = [[0] * (r if pad else 0) + tail[: len(tail) - (r if pad else 0)] for r in range(rows)]
    masks = [[0] * (r if pad else 0) + [1] * (len(tail) - (r if pad else 0)) for r in range(rows)]
    grown = first.sequences.shape[1] - inputs["input_ids"].shape[1]
    ids = torch.cat([first.sequences, torch.tensor(tails)], dim=1)
    mask = torch.cat(
        [inputs["attention_mask"], torch.ones(rows, grown, dtype=torch.long), torch.tensor(masks)],
        1,
    )
    return {
        **batch([[1, *video_ids(frames)]] * rows, rows, frames, seed=7),
        "input_ids": ids,
        "attention_mask": mask,
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_second_turn_on_the_same_cache(inputs, pad, attention):
    model, first_inputs = tiny_onevision(attention=attention), inputs()
    with tokenreduce.reduce(model, [Scripted(at=(0, 2)), FastV(layer=3)]) as run:
        first = generate(model, first_inputs)
        next_inputs = second_turn(first, first_inputs, 4, pad)
        second = generate(model, next_inputs, past_key_values=first.past_key_values)
    one, two = run.traces
    with masked(model, one.kept_positions(), first_inputs["input_ids"].shape[1]):
        expected = generate(model, first_inputs)
    assert torch.equal(first.sequences, expected.sequences)
    with masked(model, two.kept_positions(), next_inputs["input_ids"].shape[1]):
        expected = generate(model, next_inputs, past_key_values=expected.past_key_values)
    assert torch.equal(second.sequences, expected.sequences)
    for ours, theirs in zip(second.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4
    # Only the new video is reduced; what the first turn kept stays.
    assert two.visual_tokens == (4 * PER_FRAME,) * len(two.visual_tokens)
    assert set(one.kept_positions()[5][0]) <= set(two.kept_positions()[5][0])


def test_text_only_second_turn():
    model = tiny_onevision()
    with tokenreduce.reduce(model, Scripted()) as run:
        first = generate(model, single())
        ids = torch.cat([first.sequences, torch.tensor([[41, 42, 43]])], 1)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        second = generate(model, text, past_key_values=first.past_key_values)
    assert len(run.traces) == 1
    held = run.trace.kept_positions()
    grown = list(range(single()["input_ids"].shape[1], ids.shape[1]))
    with masked(model, held, single()["input_ids"].shape[1]):
        bare = generate(model, single())
    held = [[row + grown for row in layer] for layer in held]
    with masked(model, held, ids.shape[1]):
        expected = generate(model, text, past_key_values=bare.past_key_values)
    assert torch.equal(second.sequences, expected.sequences)
    for ours, theirs in zip(second.logits, expected.logits, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4


def test_prompts_without_vision_are_left_alone():
    model = tiny_onevision()
    text = batch([[21, 22, 23], [24, 25, 26, 27]], 0, 0)
    bare = generate(model, text)
    with tokenreduce.reduce(model, "vas") as run:
        ours = generate(model, text)
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, bare.logits, strict=True))
    assert run.traces == []
    with pytest.raises(UnsupportedError, match="no prefill with visual tokens"):
        _ = run.trace


@pytest.mark.parametrize("options", [{"num_return_sequences": 2}, {"num_beams": 2}, {}])
def test_sampling_equals_the_oracle(options):
    model, inputs = tiny_onevision(), ragged()
    rows = max([1, *options.values()])
    settings = {**options, "do_sample": True, "temperature": 0.7}
    with tokenreduce.reduce(model, FastV()) as run:
        torch.manual_seed(3)
        ours = generate(model, inputs, **settings)
    held = [row[::rows] for row in run.trace.kept_positions()]
    with masked(model, held, inputs["input_ids"].shape[1], rows_per_sample=rows):
        torch.manual_seed(3)
        expected = generate(model, inputs, **settings)
    assert torch.equal(ours.sequences, expected.sequences)


def test_beams_of_a_sample_share_one_plan_and_batch_order_does_not_matter():
    model, inputs = tiny_onevision(), ragged()
    reducer = Random(layers=[0, 2])
    with tokenreduce.reduce(model, reducer) as run:
        forward(model, inputs)
        plain = run.trace
        generate(model, inputs, num_beams=3)
        beams = run.trace
        swapped = {k: v.flip(0) for k, v in inputs.items()}
        forward(model, swapped)
    for layer in range(6):
        for sample in range(3):
            for beam in range(3):
                assert (
                    beams.kept_positions()[layer][3 * sample + beam]
                    == plain.kept_positions()[layer][sample]
                )
            assert (
                run.trace.kept_positions()[layer][2 - sample]
                == plain.kept_positions()[layer][sample]
            )


def test_padding_does_not_change_a_plan():
    model = tiny_onevision()
    inputs = single()
    padded = {
        **inputs,
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (5, 0)),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (5, 0)),
    }
    with tokenreduce.reduce(model, [Random(layers=[0]), FastV(layer=2)]) as run:
        forward(model, inputs)
        forward(model, padded)
    one, two = run.traces
    shifted = [[[p + 5 for p in row] for row in layer] for layer in one.kept_positions()]
    assert two.kept_positions() == shifted
    assert [e.kept for e in two.events] == [e.kept for e in one.events]


def test_seed_changes_a_random_plan():
    model = tiny_onevision()

    def kept(seed: int) -> Any:
        with tokenreduce.reduce(model, "random", seed=seed) as run:
            forward(model, single(12))
        return run.trace.kept_positions()

    assert kept(0) == kept(0)
    assert kept(0) != kept(1)


# ------------------------------------------------------------------ bare forward, embeddings


def test_a_bare_forward_says_which_positions_its_logits_are():
    model, inputs = tiny_onevision(), ragged()
    with tokenreduce.reduce(model, Scripted()) as run:
        logits = forward(model, inputs).logits
    positions = run.logit_positions
    last = run.trace.kept_positions()[-1]
    assert logits.shape[1] == len(positions[0])
    for sample, row in enumerate(positions):
        assert [p for p in row if p >= 0] == last[sample]
        assert row[-1] == inputs["input_ids"].shape[1] - 1
    with masked(model, run.trace.kept_positions(), inputs["input_ids"].shape[1]):
        expected = forward(model, inputs).logits
    for sample, row in enumerate(positions):
        for column, position in enumerate(row):
            if position >= 0:
                assert (logits[sample, column] - expected[sample, position]).abs().max() <= 1e-4


def test_a_forward_without_cache():
    model, inputs = tiny_onevision(), ragged()
    with tokenreduce.reduce(model, "fastv"):
        with_cache = forward(model, inputs).logits
        without = forward(model, inputs, use_cache=False)
    assert without.past_key_values is None
    assert torch.equal(with_cache, without.logits)


def test_embeddings_with_a_layout_equal_ids():
    model, inputs = tiny_onevision(), single()
    with tokenreduce.reduce(model, FastV()) as run:
        by_ids = generate(model, inputs)
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        features = model.get_video_features(inputs["pixel_values_videos"]).pooler_output
        embeds[inputs["input_ids"] == VIDEO] = features[0]
    layout = Layout.video(start=3, frames=6, rows=2, columns=2, length=embeds.shape[1])
    mask = {"attention_mask": inputs["attention_mask"]}
    with tokenreduce.reduce(model, FastV(), layout=layout) as other:
        by_embeds = generate(model, {"inputs_embeds": embeds, **mask})
    for ours, theirs in zip(by_embeds.logits, by_ids.logits, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert other.trace.kept_positions() == run.trace.kept_positions()
    with (
        tokenreduce.reduce(model, FastV()),
        pytest.raises(AdapterError, match=r"layout=Layout\.video"),
    ):
        generate(model, {"inputs_embeds": embeds, **mask})
    short = Layout.video(start=3, frames=6, rows=2, columns=2, length=embeds.shape[1] - 1)
    with (
        tokenreduce.reduce(model, FastV(), layout=short),
        pytest.raises(LayoutError, match="samples of"),
    ):
        generate(model, {"inputs_embeds": embeds, **mask})


# ------------------------------------------------------------------ newline tokens and the trace


def test_newline_goes_only_with_the_last_grid_token_of_its_item():
    class DropItem(Scripted):
        name = "drop_item"

        def plan(self, view: View) -> Plan | None:
            return Plan.where(view.item != 0) if len(view.item.unique()) > 1 else None

    ids = [4, *video_ids(2), 11, *video_ids(2), 13]
    inputs = batch([ids], 2, 2)
    run = check_against_oracle(tiny_onevision(), [DropItem()], inputs)
    kept = run.trace.kept_positions()[-1][0]
    first = set(range(1, 2 + 2 * PER_FRAME))  # the first video, its newline last
    assert set(kept) == set(range(len(ids))) - first


def test_trace_tells_cells_counts_and_costs_and_goes_to_json_and_back():
    model = tiny_onevision()
    with tokenreduce.reduce(model, [Scripted(at=(1,)), Scripted(at=(1, 3))], seed=5) as run:
        forward(model, single(4))
    trace = run.trace
    assert [(e.layer, e.before, e.after) for e in trace.events] == [
        (1, 16, 8),
        (1, 8, 4),
        (3, 4, 2),
    ]
    assert [(e.reducer, e.stage) for e in trace.events] == [
        ("scripted", 0),
        ("scripted", 1),
        ("scripted", 1),
    ]
    assert trace.events[0].kept[:3] == ((0, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 0))
    assert trace.events[2].kept == ((0, 0, 0, 0), (0, 2, 0, 0))
    assert trace.events[2].positions == (3, 11)
    assert trace.tokens_per_layer == ((16, 16, 4, 4, 2, 2),)
    assert trace.img_memory == pytest.approx(44 / 96)
    # By hand: 8 text tokens and one newline; projections, gated MLP, causal attention, head.
    tokens = [25, 25, 13, 13, 11, 11]

    def flops(count: int) -> int:
        weights = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
        return 2 * count * weights + 4 * 32 * (count * (count + 1) // 2)

    head = 2 * 32 * 128
    assert trace.flops == sum(flops(n) for n in tokens) + head
    assert trace.flops_ratio == pytest.approx(trace.flops / (6 * flops(25) + head))
    assert trace.kv_bytes == sum(tokens) * 2 * 16 * 4
    assert Trace.from_json(trace.to_json()) == trace
    assert all(e.plan_seconds > 0 and e.apply_seconds > 0 for e in trace.events)


def test_merged_tokens_list_their_originals():
    model = tiny_onevision()
    with tokenreduce.reduce(model, "vcc", layer=0, stride=2) as run:
        forward(model, single(2))
    event = run.trace.events[0]
    assert event.after == 4
    assert event.merged[0] == ((0, 0, 0, 0), (0, 0, 0, 1))
    assert sum(len(group) for group in event.merged) == 8


# ------------------------------------------------------------------ refused


REFUSED_SETTINGS = [
    ({"use_cache": False}, "use_cache"),
    ({"cache_implementation": "static"}, "cache_implementation"),
    ({"cache_implementation": "quantized"}, "cache_implementation"),
    ({"cache_implementation": "offloaded"}, "cache_implementation"),
    ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
    ({"prompt_lookup_num_tokens": 3}, "prompt_lookup"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
    ({"dola_layers": "high"}, "dola_layers"),
    ({"custom_generate": "somewhere/else"}, "custom_generate"),
]


class Untouchable(Exception):
    pass


def refuse_compute(model: Any) -> None:
    """Make any compute of the model an error of another kind."""

    def hook(*args: Any) -> None:
        raise Untouchable

    for module in [model.model.vision_tower, *model.get_decoder().layers]:
        module.register_forward_pre_hook(hook)


@pytest.mark.parametrize(
    ("settings", "word"),
    REFUSED_SETTINGS,
    ids=[w + str(i) for i, (_, w) in enumerate(REFUSED_SETTINGS)],
)
def test_generation_that_cannot_be_right_is_refused_before_any_compute(settings, word):
    model = tiny_onevision()
    refuse_compute(model)
    with (
        tokenreduce.reduce(model, "fastv"),
        pytest.raises(UnsupportedError, match=word),
        torch.no_grad(),
    ):
        model.generate(**single(), max_new_tokens=2, **settings)


def test_other_refusals_before_any_compute():
    from transformers import DynamicCache, StaticCache

    model = tiny_onevision()
    filled = forward(model, single()).past_key_values
    refuse_compute(model)
    right = ragged()
    right = {**right, "attention_mask": right["attention_mask"].flip(1)}
    static = StaticCache(config=model.config.text_config, max_cache_len=64)
    with tokenreduce.reduce(model, "fastv"):
        with pytest.raises(UnsupportedError, match="padding_side"):
            generate(model, right)
        with pytest.raises(UnsupportedError, match="already holds"):
            generate(model, single(), past_key_values=filled)
        with pytest.raises(UnsupportedError, match="StaticCache"):
            generate(model, single(), past_key_values=static)
        with pytest.raises(UnsupportedError, match="assisted decoding"):
            generate(model, single(), assistant_model=model)
        with pytest.raises(Untouchable):
            generate(model, single(), past_key_values=DynamicCache(config=model.config.text_config))


def test_forwards_that_cannot_be_right_are_refused():
    model = tiny_onevision()
    inputs = ragged()
    count = inputs["input_ids"].shape[1]
    with tokenreduce.reduce(model, "fastv"):
        with pytest.raises(UnsupportedError, match="labels"):
            forward(model, inputs, labels=inputs["input_ids"])
        with pytest.raises(UnsupportedError, match="2-D"):
            forward(model, {**inputs, "attention_mask": torch.ones(3, 1, count, count)})
        with pytest.raises(UnsupportedError, match="covers"):
            forward(model, {**inputs, "attention_mask": inputs["attention_mask"][:, 1:]})
        model.train()
        with pytest.raises(UnsupportedError, match="training mode"):
            forward(model, inputs)


def test_models_that_cannot_be_right_are_refused():
    model = tiny_onevision()
    with (
        tokenreduce.reduce(model, "fastv"),
        pytest.raises(UnsupportedError, match="another"),
        tokenreduce.reduce(model, "vas"),
    ):
        pass
    model.train()
    with pytest.raises(UnsupportedError, match="training mode"), tokenreduce.reduce(model, "fastv"):
        pass
    model.eval()
    other = tiny_onevision()
    other.config.text_config._attn_implementation = "flex_attention"
    with (
        pytest.raises(UnsupportedError, match="flex_attention"),
        tokenreduce.reduce(other, "fastv"),
    ):
        pass
    with (
        pytest.raises(AdapterError, match="model_type 'qwen2'"),
        tokenreduce.reduce(text_model(), "fastv"),
    ):
        pass


def text_model() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    return Qwen2ForCausalLM(config).eval()


def test_a_cache_is_refused_outside_its_session():
    model = tiny_onevision()
    with tokenreduce.reduce(model, "fastv"):
        first = generate(model, single())
    ids = torch.cat([first.sequences, torch.tensor([[41, 42, 43]])], 1)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(CacheError, match="same `with` block"):
        generate(model, text, past_key_values=first.past_key_values)
    with (
        tokenreduce.reduce(model, "fastv"),
        pytest.raises(CacheError, match="closed"),
    ):
        generate(model, text, past_key_values=first.past_key_values)
    with pytest.raises(CacheError, match="cropped"):
        first.past_key_values.crop(-1)


@pytest.mark.parametrize(
    ("reducer", "settings", "message"),
    [
        ("vass", {}, "did you mean 'vas'"),
        ("vas", {"ration": 0.3}, "ration"),
        ("vas", {"ratio": 1.5}, "ratio: 1.5 is not valid"),
        (["vas", "fastv"], {"ratio": 0.3}, "go with one reducer"),
        ("fastv", {"layer": 6}, "layer 6 does not exist"),
        ("fastv", {"positions": "renumbered"}, "one of keep, renumber, mean"),
    ],
)
def test_wrong_requests_are_one_clear_error(reducer, settings, message):
    model = tiny_onevision()
    with pytest.raises(ConfigError, match=message), tokenreduce.reduce(model, reducer, **settings):
        pass


def test_reading_what_was_not_declared_is_an_error():
    class Greedy(Scripted):
        name = "greedy"

        def plan(self, view: View) -> Plan | None:
            view.attention("text")
            return None

    model = tiny_onevision()
    with (
        tokenreduce.reduce(model, Greedy()),
        pytest.raises(ReducerError, match="did not declare"),
    ):
        forward(model, single())


def test_invalid_plans_are_refused():
    class Nonsense(Scripted):
        name = "nonsense"

        def plan(self, view: View) -> Plan | None:
            return Plan(torch.arange(len(view)).flip(0))

    model = tiny_onevision()
    with (
        tokenreduce.reduce(model, Nonsense()),
        pytest.raises(ReducerError, match="chronological"),
    ):
        forward(model, single())


def test_layers_called_otherwise_are_one_clear_error():
    model = tiny_onevision()
    decoder = model.get_decoder()
    decoder.rotary_emb.register_forward_hook(lambda m, a, out: torch.stack(out))
    with (
        tokenreduce.reduce(model, "fastv"),
        pytest.raises(AdapterError, match="position_embeddings"),
    ):
        forward(model, single())


def test_plans_do_not_depend_on_output_recording():
    model = tiny_onevision(attention="eager")
    with tokenreduce.reduce(model, FastV()) as run:
        recorded = forward(model, single(), output_attentions=True, output_hidden_states=True)
    widths = [attention.shape[-1] for attention in recorded.attentions]
    assert widths == [33, 33, 21, 21, 21, 21]
    assert run.trace.events[0].scores is not None


def test_recorder_is_transparent():
    model = tiny_onevision()
    with tokenreduce.reduce(model, Recorder(inner=FastV(), answers=[])) as run:
        forward(model, single())
    with tokenreduce.reduce(model, FastV()) as other:
        forward(model, single())
    assert run.trace.kept_positions() == other.trace.kept_positions()
