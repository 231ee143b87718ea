"""Refuse compiled models: torch.compile would trace the reduction's own hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import accumulate

from torch import nn

from tokenreduce.errors import UnsupportedError


def check_not_compiled(model: nn.Module, layers: Sequence[nn.Module]) -> None:
    """Refuse models of which anything that holds decoder layers, or their attention, is compiled.

    Tracing a session's hooks takes minutes, ends at torch's limit of recompilations and gains
    nothing. Parts that a session leaves alone, such as the MLPs, may be compiled.

    Parameters
    ----------
    model
        A transformers model.
    layers
        Its decoder layers; none: only the model itself is looked at.

    Raises
    ------
    UnsupportedError
        Naming the first such part.
    """
    for name, part in _hooked(model, layers):
        if _is_compiled(part):
            raise UnsupportedError(
                f"{name or type(model).__name__} is compiled: reduction acts between the decoder "
                "layers and within their attention, which torch.compile cannot trace. Compile what "
                "it leaves alone, such as "
                "`for layer in model.get_decoder().layers: layer.mlp.compile(dynamic=True)`."
            )


def dispatches(part: nn.Module) -> bool:
    """Return whether a module's forward looks its kernel up in the attention interface."""
    forward = getattr(part.forward, "_torchdynamo_orig_callable", part.forward)
    code = getattr(inspect.unwrap(forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _hooked(model: nn.Module, layers: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the model, what the layers lie in, the layers, and their attention."""
    yield "", model
    if not layers:
        return
    first = next((name for name, part in model.named_modules() if part is layers[0]), "")
    for name in accumulate(first.split(".")[:-1], lambda above, below: f"{above}.{below}"):
        yield name, model.get_submodule(name)
    for index, layer in enumerate(layers):
        yield f"decoder layer {index}", layer
        for name, part in layer.named_children():
            if dispatches(part):
                yield f"{name} of decoder layer {index}", part


def _is_compiled(part: nn.Module) -> bool:
    return (
        hasattr(part, "_orig_mod")  # torch.compile(part)
        or getattr(part, "_compiled_call_impl", None) is not None  # part.compile()
        or hasattr(part.forward, "_torchdynamo_orig_callable")  # its forward was replaced
    )
