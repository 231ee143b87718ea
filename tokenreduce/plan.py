"""What a reducer answers: for every visual token, which output token it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenreduce.errors import ReducerError

if TYPE_CHECKING:
    from torch import Tensor

DROPPED = -1


@dataclass(frozen=True, slots=True, eq=False)
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

        kept = labels >= 0
        size = labels.numel()
        unique, inverse = torch.unique(labels[kept], return_inverse=True)
        first = torch.full((unique.numel(),), size, dtype=torch.long, device=labels.device)
        where = torch.arange(size, device=labels.device)[kept]
        first.scatter_reduce_(0, inverse, where, reduce="amin")
        rank = torch.empty_like(first)
        rank[first.argsort()] = torch.arange(first.numel(), device=labels.device)
        slot = torch.full((size,), DROPPED, dtype=torch.long, device=labels.device)
        slot[kept] = rank[inverse]
        return cls(slot, scores, note)

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

    @property
    def kept(self) -> int:
        """Number of output tokens."""
        return int(self.slot.max()) + 1 if self.slot.numel() else 0

    @property
    def merges(self) -> bool:
        """Whether any two tokens share an output token."""
        return self.kept < int((self.slot >= 0).sum())

    def first_members(self) -> Tensor:
        """Return ``[kept]`` int64: the first member of every output token."""
        import torch

        size = self.slot.numel()
        where = torch.arange(size, device=self.slot.device)
        first = torch.full((self.kept,), size, dtype=torch.long, device=self.slot.device)
        alive = self.slot >= 0
        return first.scatter_reduce_(0, self.slot[alive], where[alive], reduce="amin")

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
        if bool((first >= tokens).any()) or bool((first.diff() <= 0).any()):
            raise ReducerError(
                f"reducer '{owner}' answered with output tokens that are empty or not in "
                "chronological order: build the plan with Plan.keep, Plan.where or Plan.groups."
            )
