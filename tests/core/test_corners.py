"""Corners of sessions that were once wrong."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from pydantic import Field

import tokenreduce
from tokenreduce import Layout, Plan, Reducer, Trace, View
from tokenreduce.attention import received
from tokenreduce.course import stages
from tokenreduce.errors import ConfigError, LayoutError, ReducerError, UnsupportedError
from tokenreduce.reducer import Needs
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.testing.tiny import VIDEO, batch, ragged, single, tiny_onevision, video_ids
from tokenreduce_plugins.fastv import FastV

SETTINGS = {"do_sample": False, "max_new_tokens": 4}


class Half(Reducer):
    """Keeps every other token after each of ``at``."""

    name = "half"
    at: tuple[int, ...] = (2,)

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return self.at

    def plan(self, view: View) -> Plan | None:
        return Plan.where(torch.arange(len(view)) % 2 == 0)


class Nothing(Half):
    """Drops every visual token."""

    name = "nothing"

    def plan(self, view: View) -> Plan | None:
        return Plan.where(torch.zeros(len(view), dtype=torch.bool))


class Look(Half):
    """Writes down attention of the layer that has run and of the next one."""

    name = "look"
    at: tuple[int, ...] = (2, 3)
    seen: list[Any] = Field(default_factory=list)

    def needs(self) -> Needs:
        return Needs(frozenset({"text", "all"}), next_layer=True)

    def plan(self, view: View) -> Plan | None:
        now, then = (view.attention("text", heads="each", layer=k) for k in ("this", "next"))
        self.seen.append((view.layer, now, then))
        return None


# ------------------------------------------------------------------ caches of the caller


def test_a_cache_that_the_caller_made_is_the_one_that_is_filled():
    from transformers import DynamicCache

    model, prompt = tiny_onevision(), single()
    turn = torch.tensor([[7, 8, 9]])
    with torch.no_grad(), tokenreduce.reduce(model, Half()):
        mine = DynamicCache()
        first = model.generate(**prompt, **SETTINGS, past_key_values=mine)
        assert mine.get_seq_length() == first.shape[1] - 1
        second = torch.cat([first, turn], 1)
        ours = model.generate(input_ids=second, past_key_values=mine, **SETTINGS)
        returned = model.generate(**prompt, **SETTINGS, return_dict_in_generate=True)
        theirs = model.generate(
            input_ids=second, past_key_values=returned.past_key_values, **SETTINGS
        )
    assert torch.equal(ours, theirs)


# ------------------------------------------------------------------ the last token


@pytest.mark.parametrize("at", [(-1,), (2,)])
@pytest.mark.parametrize("before", [[], [1, 2, 3]])
def test_the_last_token_stays_whatever_it_is(at, before):
    """A prompt that ends in its video's newline, and one that is nothing but a video."""
    inputs = batch([[*before, *video_ids(3)]], 1, 3)
    run = check_against_oracle(tiny_onevision(), [Nothing(at=at)], inputs, new=4)
    last = len(before) + 12
    assert run.trace.kept_positions()[-1] == [[*range(len(before)), last]]


def test_a_prompt_that_ends_in_a_grid_token():
    model, inputs = tiny_onevision(), single()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])[:, :27]
    layout = Layout.video(start=3, frames=6, rows=2, columns=2, length=27)
    with torch.no_grad(), tokenreduce.reduce(model, Nothing(), layout=layout) as run:
        model(inputs_embeds=embeds)
    assert run.logit_positions == [[0, 1, 2, 26]]
    assert run.trace.visual_tokens == (23,)


# ------------------------------------------------------------------ attention


@pytest.mark.parametrize("positions", ["keep", "renumber", "mean"])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_the_next_layer_is_asked_with_its_own_positions_and_past(inputs, positions):
    model, prompt = tiny_onevision(), inputs()
    look = Look(seen=[])
    pool = tokenreduce.reduce(model, ["vcc", look], positions=positions)
    with torch.no_grad(), pool:
        first = model.generate(**prompt, **SETTINGS, return_dict_in_generate=True)
        rows = len(prompt["input_ids"])
        tail = torch.tensor([[31, *video_ids(2), 32, 33]]).expand(rows, -1)
        ids = torch.cat([first.sequences, tail], 1)
        grown = torch.ones(rows, ids.shape[1] - prompt["input_ids"].shape[1], dtype=torch.long)
        second = {
            **batch([[1]] * rows, rows, 2, seed=5),
            "input_ids": ids,
            "attention_mask": torch.cat([prompt["attention_mask"], grown], 1),
        }
        model.generate(**second, past_key_values=first.past_key_values, **SETTINGS)
    asked = [seen for seen in look.seen if seen[0] == 2]
    run = [seen for seen in look.seen if seen[0] == 3]
    assert len(asked) == len(run) >= 2
    for (_, _, then), (_, now, _) in zip(asked, run, strict=True):
        assert (then - now).abs().max() <= 1e-5 * 3


def test_float16_scores_do_not_overflow_before_they_are_scaled():
    query, key = torch.full((1, 1, 128), 40.0).half(), torch.full((1, 3, 128), 40.0).half()
    weights = received(query, key, None, 128**-0.5)
    assert torch.allclose(weights, torch.full((1, 3), 1 / 3), atol=1e-3)


def test_scoring_builds_no_graph():
    model = tiny_onevision()
    look = Look(seen=[])
    with tokenreduce.reduce(model, look):
        model(**single())
    assert not any(now.requires_grad or then.requires_grad for _, now, then in look.seen)


