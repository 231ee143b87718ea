"""The way in: ``tokenreduce.reduce``, and what it makes of names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

from tokenreduce.adapter import ModelAdapter, claimed_by, require_reducible
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.layout import Layout
from tokenreduce.plugins import load_plugins
from tokenreduce.problems import Report, build
from tokenreduce.reducer import Reducer
from tokenreduce.registry import Registry
from tokenreduce.session import Run, Session


@contextmanager
def reduce(
    model: nn.Module,
    reducer: str | Reducer | Sequence[str | Reducer],
    *,
    seed: int = 0,
    adapter: ModelAdapter | None = None,
    layout: Layout | None = None,
    positions: str = "keep",
    **settings: Any,
) -> Iterator[Run]:
    """Reduce visual tokens in every prefill of ``model`` inside the ``with`` block.

    Parameters
    ----------
    model
        A transformers video-language model that an adapter claims, in ``eval()`` mode.
    reducer
        A reducer's name, an instance, or a sequence of either, which act in that order where they
        meet on a layer.
    seed
        Seeds the reducers that draw at random, together with the layer and the prompt.
    adapter
        What knows the model's family; by default the installed adapter that claims it.
    layout
        Where the visual tokens sit, for callers who pass ``inputs_embeds``; by default the
        adapter finds them in ``input_ids``.
    positions
        What becomes of position ids after a reduction. ``keep``: every token keeps its own, a
        merged one that of its first member. ``renumber``: what a layer holds is numbered 0, 1, 2,
        ... anew, in decode as well. ``mean``: a merged token takes the floored mean over the
        originals it stands for.
    **settings
        Settings of a reducer given by name.

    Yields
    ------
    Run
        Its ``trace`` says what the latest prefill did.

    Raises
    ------
    ConfigError
        For unknown names, wrong settings, or layers outside the model.
    AdapterError
        If no adapter claims the model.
    UnsupportedError
        For what cannot be exact under reduction; raised before any compute.

    Examples
    --------
    >>> with reduce(model, "vas", ratio=0.3) as run:  # doctest: +SKIP
    ...     out = model.generate(**inputs, max_new_tokens=32)
    >>> run.trace.img_memory  # doctest: +SKIP
    """
    registry = load_plugins().registry
    reducers = resolve_reducers(reducer, settings, registry)
    known = adapter or find_adapter(model, registry)
    session = Session(model, known, reducers, seed=seed, layout=layout, positions=positions)
    with session.attached() as run:
        yield run


def resolve_reducers(
    reducer: str | Reducer | Sequence[str | Reducer], settings: dict[str, Any], registry: Registry
) -> tuple[Reducer, ...]:
    """Return reducer instances for names, instances, or a sequence of either.

    Raises
    ------
    ConfigError
        For unknown names and wrong settings, and for settings beside anything but one name.
    """
    if isinstance(reducer, str):
        return (make_reducer(reducer, settings, registry),)
    if settings:
        raise ConfigError(
            f"settings {', '.join(settings)} go with one reducer given by name: give each reducer "
            "of a list, and each instance, its own."
        )
    if isinstance(reducer, Reducer):
        return (reducer,)
    return tuple(
        one if isinstance(one, Reducer) else make_reducer(one, {}, registry) for one in reducer
    )


def make_reducer(name: str, settings: dict[str, Any], registry: Registry) -> Reducer:
    """Return a configured reducer.

    Raises
    ------
    ConfigError
        If the name is unknown or a setting is wrong; all wrong settings are named.
    """
    report = Report()
    made = build(registry.reducer(name), settings, (), report)
    report.raise_if_any(f"the settings of the reducer '{name}'")
    return cast("Reducer", made)


def find_adapter(model: nn.Module, registry: Registry) -> ModelAdapter:
    """Return the adapter that claims a model.

    Raises
    ------
    AdapterError
        If none does.
    UnsupportedError
        If none can: reduction would not be exact on this family.
    """
    for kind in registry.adapters.values():
        adapter = kind()
        if claimed_by(adapter, model):
            return adapter
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    require_reducible(model_type)
    known = sorted(t for kind in registry.adapters.values() for t in kind.model_types)
    raise AdapterError(
        f"no adapter claims {type(model).__name__} (model_type '{model_type}'); there are adapters "
        f"for: {', '.join(known)}. A plugin can bring one, and tokenreduce.reduce(..., "
        "adapter=Generic(rows, columns)) of tokenreduce_model_adapters.generic takes any model "
        "whose frames have that grid."
    )
