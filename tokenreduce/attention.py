"""Attention for scoring, taken where the model's own kernel already has queries and keys.

The model's attention implementation is wrapped under a registered name. The wrapper runs the
kernel unchanged and keeps what scoring needs: the few query rows that a reducer declared, and a
reference to the keys. Weights are computed for those rows only, in chunks; a map of all rows by
all columns never exists.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenreduce.errors import UnsupportedError
from tokenreduce.masks import Sight
from tokenreduce.view import Heads

SUPPORTED = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(slots=True)
class Capture:
    """Queries and keys of one layer in one forward.

    Attributes
    ----------
    rows
        Per sample ``[heads, rows, head_dim]``: queries of the sample's text rows; empty if nobody
        asks for them.
    key
        ``[batch, key_heads, keys, head_dim]``, earlier turns first.
    everything
        Per sample ``[heads, tokens]`` float32: weight received by each of the forward's tokens,
        summed over all query rows; None unless a reducer asked for all rows.
    scaling
        Factor of the scores.
    earlier
        ``[batch, past]`` bool: keys from earlier turns, false at padding.
    sight
        What the layer's queries see; None: every key up to themselves.
    padded
        Whether any key is padding.
    """

    rows: list[Tensor]
    key: Tensor
    everything: list[Tensor] | None
    scaling: float
    earlier: Tensor
    sight: Sight | None
    padded: bool

    @property
    def past(self) -> int:
        """Keys from earlier turns."""
        return int(self.earlier.shape[1])


def received(
    query: Tensor,
    key: Tensor,
    visible: Callable[[slice], Tensor] | None,
    scaling: float,
    seen: Tensor | None = None,
) -> Tensor:
    """Return the attention weight that each key receives, summed over query rows.

    Parameters
    ----------
    query
        ``[heads, rows, head_dim]``.
    key
        ``[key_heads, keys, head_dim]``; a key head serves ``heads / key_heads`` query heads.
    visible
        Given a slice of rows, ``[rows, keys]`` bool; None: every row sees every key, up to what
        ``seen`` says.
    scaling
        Factor of the scores.
    seen
        ``[rows]`` int64 on the CPU, ascending: how many of the first keys each row sees; the others
        are not even scored. None: all.

    Returns
    -------
    Tensor
        ``[heads, keys]`` float32.
    """
    heads, rows, width = query.shape
    key_heads, keys, _ = key.shape
    total = torch.zeros(heads, keys, dtype=torch.float32, device=query.device)
    # The scores of head_dim rows take less memory than what the layer's own MLP needs.
    step = max(1, width)
    for start in range(0, rows, step):
        chunk = query[:, start : start + step]
        count = chunk.shape[1]
        some, every = (keys, keys) if seen is None else _bounds(seen[start : start + step])
        # Scaled before the product, as fused kernels do: in float16 the product may overflow.
        grouped = (chunk * scaling).reshape(key_heads, -1, width)
        scores = (grouped @ key[:, :some].transpose(1, 2)).view(heads, count, some)
        if visible is not None:
            hidden = ~visible(slice(start, start + count))
            scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        if seen is not None and every < some:
            late = torch.arange(every, some) >= seen[start : start + count, None]
            scores[..., every:].masked_fill_(late.to(scores.device), torch.finfo(scores.dtype).min)
        total[:, :some] += scores.softmax(dim=-1, dtype=torch.float32).sum(dim=1)
    return total


def _bounds(seen: Tensor) -> tuple[int, int]:
    """Return how many of the first keys any of the rows sees, and how many all of them see."""
    return int(seen[-1]), int(seen[0])


def over_heads(weight: Tensor, heads: Heads) -> Tensor:
    """Return ``[heads, tokens]`` weights as they are, or their mean or sum ``[tokens]``."""
    if heads == "each":
        return weight
    return weight.mean(0) if heads == "mean" else weight.sum(0)


class Probe:
    """Keeps queries and keys of the layers that reducers will ask about.

    Attributes
    ----------
    captures
        Per layer, what the running forward has left so far.
    want
        Set by the scheduler before a layer runs: ``(layer, row columns per sample, all rows)``.
    """

    def __init__(self) -> None:
        self.captures: dict[int, Capture] = {}
        self.want: Want | None = None
        self._peeked: list[tuple[Tensor, Tensor, float]] = []
        self._peeking = False

    @torch.no_grad()
    def peek(self, layer: nn.Module, hidden: Tensor, rope: Any) -> tuple[Tensor, Tensor, float]:
        """Return queries, keys and scaling that ``layer`` would make of ``hidden``.

        Parameters
        ----------
        layer
            A decoder layer with ``input_layernorm`` and ``self_attn``.
        hidden
            ``[batch, tokens, dim]``.
        rope
            ``(cos, sin)``, each ``[batch, tokens, head_dim]``.
        """
        block: Any = layer
        if not hasattr(block, "input_layernorm") or not hasattr(block, "self_attn"):
            raise UnsupportedError(
                f"{type(layer).__name__} has no input_layernorm and self_attn of its own: "
                "attention of the next layer cannot be asked of this model."
            )
        self._peeking, self._peeked = True, []
        try:
            block.self_attn(
                hidden_states=block.input_layernorm(hidden),
                position_embeddings=rope,
                attention_mask=None,
                past_key_values=None,
            )
        except _PeekDoneError:
            pass
        finally:
            self._peeking = False
        if not self._peeked:
            raise UnsupportedError(
                f"{type(layer).__name__} does not call the attention interface: attention of the "
                "next layer cannot be asked of this model."
            )
        return self._peeked[0]

    @torch.no_grad()
    def saw(self, module: nn.Module, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """Take what is wanted of one attention call."""
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self._peeking:
            self._peeked = [(query, key, scale)]
            raise _PeekDoneError
        want = self.want
        if want is None or all(module is not part for part in want.owner.children()):
            return
        self.want = None
        device = query.device
        rows = [query[b].index_select(1, at.to(device)) for b, at in enumerate(want.rows)]
        earlier = want.earlier.to(device)
        everything = None
        if want.everything:
            everything = [
                received_by_all(
                    query[b],
                    key[b],
                    want.positions[b].to(device),
                    scale,
                    earlier[b],
                    want.sight and want.sight.of_sample(b),
                )
                for b in range(query.shape[0])
            ]
        self.captures[want.layer] = Capture(
            rows, key, everything, scale, earlier, want.sight, want.padded
        )

    def of(self, number: int, layer: nn.Module) -> Capture:
        """Return what ``layer`` has left; raises :class:`UnsupportedError` if that is nothing."""
        if number not in self.captures:
            raise UnsupportedError(
                f"{type(layer).__name__} {number} did not call the attention interface: its "
                "attention cannot be asked."
            )
        return self.captures[number]


@dataclass(frozen=True, slots=True)
class Want:
    """What to take of the layer that is about to run.

    Attributes
    ----------
    layer, owner
        Its index, and the layer itself.
    rows
        Per sample ``[rows]`` int64: places of the text rows among the forward's tokens; empty if
        nobody asks for them.
    positions
        ``[batch, tokens]`` int64 original positions of the forward's tokens, -1 at padding.
    everything
        Whether the weight received from all rows is wanted.
    earlier
        ``[batch, past]`` bool: keys that the layer holds already, false at padding.
    sight
        What its queries see; None: every key up to themselves.
    padded
        Whether any of its keys will be padding.
    """

    layer: int
    owner: nn.Module
    rows: list[Tensor]
    positions: Tensor
    everything: bool
    earlier: Tensor
    sight: Sight | None
    padded: bool


def received_by_all(
    query: Tensor,
    key: Tensor,
    positions: Tensor,
    scaling: float,
    earlier: Tensor,
    sight: Sight | None = None,
) -> Tensor:
    """Return the weight each of a forward's tokens receives from all of its rows.

    Parameters
    ----------
    query
        ``[heads, tokens, head_dim]``.
    key
        ``[key_heads, past + tokens, head_dim]``.
    positions
        ``[tokens]`` int64, -1 at padding, which neither asks nor is asked.
    scaling
        Factor of the scores.
    earlier
        ``[past]`` bool: keys before the forward's first token, false at padding.
    sight
        What this sample's queries see; None: every key up to themselves.

    Returns
    -------
    Tensor
        ``[heads, tokens]`` float32.
    """
    alive = (positions >= 0).nonzero().squeeze(1)
    before = earlier.nonzero().squeeze(1)
    columns = torch.cat([before, alive + earlier.numel()])
    past = before.numel()
    alive_query, alive_key = query, key
    if columns.numel() < key.shape[1]:
        alive_query, alive_key = query.index_select(1, alive), key.index_select(1, columns)
    visible: Callable[[slice], Tensor] | None = None
    seen: Tensor | None = torch.arange(past + 1, alive_key.shape[1] + 1)
    if sight is not None:
        rest = replace(sight, earlier=sight.earlier[before.to(sight.earlier.device)])
        visible, seen = rest.on(positions[alive], positions[alive]), None
    total = torch.zeros(query.shape[0], query.shape[1], dtype=torch.float32, device=query.device)
    total[:, alive] = received(alive_query, alive_key, visible, scaling, seen)[:, past:]
    return total


@contextmanager
def wrapped_attention(config: Any, probe: Probe) -> Iterator[None]:
    """Route the decoder's attention through ``probe`` while the context is open.

    Parameters
    ----------
    config
        The decoder's configuration, which its attention modules read.

    Raises
    ------
    UnsupportedError
        If the model's attention implementation is not one of :data:`SUPPORTED`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    current = config._attn_implementation
    require_supported(current)
    kernel = None if current == "eager" else ALL_ATTENTION_FUNCTIONS[current]

    def probing(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        probe.saw(module, query, key, kwargs.get("scaling"))
        run = kernel or _eager_of(module)
        return run(module, query, key, *args, **kwargs)

    # transformers looks for "flash" in the name, so the wrapped name is part of ours.
    name = f"tokenreduce_{current}"
    serial = 2
    while name in ALL_ATTENTION_FUNCTIONS.valid_keys():
        name, serial = f"tokenreduce_{serial}_{current}", serial + 1
    AttentionInterface.register(name, probing)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[current])
    config._attn_implementation = name
    try:
        yield
    finally:
        if config._attn_implementation == name:  # a change made meanwhile is the user's
            config._attn_implementation = current
        # Registering writes a class-wide mapping, and there is no call that takes a name back.
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def require_supported(implementation: str | None) -> None:
    """Check that masks can be built for an attention implementation.

    Raises
    ------
    UnsupportedError
        If it is not one of :data:`SUPPORTED`.
    """
    if implementation not in SUPPORTED:
        raise UnsupportedError(
            f"attention implementation '{implementation}' is not supported under reduction: load "
            f"the model with attn_implementation= one of {', '.join(SUPPORTED)}."
        )


def _eager_of(module: nn.Module) -> Callable[..., Any]:
    # Each modeling file has an eager function of its own; "eager" is not in the registry.
    modeling: Any = sys.modules[type(module).__module__]
    function: Callable[..., Any] = modeling.eager_attention_forward
    return function


class _PeekDoneError(Exception):
    """Leaves an attention module once its queries and keys are known."""
