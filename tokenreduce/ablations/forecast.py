"""Schedules without a model: how many tokens each layer would run over, and what that costs.

Reducers are asked as ever, on a decoder with as many layers as the model's and next to no width,
over a prompt laid out as the model's would be. Attention is the same in every layer, so that of a
method that follows attention only the forced schedule acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.ablations.contents import counts_follow_settings
from tokenreduce.adapter import Checkpoint, Inputs, Processor
from tokenreduce.bench.pattern import seen_by
from tokenreduce.bench.random_weights import random_decoder
from tokenreduce.bench.shapes import TextShape
from tokenreduce.bench.subject import ShapeAdapter
from tokenreduce.cost import DecoderShape, kv_bytes, prefill_cost
from tokenreduce.course import Variant
from tokenreduce.inference import Loaded
from tokenreduce.layout import Layout
from tokenreduce.sharing import run_each

if TYPE_CHECKING:
    from torch import nn

    from tokenreduce.reducer import Reducer
    from tokenreduce.trace import Trace

NARROW = 16
"""Width of the decoder that schedules are tried on."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The prefill of one question in one cell.

    Attributes
    ----------
    tokens
        Tokens that each layer runs over, text included.
    visual
        How many of them are grid tokens.
    path
        What has been done to the prompt before each layer: equal for cells that can share it.
    """

    tokens: tuple[int, ...]
    visual: tuple[int, ...]
    path: tuple[int, ...]

    def flops(self, shape: DecoderShape) -> int:
        """Return the FLOPs of the prefill."""
        return prefill_cost(shape, self.tokens).total

    def kv_bytes(self, shape: DecoderShape, element_bytes: int) -> int:
        """Return the bytes of keys and values after it."""
        return kv_bytes(shape, self.tokens, element_bytes)


class Forecaster:
    """Tries schedules on a narrow decoder.

    Parameters
    ----------
    layers
        Decoder layers of the model.
    first_layer
        The first of them after which tokens may be reduced; -1: before the first layer.
    """

    def __init__(self, layers: int, first_layer: int = -1) -> None:
        text = TextShape("llama", layers, NARROW, NARROW, 1, 1, NARROW, NARROW)
        self._model = random_decoder(text, dtype="float32", device="cpu", attention="sdpa")
        self._first_layer = first_layer

    def forecasts(self, layout: Layout, variants: Sequence[Variant]) -> list[Forecast]:
        """Return the prefill of a prompt under each list of reducers.

        Parameters
        ----------
        layout
            Of the prompt, ``[1, tokens]``.
        variants
            Reducers and seeds.

        Raises
        ------
        ConfigError
            If a layer does not exist in the model.
        ReducerError
            If a reducer makes no valid plan.
        """
        (reducers, seed), *others = [
            Variant([seen_by(reducer, "published") for reducer in reducers], seed)
            for reducers, seed in variants
        ]
        loaded, inputs = self._narrow(layout)
        session = loaded.session(reducers, seed, others=others)
        model = self._model
        outcomes = run_each(
            session, lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False)
        )
        known: dict[Any, int] = {}
        found = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            found.append(_forecast(outcome.trace, known))
        return found

    def depends_on_content(self, reducers: Sequence[Reducer]) -> bool:
        """Return whether what reducers remove depends on what the video shows."""
        layout = Layout.video(start=4, frames=4, rows=4, columns=4, length=80)
        return not counts_follow_settings(*self._narrow(layout), reducers)

    def _narrow(self, layout: Layout) -> tuple[Loaded, dict[str, Any]]:
        """Return the narrow decoder as a model whose prompts are laid out so, and such a prompt."""
        import torch

        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, NARROW, (1, layout.role.shape[1]), generator=generator)
        adapter = _Narrow(self._first_layer, layout)
        checkpoint = Checkpoint(self._model, cast("Processor", None), "narrow")
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return Loaded("narrow", adapter, checkpoint, "cpu"), inputs


class _Narrow(ShapeAdapter):
    """Adapter of the narrow decoder: it has the layout of the prompt that it stands for."""

    def __init__(self, first_layer: int, layout: Layout) -> None:
        self._first_layer, self._layout = first_layer, layout

    def first_layer(self, model: nn.Module) -> int:
        """Return what is true of the model that it stands for."""
        return self._first_layer

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """Return what is true of the prompt that it stands for."""
        return self._layout


def _forecast(trace: Trace, known: dict[Any, int]) -> Forecast:
    """Return what a trace says; ``known`` numbers what was done to the prompt, in order."""
    tokens = tuple(len(held[0]) for held in trace.kept_positions())
    done: tuple[Any, ...] = ()
    path = []
    for layer in range(trace.num_layers):
        events = [event for event in trace.events if event.layer == layer - 1]
        done += tuple((event.layer, event.kept, event.merged) for event in events)
        path.append(known.setdefault((layer, done), len(known)))
    return Forecast(tokens, trace.tokens_per_layer[0], tuple(path))


def shared(forecasts: Sequence[Forecast]) -> int:
    """Return the tokens that layers run over, a layer once for all prefills equal so far."""
    nodes = {
        node: tokens
        for forecast in forecasts
        for node, tokens in zip(forecast.path, forecast.tokens, strict=True)
    }
    return sum(nodes.values())


def apart(forecasts: Sequence[Forecast]) -> int:
    """Return the tokens that layers run over, each prefill by itself."""
    return sum(sum(forecast.tokens) for forecast in forecasts)
