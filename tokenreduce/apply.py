"""Carrying out a plan: which rows of the hidden states stay, and what merged rows become."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenreduce.layout import Layout, Role
from tokenreduce.plan import Plan

PAD = -1


@dataclass(slots=True)
class Tokens:
    """Which of a forward's tokens are left, and what each of them stands for.

    Attributes
    ----------
    index
        ``[batch, left]`` int64: column of each row's tokens among the forward's input tokens,
        ascending but for -1 at padding.
    owner
        ``[batch, tokens]`` int64 over the input columns: the column that carries this token now,
        -1 once it is dropped.
    size
        ``[batch, tokens]`` int64 over the input columns: how many originals a carrier stands for.
    untouched
        Whether nothing has been removed yet, so that the model's own mask and positions are right.
    """

    index: Tensor
    owner: Tensor
    size: Tensor
    untouched: bool = True

    @classmethod
    def all_of(cls, valid: Tensor) -> Tokens:
        """Start with every token of ``valid`` ``[batch, tokens]`` bool, padding being false."""
        columns = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        index = columns.masked_fill(~valid, PAD)
        return cls(index, index.clone(), valid.long())

    def rows_of(self, sample: int, columns: Tensor) -> Tensor:
        """Return the rows of a sample's ``columns`` ``[n]``, all of which must be left."""
        index = self.index[sample]
        rows = torch.arange(index.numel(), device=index.device)
        # Padding writes to a last place of its own, so that it never wins over a token.
        lookup = torch.zeros(self.owner.shape[1] + 1, dtype=torch.long, device=index.device)
        lookup[index] = rows
        return lookup[columns]


def apply_plans(
    hidden: Tensor, tokens: Tokens, layout: Layout, plans: list[Plan | None]
) -> tuple[Tensor, Tokens]:
    """Apply one plan per sample, and pack the samples again.

    Parameters
    ----------
    hidden
        ``[batch, left, dim]``.
    tokens
        What the rows of ``hidden`` are.
    layout
        Roles and items of the input columns.
    plans
        Per sample a plan over its surviving grid tokens in chronological order; None: as it is.

    Returns
    -------
    tuple
        Hidden states ``[batch, left', dim]`` and the tokens they are. Samples are padded on the
        left to the longest one; padding that was there before is not carried along.
    """
    owner, size = tokens.owner.clone(), tokens.size.clone()
    kept: list[Tensor] = []
    for sample, plan in enumerate(plans):
        alive = (tokens.index[sample] >= 0).nonzero().squeeze(1)
        if plan is not None:
            grid = grid_rows(tokens, layout, sample)
            alive = _apply_one(tokens, layout, plan, sample, grid, alive, owner, size)
            hidden = _merged(hidden, tokens, plan, sample, grid)
        kept.append(alive)
    longest = max(rows.numel() for rows in kept)
    gather = torch.full((len(kept), longest), PAD, dtype=torch.long, device=tokens.index.device)
    for sample, rows in enumerate(kept):
        gather[sample, longest - rows.numel() :] = rows
    left = Tokens(_take(tokens.index, gather), owner, size, untouched=False)
    return _take_hidden(hidden, gather.to(hidden.device)), left


def grid_rows(tokens: Tokens, layout: Layout, sample: int) -> tuple[Tensor, Tensor]:
    """Return the rows of a sample's surviving grid tokens, and the input columns they carry."""
    index = tokens.index[sample]
    role = layout.role[sample][index.clamp(min=0)]
    rows = ((role == int(Role.GRID)) & (index >= 0)).nonzero().squeeze(1)
    return rows, index[rows]


def _apply_one(
    tokens: Tokens,
    layout: Layout,
    plan: Plan,
    sample: int,
    grid: tuple[Tensor, Tensor],
    alive: Tensor,
    owner: Tensor,
    size: Tensor,
) -> Tensor:
    """Update one sample's owner and size rows in place; return its rows that stay."""
    rows, columns = grid
    slot = plan.slot.to(columns.device)
    first = plan.first_members().to(columns.device)
    carrier = (
        torch.where(slot >= 0, columns[first][slot.clamp(min=0)], slot) if len(first) else slot
    )
    # Compose: a token that was merged into a carrier before follows that carrier.
    table = torch.arange(owner.shape[1], device=owner.device)
    table[columns] = carrier
    old = owner[sample]
    owner[sample] = torch.where(old >= 0, table[old.clamp(min=0)], old)
    members = slot >= 0
    sums = torch.zeros(plan.kept, dtype=torch.long, device=size.device)
    sums.index_add_(0, slot[members], size[sample][columns[members]])
    size[sample][columns[first]] = sums
    gone = torch.ones(tokens.index.shape[1], dtype=torch.bool, device=rows.device)
    gone[alive] = False
    gone[rows] = True
    gone[rows[first]] = False
    _drop_empty_items(gone, tokens, layout, sample, columns[first], owner)
    return (~gone).nonzero().squeeze(1)


def _drop_empty_items(
    gone: Tensor, tokens: Tokens, layout: Layout, sample: int, left: Tensor, owner: Tensor
) -> None:
    """Let newline and CLS tokens go once all grid tokens of their item are gone."""
    index = tokens.index[sample]
    column = index.clamp(min=0)
    role, item = layout.role[sample][column], layout.item[sample][column]
    mark = ((role == int(Role.NEWLINE)) | (role == int(Role.CLS))) & (index >= 0)
    orphan = mark & ~torch.isin(item, layout.item[sample][left])
    gone |= orphan
    owner[sample][column[orphan]] = PAD


def _merged(
    hidden: Tensor, tokens: Tokens, plan: Plan, sample: int, grid: tuple[Tensor, Tensor]
) -> Tensor:
    """Return hidden states in which each merged token's carrier holds the weighted average."""
    if not plan.merges:
        return hidden
    rows, columns = grid
    slot = plan.slot.to(hidden.device)
    members = (slot >= 0).nonzero().squeeze(1)
    target = slot[members]
    shared = torch.bincount(target, minlength=plan.kept) > 1
    # Only groups of several are averaged, so that a token that stays alone keeps its exact bits.
    members = members[shared[target]]
    target = (shared.long().cumsum(0) - 1)[slot[members]]
    rows = rows.to(hidden.device)
    weight = tokens.size[sample][columns].to(hidden.device)[members].float()
    total = torch.zeros(int(shared.sum()), device=hidden.device).index_add_(0, target, weight)
    share = (weight / total[target]).unsqueeze(1)
    mean = torch.zeros(total.numel(), hidden.shape[2], dtype=torch.float32, device=hidden.device)
    mean.index_add_(0, target, hidden[sample][rows[members]].float() * share)
    merged = hidden.clone()
    carriers = rows[plan.first_members().to(hidden.device)[shared]]
    merged[sample, carriers] = mean.to(hidden.dtype)
    return merged


def _take(values: Tensor, gather: Tensor) -> Tensor:
    return values.gather(1, gather.clamp(min=0)).masked_fill(gather < 0, PAD)


def _take_hidden(hidden: Tensor, gather: Tensor) -> Tensor:
    if gather.shape[0] == 1:
        return hidden.index_select(1, gather[0])
    packed = hidden.gather(1, gather.clamp(min=0).unsqueeze(2).expand(-1, -1, hidden.shape[2]))
    return packed.masked_fill(gather.unsqueeze(2) < 0, 0)