@pytest.mark.parametrize("rows", [[-1], [], [99]])
@pytest.mark.parametrize("layer", ["this", "next"])
def test_text_rows_that_do_not_exist(rows, layer):
    class Ask(Look):
        name = "ask"

        def plan(self, view: View) -> Plan | None:
            view.attention(rows, layer=layer)
            return None

    with (
        tokenreduce.reduce(tiny := tiny_onevision(), Ask(seen=[])),
        pytest.raises(ReducerError, match="there are 5"),
        torch.no_grad(),
    ):
        tiny(**single())


# ------------------------------------------------------------------ plans and traces


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(2, 24), [0.0] * 24])
def test_scores_of_another_shape_are_refused(scores):
    class Odd(Half):
        name = "odd"

        def plan(self, view: View) -> Plan | None:
            return Plan(Plan.keep([0, 1], len(view)).slot, scores)

    model = tiny_onevision()
    with (
        tokenreduce.reduce(model, Odd()),
        pytest.raises(ReducerError, match="'odd' answered with scores"),
        torch.no_grad(),
    ):
        model(**single())


def test_infinite_scores_go_to_json_and_back():
    class Sure(Half):
        name = "sure"

        def plan(self, view: View) -> Plan | None:
            return Plan.keep([0, 1], len(view), scores=torch.full((len(view),), float("inf")))

    model = tiny_onevision()
    with torch.no_grad(), tokenreduce.reduce(model, Sure()) as run:
        model(**single())
    assert Trace.from_json(run.trace.to_json()) == run.trace


# ------------------------------------------------------------------ ways to call a model


def test_a_forward_after_an_interrupted_one():
    model = tiny_onevision()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    norm = model.get_decoder().layers[2].input_layernorm
    with torch.no_grad(), tokenreduce.reduce(model, FastV(layer=2)) as run:
        hook = norm.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            model.generate(**single(), **SETTINGS)
        hook.remove()
        model.generate(input_ids=torch.tensor([[1, 2, 3]]), **SETTINGS)
        model.generate(**single(), **SETTINGS)
    assert len(run.traces) == 1


def test_another_thread_has_to_wait_its_turn():
    model = tiny_onevision()
    failed: list[BaseException] = []

    def other() -> None:
        try:
            with torch.no_grad():
                model(**single())
        except UnsupportedError as error:
            failed.append(error)

    class Meddle(Half):
        name = "meddle"

        def plan(self, view: View) -> Plan | None:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return None

    with torch.no_grad(), tokenreduce.reduce(model, Meddle()):
        model(**single())
    assert len(failed) == 1
    assert "take turns" in str(failed[0])


def test_arguments_by_position_and_none():
    model, inputs = tiny_onevision(), single()
    with torch.no_grad(), tokenreduce.reduce(model, Half()) as run:
        by_name = model.generate(**inputs, **SETTINGS)
        given_none = model.generate(inputs=None, inputs_embeds=None, **inputs, **SETTINGS)
        model(inputs["input_ids"], None, None, inputs["pixel_values_videos"])
        model.model(**inputs)
        model.model.language_model(input_ids=torch.tensor([[1, 2, 3]]))
    assert torch.equal(by_name, given_none)
    assert len(run.traces) == 4
    assert len({str(trace.kept_positions()) for trace in run.traces}) == 1


def test_logits_to_keep():
    model, inputs = tiny_onevision(), single()
    with torch.no_grad(), tokenreduce.reduce(model, Half()) as run:
        logits = model(**inputs, logits_to_keep=2).logits
        assert logits.shape[1] == 2
        assert run.logit_positions == [[31, 32]]
        with pytest.raises(UnsupportedError, match="logits_to_keep"):
            model(**inputs, logits_to_keep=torch.tensor([32]))


def test_after_the_last_layer_there_is_nothing_to_reduce():
    with (
        pytest.raises(ConfigError, match=r"after layer 5, .* after layers -1 to 4 only"),
        tokenreduce.reduce(tiny_onevision(), Half(at=(5,))),
    ):
        pass


def test_an_attention_implementation_chosen_inside_stays():
    model = tiny_onevision()
    with tokenreduce.reduce(model, FastV()):
        model.set_attn_implementation("eager")
    assert model.config.text_config._attn_implementation == "eager"


def test_layouts_that_cover_padding_or_miss_rows():
    model, inputs = tiny_onevision(), single()
    layout = Layout.video(start=3, frames=6, rows=2, columns=2, length=33)
    mask = inputs["attention_mask"].clone()
    mask[:, :5] = 0
    with (
        tokenreduce.reduce(model, Half(), layout=layout),
        pytest.raises(LayoutError, match="padding"),
        torch.no_grad(),
    ):
        model(**{**inputs, "attention_mask": mask})
    double = batch([[1, 2, 3, *video_ids(6), 5, 6, 7, 8, 9]] * 2, 2, 6)
    assert double["input_ids"].eq(VIDEO).sum() == 50
    with (
        tokenreduce.reduce(model, Half(), layout=layout),
        pytest.raises(LayoutError, match="1 samples of 33"),
        torch.no_grad(),
    ):
        model(**double)


class Lost(Reducer):
    """Says nothing useful about its layers."""

    name = "lost"
    said: Any = None

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        if self.said == "raise":
            raise ValueError("no idea")
        answer: tuple[int, ...] = self.said
        return answer

    def plan(self, view: View) -> Plan | None:
        return None


@pytest.mark.parametrize(
    ("said", "why"), [(None, "TypeError"), (("two",), "TypeError"), ("raise", "no idea")]
)
def test_a_reducer_that_names_no_layers_is_one_sentence(said: Any, why: str) -> None:
    with pytest.raises(ReducerError, match=rf"'lost' does not say .* 4 layers it acts \(.*{why}"):
        stages((Lost(said=said),), num_layers=4, first_layer=-1)
