"""What a reducer answers: for every visual token, which output token it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tokenreduce.errors import ReducerError

if TYPE_CHECKING:
    from torch import Tensor

DROPPED = -1


@dataclass(frozen=True, eq=False)
class Plan:
    """One integer vector over the view's tokens; dropping, pooling and merging are all this.

    Attributes
    ----------
    slot
        ``[tokens]`` int64. ``slot[j]`` is the output token that token ``j`` goes to, -1 = dropped.
        Tokens that share a slot are averaged, weighted by how many originals each stands for.
        Output tokens are numbered by their first members, so they stay in chronological order;
        build plans with :meth:`keep`, :meth:`where`, :meth:`groups` or :meth:`windows`: they see
        to it.
    scores
        ``[tokens]`` what the choice was made by, higher = keep; kept for the trace, may be None.
    note
        A word on why (``forced: frames``), for the trace.
    """

    slot: Tensor
    scores: Tensor | None = None
    note: str = ""

    @classmethod
    def keep(
        cls,
        indices: Tensor | Sequence[int],
        tokens: int,
        *,
        scores: Tensor | None = None,
        note: str = "",
    ) -> Plan:
        """Keep the tokens at ``indices`` (any order) of ``tokens``; drop the others."""
        import torch

        chosen = torch.as_tensor(indices, dtype=torch.long)
        mask = torch.zeros(tokens, dtype=torch.bool, device=chosen.device)
        mask[chosen] = True
        return cls.where(mask, scores=scores, note=note)

    @classmethod
    def where(cls, mask: Tensor, *, scores: Tensor | None = None, note: str = "") -> Plan:
        """Keep the tokens where ``mask`` ``[tokens]`` is true; drop the others."""
        slot = (mask.long().cumsum(0) - 1).masked_fill(~mask.bool(), DROPPED)
        return cls(slot, scores, note)

    @classmethod
    def groups(cls, labels: Tensor, *, scores: Tensor | None = None, note: str = "") -> Plan:
        """Merge tokens with equal labels; a negative label drops the token.

        Parameters
        ----------
        labels
            ``[tokens]`` int64, any numbers; equal non-negative ones share an output token.
        """
        import torch

        ranked, order = labels.sort(stable=True)  # label by label, in chronological order
        place = torch.arange(labels.numel(), device=labels.device)
        begins = torch.ones_like(labels, dtype=torch.bool)
        begins[1:] = ranked[1:] != ranked[:-1]
        first = torch.empty_like(order)  # [tokens] the first token with the same label
        first[order] = order[place.masked_fill(~begins, 0).cummax(0).values]
        number = (first.eq(place) & (labels >= 0)).cumsum(0) - 1
        return cls(number[first].masked_fill(labels < 0, DROPPED), scores, note)

    @classmethod
    def windows(cls, groups: Tensor, width: int, *, note: str = "") -> Plan:
        """Merge every ``width`` consecutive tokens of a group; what is left over merges as well.

        Parameters
        ----------
        groups
            ``[tokens]`` int64: tokens with equal numbers follow one another in a group.
        width
            Tokens per window, >= 1.
        """
        import torch

        order = groups.argsort(stable=True)  # [tokens] group by group, in chronological order
        start = torch.searchsorted(groups[order], groups[order])  # [tokens] where a group begins
        rank = torch.arange(groups.numel(), device=groups.device) - start
        label = torch.empty_like(order)
        label[order] = start + rank // width  # unique: a group has fewer windows than tokens
        return cls.groups(label, note=note)

    @property
    def tokens(self) -> int:
        """Number of input tokens."""
        return int(self.slot.numel())

    @cached_property
    def kept(self) -> int:
        """Number of output tokens."""
        return int(self.slot.max()) + 1 if self.slot.numel() else 0

    @cached_property
    def merges(self) -> bool:
        """Whether any two tokens share an output token."""
        return self.kept < int((self.slot >= 0).sum())

    def first_members(self) -> Tensor:
        """Return ``[kept]`` int64: the first member of every output token."""
        return self._first

    @cached_property
    def _first(self) -> Tensor:
        import torch

        size, device = self.slot.numel(), self.slot.device
        first = torch.full((self.kept + 1,), size, dtype=torch.long, device=device)
        # Dropped tokens go to a last place of their own.
        target = self.slot.masked_fill(self.slot < 0, self.kept)
        first.scatter_reduce_(0, target, torch.arange(size, device=device), reduce="amin")
        return first[:-1]

    def validate(self, tokens: int, owner: str) -> None:
        """Check the plan against the view it answers.

        Raises
        ------
        ReducerError
            If the vector has another length or type, leaves output slots empty, or breaks the
            chronological order.
        """
        import torch

        slot = self.slot
        if slot.dtype != torch.long or slot.dim() != 1 or slot.numel() != tokens:
            raise ReducerError(
                f"reducer '{owner}' answered with a plan of {slot.dtype} {tuple(slot.shape)} for "
                f"{tokens} visual tokens: slot must be int64 of shape [{tokens}]."
            )
        if tokens and int(slot.min()) < DROPPED:
            raise ReducerError(
                f"reducer '{owner}' answered with slot {int(slot.min())}: use -1 for a dropped "
                "token."
            )
        shape = getattr(self.scores, "shape", None)
        if self.scores is not None and shape != (tokens,):
            given = type(self.scores).__name__ if shape is None else tuple(shape)
            raise ReducerError(
                f"reducer '{owner}' answered with scores of {given} for {tokens} visual tokens: "
                f"scores must be None or a tensor of shape [{tokens}]."
            )
        first = self.first_members()
        if bool((first.diff() <= 0).any() | (first[-1:] >= tokens).any()):
            raise ReducerError(
                f"reducer '{owner}' answered with output tokens that are empty or not in "
                "chronological order: build the plan with Plan.keep, Plan.where or Plan.groups."
            )
