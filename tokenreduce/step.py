"""One forward of the decoder under reduction: what each of its layers is given instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenreduce.branch import Branch, cached_layers
from tokenreduce.cache import Held, ReducedCache
from tokenreduce.errors import AdapterError
from tokenreduce.masks import Sight, layer_mask, require_known_mask
from tokenreduce.positions import Policy, Rotary, averaged, renumbered
from tokenreduce.scheduler import Prefill, Surroundings

MakePrefill = Callable[[Tensor, tuple[Tensor, Tensor], Surroundings], Prefill]


class Step:
    """Masks, positions and bookkeeping of one forward.

    Parameters
    ----------
    cache
        The session's cache, or None for a forward without one.
    valid
        ``[batch, past + tokens]`` bool: the sequence so far, false at padding.
    past
        Tokens in the cache, dropped ones included.
    implementation
        Name of the attention implementation.
    make_prefill
        Makes the prefill to reduce out of the input embeddings and rotary embeddings; None if
        there is nothing to reduce.
    positions
        What becomes of position ids.
    rotary
        The decoder's rotary embedding.
    windows
        Per layer, how many positions its queries look back over; None: all of them.
    blocks
        ``[batch, tokens]`` int64, see :meth:`tokenreduce.adapter.ModelAdapter.blocks`.
    branch
        Where to go on, instead of starting from the embeddings; None: start.

    Attributes
    ----------
    branches
        Where lists of reducers have parted from those of this forward, in order.
    """

    def __init__(
        self,
        cache: ReducedCache | None,
        valid: Tensor,
        past: int,
        implementation: str,
        make_prefill: MakePrefill | None,
        positions: Policy,
        rotary: Rotary,
        windows: Sequence[int | None],
        blocks: Tensor | None,
        branch: Branch | None = None,
    ) -> None:
        self._positions, self._rotary = positions, rotary
        # A window as long as the sequence hides nothing.
        self._windows = [w if w and w < valid.shape[1] else None for w in windows]
        self._blocks = blocks
        self._checked: set[int | None] = set()
        self._ids: Tensor | None = None
        self._given: tuple[Tensor, Tensor] | None = None
        self._rope: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.cache, self.past, self.implementation = cache, past, implementation
        self.make_prefill = make_prefill
        self.prefill: Prefill | None = None
        self.count = valid.shape[1] - past
        self.held: list[Held | None] = list(cache.held) if cache else [None] * len(windows)
        self._valid = valid
        self._joined: dict[tuple[int, int], Held] = {}
        self._keep_alive: list[object] = []
        self._full: Tensor | None = None
        self._now: dict[int, Held] = {}
        self._before: dict[int, Held] = {}
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self.branches: list[Branch] = []
        self._branch = branch
        if branch is not None:
            self.held[: branch.fork.layer] = branch.held
            self._now |= branch.now
            self._keep_alive += branch.kept_alive

    @property
    def full(self) -> Tensor:
        """``[batch, past + tokens]`` int64: every position so far, -1 at padding."""
        if self._full is None:
            order = torch.arange(self._valid.shape[1], device=self._valid.device)
            self._full = order.expand_as(self._valid).masked_fill(~self._valid, -1)
        return self._full

    def before_layer(
        self, layer: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """Reduce, and give the layer the mask and positions of the tokens that are left.

        Parameters
        ----------
        layer
            Index of the layer about to run.
        hidden
            ``[batch, tokens, dim]`` its input.
        kwargs
            What the decoder calls it with.

        Returns
        -------
        tuple or None
            Input and keyword arguments to use; None to leave the call as it is.
        """
        if layer == 0 and self.make_prefill is not None:
            rope = _require_rope(kwargs, hidden)
            self.prefill = self.make_prefill(hidden, rope, self)
            self._ids = kwargs.get("position_ids")
        if self._branch is not None and layer < self._branch.fork.layer:
            return None
        prefill, held = self.prefill, self.cache.held[layer] if self.cache else None
        self._given = kwargs.get("position_embeddings")
        if prefill is not None:
            if held is None:
                self._check_mask(layer, kwargs["attention_mask"])
            prefill.rope = kwargs["position_embeddings"]
            hidden = self._through(prefill, layer, hidden)
        untouched = prefill is None or prefill.tokens.untouched
        if untouched and held is None:
            joins = self._branch is not None and layer == self._branch.fork.layer
            return (hidden, kwargs) if joins else None
        now = self._current()
        keys = self._keys(layer, now)
        self.held[layer] = keys
        changed = dict(kwargs, attention_mask=self._mask(layer, keys, now, hidden))
        if self._positions == "renumber" or not untouched:
            changed["position_embeddings"] = self._rope_of(layer, keys, hidden)
            # Gaps in position ids read as packed sequences to flash attention; the true positions
            # are in the rotary embeddings already.
            changed["position_ids"] = None
        return hidden, changed

    def _through(self, prefill: Prefill, layer: int, hidden: Tensor) -> Tensor:
        """Return what a layer is given of ``hidden`` ``[batch, left, dim]``."""
        if self._branch is not None and layer == self._branch.fork.layer:
            prefill.enter(layer)
            return self._branch.fork.hidden
        hidden = prefill.before_layer(layer, hidden)
        for fork in prefill.forks:
            branch = Branch(
                fork,
                tuple(self.held[:layer]),
                dict(self._now),
                tuple(self._keep_alive),
                cached_layers(self.cache, layer),
                self._valid,
                self._blocks,
            )
            self.branches.append(branch)
        prefill.forks = []
        return hidden

    def earlier(self, layer: int) -> Tensor:
        """See :meth:`tokenreduce.scheduler.Surroundings.earlier`."""
        return self._earlier_positions(layer) >= 0

    def sight(self, layer: int) -> Sight | None:
        """See :meth:`tokenreduce.scheduler.Surroundings.sight`."""
        window = self._windows[layer]
        if window is None and self._blocks is None:
            return None
        return Sight(window, self._blocks, self.past, self._earlier_positions(layer))

    def earlier_keys(self, layer: int) -> Tensor | None:
        """See :meth:`tokenreduce.scheduler.Surroundings.earlier_keys`."""
        return self.cache.layers[layer].keys if self.cache is not None and self.past else None

    def rope_at(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`tokenreduce.scheduler.Surroundings.rope_at`."""
        prefill = self.prefill
        assert prefill is not None
        held = self.cache.held[layer] if self.cache else None
        if held is None and prefill.tokens.untouched:
            return prefill.rope
        return self._rope_of(layer, self._keys(layer, self._current()), hidden)

    def _rope_of(self, layer: int, keys: Held, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin of the tokens that are left at a layer that holds ``keys``."""
        prefill = self.prefill
        if self._positions == "keep":
            assert prefill is not None
            return prefill.rope_left()
        # Layers of one kind are given the same rotary embeddings.
        rope = (id(keys), id(self._given[0]) if self._given else 0)
        if rope not in self._rope:
            if self._positions == "renumber":
                ids = renumbered(keys, hidden.shape[1])
            else:
                assert prefill is not None
                ids = averaged(prefill.tokens, _require_ids(self._ids, prefill.tokens.owner))
            self._keep_alive.append(self._given)
            self._rope[rope] = self._rotary(hidden, ids.to(hidden.device), layer)
        return self._rope[rope]

    def _current(self) -> Held:
        """Return the positions of this forward's tokens that are left."""
        index = self.full if self.prefill is None else self.prefill.tokens.index
        if id(index) not in self._now:
            positions = self.full[:, self.past :]
            if self.prefill is not None:
                positions = torch.where(index >= 0, index + self.past, index)
            self._keep_alive.append(index)
            self._now[id(index)] = self._held(positions)
        return self._now[id(index)]

    def _held(self, positions: Tensor) -> Held:
        # A decode step adds one real token to every sample: no need to look.
        return Held(positions, False) if self.count == 1 else Held.of(positions)

    def _keys(self, layer: int, now: Held) -> Held:
        """Return what a layer holds together with ``now``."""
        earlier = self._earlier(layer)
        key = (id(earlier), id(now))
        if key not in self._joined:
            self._joined[key] = now if earlier is None else earlier.joined(now)
        return self._joined[key]

    def _earlier(self, layer: int) -> Held | None:
        """Return what a layer holds from before this forward; None if that is nothing."""
        if self.cache is None or not self.past:
            return None
        held = self.cache.held[layer]
        if held is not None:
            return held
        # Every position so far, or the last of them if the layer has a sliding window.
        count = self.cache.layers[layer].keys.shape[2]
        if count not in self._before:
            self._before[count] = Held.of(self.full[:, : self.past]).last(count)
        return self._before[count]

    def _earlier_positions(self, layer: int) -> Tensor:
        earlier = self._earlier(layer)
        return self.full[:, :0] if earlier is None else earlier.positions

    def _check_mask(self, layer: int, mask: Any) -> None:
        window = self._windows[layer]
        if window not in self._checked:
            self._checked.add(window)
            sight = Sight(window, self._blocks, self.past, self.full[:, :0])
            require_known_mask(mask, sight, self.full, self.count)

    def _mask(self, layer: int, keys: Held, now: Held, hidden: Tensor) -> Tensor | None:
        key = (id(keys), self._windows[layer])
        if key not in self._masks:
            sight = self.sight(layer)
            self._masks[key] = layer_mask(keys, now, self.implementation, hidden.dtype, sight)
        return self._masks[key]


def _require_ids(ids: Tensor | None, like: Tensor) -> Tensor:
    """Check that position ids are one number per token; raises :class:`AdapterError`."""
    if ids is None or ids.dim() != 2 or ids.shape[1] != like.shape[1]:
        given = "none" if ids is None else str(tuple(ids.shape))
        raise AdapterError(
            f"decoder layers of this model are given position ids of shape {given}, not one number "
            "per token: use positions='keep'."
        )
    return ids.expand_as(like)


def _require_rope(kwargs: dict[str, Any], hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Check that layers are called as this session relies on; raises :class:`AdapterError`."""
    rope: Any = kwargs.get("position_embeddings")
    fits = isinstance(rope, tuple) and len(rope) == 2 and rope[0].dim() == 3
    if not fits or rope[0].shape[1] != hidden.shape[1] or "attention_mask" not in kwargs:
        given = ", ".join(sorted(kwargs)) or "nothing"
        raise AdapterError(
            "decoder layers of this model are not called with attention_mask and "
            f"position_embeddings=(cos, sin) of [batch, {hidden.shape[1]}, head_dim], which "
            f"reduction relies on (given: {given}): use a supported version of transformers, see "
            "the docs on models."
        )
    cos, sin = rope
    return cos, sin
