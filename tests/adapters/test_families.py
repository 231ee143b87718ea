"""Every model family: where its tokens sit, by the model's own embeddings; and exactness."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters.family import KINDS, FamilyCase, Inputs, families
from tokenreduce import Reducer
from tokenreduce.course import Variant
from tokenreduce.layout import Layout, Role
from tokenreduce.session import Session
from tokenreduce.sharing import run_each
from tokenreduce.testing import AdapterCase, checks_for
from tokenreduce.testing.adapter_checks import EverySecond, Pairs
from tokenreduce.testing.oracle import check_against_oracle

FAMILIES = {case.name: case for case in families()}
PROMPTS = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in FAMILIES.values()
    for kind in case.prompts
]
VISUAL = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in FAMILIES.values()
    for kind in case.visual
]
NEW_TOKENS = 8


def conformance() -> list[Any]:
    found = []
    for case in FAMILIES.values():
        subject = AdapterCase(case.adapter, case.model, case.prompts["ragged"], case.save)
        for check in checks_for(subject):
            found.append(pytest.param(subject, check, id=f"{case.name}-{check.name}"))
    return found


@pytest.mark.parametrize(("subject", "check"), conformance())
def test_conformance(subject: AdapterCase, check: Any) -> None:
    check.function(subject)


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES.keys())
def test_prompts_are_of_known_kinds_and_ragged_is_padded(case: FamilyCase) -> None:
    assert {"text", "ragged"} <= set(case.prompts) <= set(KINDS)
    mask = case.prompts["ragged"]()["attention_mask"]
    assert mask.shape[0] > 1
    assert not mask.all()
    assert mask[:, -1].all()


@pytest.mark.parametrize(("case", "kind"), VISUAL)
def test_dropping_and_merging_equal_the_oracle(case: FamilyCase, kind: str) -> None:
    first = case.adapter.first_layer(case.model())
    for reducer in (EverySecond(layers=(first, first + 2)), Pairs(layers=(first + 1,))):
        model, inputs = case.model(), case.prompts[kind]()
        run = check_against_oracle(model, [reducer], inputs, new=NEW_TOKENS, adapter=case.adapter)
        assert run.trace.img_memory < 1


@pytest.mark.parametrize(("case", "kind"), VISUAL)
def test_shared_prefixes_change_nothing(case: FamilyCase, kind: str) -> None:
    first = case.adapter.first_layer(case.model())
    rows: list[list[Reducer]] = [
        [],
        [EverySecond(layers=(first,))],
        [EverySecond(layers=(first, first + 2))],
        [Pairs(layers=(first + 1,))],
    ]
    model, inputs = case.model(), case.prompts[kind]()

    def call() -> Tensor:
        tokens: Tensor = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        return tokens

    session = Session(
        model, case.adapter, rows[0], others=[Variant(reducers) for reducers in rows[1:]]
    )
    for reducers, outcome in zip(rows, run_each(session, call), strict=True):
        assert not isinstance(outcome, Exception), outcome
        with Session(model, case.adapter, reducers).attached() as run:
            assert outcome.result.tolist() == call().tolist()
            assert outcome.trace.tokens_per_layer == run.trace.tokens_per_layer
            assert outcome.trace.segments == run.trace.segments


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES.keys())
def test_text_alone_has_nothing_to_reduce(case: FamilyCase) -> None:
    layout = case.adapter.layout(case.model(), case.prompts["text"]())
    assert not layout.has_grid


@contextmanager
def marked(model: Any, methods: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Replace every feature that the model's own methods return by a number, from 1000 on."""
    inner, counts = model.base_model, dict.fromkeys(methods, 0)

    def numbered(name: str, features: Tensor) -> Tensor:
        flat = features.reshape(-1, features.shape[-1])
        start = counts[name]
        counts[name] += len(flat)
        numbers = torch.arange(start, counts[name], dtype=features.dtype) + 1000
        return numbers[:, None].expand_as(flat).reshape(features.shape)

    def replace(name: str) -> Any:
        own = getattr(inner, name)

        def encode(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            found = output.pooler_output
            if isinstance(found, Tensor):
                output.pooler_output = numbered(name, found)
            else:
                output.pooler_output = type(found)(numbered(name, one) for one in found)
            return output

        return encode

    for name in methods:
        inner.__dict__[name] = replace(name)
    try:
        yield counts
    finally:
        for name in methods:
            del inner.__dict__[name]


def embeddings(case: FamilyCase, model: Any, inputs: Inputs) -> Tensor:
    """Return what the first decoder layer is given: ``[batch, tokens, dim]``."""
    seen: list[Tensor] = []

    def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    layer = case.adapter.decoder(model).layers[0]
    hook = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        hook.remove()
    return seen[0]


def visual(layout: Layout) -> Tensor:
    return (layout.role == int(Role.GRID)) | (layout.role == int(Role.CLS))


MARKED = [entry for entry in VISUAL if entry.values[0].features]


@pytest.mark.parametrize(("case", "kind"), MARKED)
def test_features_are_found_where_the_layout_says(case: FamilyCase, kind: str) -> None:
    """Every number is found once, in order; and at all grid tokens there is a number."""
    model, inputs = case.model(), case.prompts[kind]()
    layout = case.adapter.layout(model, inputs)
    with marked(model, case.features) as counts:
        values = embeddings(case, model, inputs)[..., 0]
    found = values[values >= 1000].long() - 1000
    assert sorted(found.tolist()) == sorted(n for count in counts.values() for n in range(count))
    assert bool((values[visual(layout)] >= 1000).all())
    assert bool((layout.role[values >= 1000] > int(Role.TEXT)).all())


PROBED = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in FAMILIES.values()
    for kind in case.probed
]


@pytest.mark.parametrize(("case", "kind"), PROBED)
def test_cells_are_where_their_pixels_are(case: FamilyCase, kind: str) -> None:
    """What changes most with the pixels of a cell is the token that the layout puts there."""
    assert case.probes is not None
    assert case.unmixed is not None
    model, inputs = case.model(), case.prompts[kind]()
    case.unmixed(model)
    layout = case.adapter.layout(model, inputs)
    before = embeddings(case, model, inputs)
    probed = 0
    for other, sample, cell in case.probes(model, inputs):
        change = (embeddings(case, model, other) - before).abs().sum(dim=-1)
        assert not change[:sample].any()
        token = int(change[sample].argmax())
        parts = (layout.item, layout.frame, layout.row, layout.column)
        assert tuple(int(part[sample, token]) for part in parts) == cell
        probed += 1
    assert probed > 1
