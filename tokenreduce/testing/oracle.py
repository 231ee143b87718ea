"""The judge: the bare model with dropped tokens masked as keys, and merged ones averaged densely.

Nothing here calls the package's own masks, caches or apply code: the full sequence runs through
every layer, each layer is given a 4-D mask made position by position from what the trace says the
layer holds and from the model's own mask, and a merge is a product with a row-stochastic matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenreduce.api import reduce
from tokenreduce.plan import Plan
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.session import Run, Session
from tokenreduce.testing.check import require
from tokenreduce.view import View

if TYPE_CHECKING:
    from tokenreduce.adapter import ModelAdapter

TOLERANCE = 1e-4
"""Largest difference of logits, in float32."""

Merges = dict[int, list[tuple[int, Tensor]]]
"""``merges[layer]``: ``(sample, matrix)`` to apply to the prompt before ``layer`` runs."""


class Recorder(Reducer):
    """Passes everything on to another reducer, and writes down what it answered."""

    name: ClassVar[str] = "recorder"
    inner: Reducer
    answers: list[tuple[int, list[int], list[int], list[int]]] = Field(default_factory=list)

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers of the other reducer."""
        return self.inner.acts_after(num_layers)

    def needs(self) -> Needs:
        """Return the needs of the other reducer."""
        return self.inner.needs()

    def plan(self, view: View) -> Plan | None:
        """Ask the other reducer."""
        plan = self.inner.plan(view)
        if plan is not None:
            self.answers.append(
                (view.layer, view.index.tolist(), plan.slot.tolist(), view.size.tolist())
            )
        return plan


def dense_matrix(length: int, index: list[int], slot: list[int], size: list[int]) -> Tensor:
    """Return ``[length, length]``, row-stochastic: each slot's first token is its members' mean."""
    matrix = torch.eye(length, dtype=torch.float64)
    for output in sorted({s for s in slot if s >= 0}):
        members = [j for j, s in enumerate(slot) if s == output]
        total = sum(size[j] for j in members)
        row = torch.zeros(length, dtype=torch.float64)
        for j in members:
            row[index[j]] = size[j] / total
        matrix[index[members[0]]] = row
    return matrix


@contextmanager
def masked(
    model: Any,
    held: list[list[list[int]]],
    prompt_length: int,
    merges: Merges | None = None,
    rows_per_sample: int = 1,
    adapter: ModelAdapter | None = None,
) -> Iterator[None]:
    """Run ``model`` as if each layer held only ``held[layer][sample]`` of the prompt.

    Parameters
    ----------
    model
        Nothing of this package is attached to it.
    held
        As of :meth:`tokenreduce.trace.Trace.kept_positions`.
    prompt_length
        Tokens of the prompt, padding included; what follows is generated, and seen by all.
    merges
        Matrices for the prompt's hidden states, by the layer before which they apply.
    rows_per_sample
        Rows of the batch for each sample, as with beams.
    adapter
        Finds the decoder; by default the model's own ``get_decoder``.
    """
    decoder = _decoder(model, adapter)
    layers = decoder.layers
    eager = decoder.config._attn_implementation == "eager"
    hooks = []

    def hook_for(number: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0]
            batch, count, _ = hidden.shape
            cached = getattr(kwargs.get("past_key_values"), "layers", [])
            past = cached[number].get_seq_length() if number < len(cached) else 0
            if past == 0 and merges and number in merges:
                hidden = hidden.clone()
                for sample, matrix in merges[number]:
                    for beam in range(rows_per_sample):
                        row = sample * rows_per_sample + beam
                        merged = matrix @ hidden[row, :prompt_length].double()
                        hidden[row, :prompt_length] = merged.to(hidden.dtype)
            total = past + count
            rule = _model_rule(kwargs["attention_mask"], batch, past, count)
            own = torch.zeros(count, total, dtype=torch.bool)
            own[torch.arange(count), torch.arange(past, total)] = True
            mask = torch.zeros(batch, 1, count, total, dtype=torch.bool)
            for row in range(batch):
                seen = torch.zeros(total, dtype=torch.bool)
                seen[held[number][row // rows_per_sample]] = True
                seen[prompt_length:] = True
                # A dropped token may see itself, so that no row is empty; nobody else sees it.
                mask[row, 0] = (rule[row] & seen[None, :]) | own
            # A layer with a sliding window has let go of the keys before it.
            mask = mask[..., total - _width(kwargs["attention_mask"], total) :]
            if eager:
                blocked = torch.finfo(hidden.dtype).min
                mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, blocked)
            return (hidden, *args[1:]), {**kwargs, "attention_mask": mask}

        return hook

    for number, layer in enumerate(layers):
        hooks.append(layer.register_forward_pre_hook(hook_for(number), with_kwargs=True))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _model_rule(given: Any, batch: int, past: int, count: int) -> Tensor:
    """Return ``[batch, queries, keys]`` bool: what the model's own mask lets its queries see.

    A model that gives its layers no mask leaves the causal rule to the kernel; one that does says
    all in it: windows, and images whose tokens see each other.
    """
    total = past + count
    if not isinstance(given, Tensor):
        return torch.ones(count, total, dtype=torch.bool).tril(past).expand(batch, -1, -1)
    told = given[:, 0] if given.dtype == torch.bool else given[:, 0] == 0
    rule = torch.zeros(batch, count, total, dtype=torch.bool)
    rule[:, :, total - told.shape[2] :] = told
    return rule


def _width(given: Any, total: int) -> int:
    return given.shape[3] if isinstance(given, Tensor) else total


def _decoder(model: Any, adapter: ModelAdapter | None) -> Any:
    return adapter.decoder(model) if adapter else model.get_decoder()


def attach(
    model: Any, reducers: list[Reducer], adapter: ModelAdapter | None = None
) -> AbstractContextManager[Run]:
    """Attach reducers through the public function, or with an adapter that is not installed."""
    if adapter is None:
        return reduce(model, reducers)
    return Session(model, adapter, reducers).attached()


def check_against_oracle(
    model: Any,
    reducers: list[Reducer],
    inputs: dict[str, Tensor],
    *,
    new: int = 16,
    adapter: ModelAdapter | None = None,
    **options: Any,
) -> Run:
    """Generate under reduction and under the oracle; compare every token and every logit.

    Parameters
    ----------
    model, reducers, inputs
        What to run.
    new
        Tokens to generate.
    adapter
        Of a model family that is not installed.
    **options
        For ``generate``.

    Raises
    ------
    ConformanceError
        If any token or logit differs.
    """
    recorders = [Recorder(inner=reducer, answers=[]) for reducer in reducers]
    settings = {
        "max_new_tokens": new,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
        **options,
    }
    rows = max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        with attach(model, [*recorders], adapter) as run:
            reduced = model.generate(**inputs, **settings)
        held = [row[::rows] for row in run.trace.kept_positions()]
        merges = dense_merges(run.trace, recorders, length, rows)
        with masked(model, held, length, merges, rows, adapter):
            expected = model.generate(**inputs, **settings)
    for step, (ours, theirs) in enumerate(zip(reduced.logits, expected.logits, strict=True)):
        require_close(ours, theirs, f"step {step}")
    require(torch.equal(reduced.sequences, expected.sequences), "the generated tokens differ")
    return run


def require_close(ours: Tensor, theirs: Tensor, where: str) -> None:
    """Raise :class:`ConformanceError` if logits differ by more than the tolerance."""
    difference = (ours - theirs).abs().max().item()
    require(
        difference <= TOLERANCE,
        f"{where}: logits differ by {difference:.3g} from those of the full model with the dropped "
        f"tokens masked and the merged ones averaged (allowed: {TOLERANCE:.0e})",
    )


def dense_merges(trace: Any, recorders: list[Recorder], length: int, rows: int = 1) -> Merges:
    """Pair the recorded answers with the samples of the trace's events, in order."""
    answers = sorted(
        (
            (layer, number, order)
            for number, r in enumerate(recorders)
            for order, (layer, *_) in enumerate(r.answers)
        )
    )
    events = list(trace.events)
    acted = [
        recorders[number].answers[order]
        for layer, number, order in answers
        if max(recorders[number].answers[order][2]) + 1 < len(recorders[number].answers[order][2])
    ]
    require(len(acted) == len(events), "the trace lists other reductions than those answered")
    merges: Merges = {}
    for event, (layer, index, slot, size) in zip(events, acted, strict=True):
        require(event.layer == layer, "the trace lists reductions in another order")
        if event.sample % rows:
            continue
        matrix = dense_matrix(length, index, slot, size)
        merges.setdefault(layer + 1, []).append((event.sample // rows, matrix))
    return merges
