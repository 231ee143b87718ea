"""Carrying out a plan: which rows of the hidden states stay, and what merged rows become."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    padded
        Whether any row is padding; known on the host, so that nobody has to look again.
    untouched
        Whether nothing has been removed yet, so that the model's own mask and positions are right.
    """

    index: Tensor
    owner: Tensor
    size: Tensor
    padded: bool
    untouched: bool = True
    _grid: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def all_of(cls, valid: Tensor) -> Tokens:
        """Start with every token of ``valid`` ``[batch, tokens]`` bool, padding being false."""
        columns = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        index = columns.masked_fill(~valid, PAD)
        return cls(index, index.clone(), valid.long(), padded=not bool(valid.all()))

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
        stays = tokens.index[sample] >= 0
        if plan is not None:
            _apply_one(tokens, layout, plan, sample, stays, owner, size)
        kept.append(stays.nonzero().squeeze(1))
    longest = max(rows.numel() for rows in kept)
    gather = torch.full((len(kept), longest), PAD, dtype=torch.long, device=tokens.index.device)
    for sample, rows in enumerate(kept):
        gather[sample, longest - rows.numel() :] = rows
    packed = _take_hidden(hidden, gather.to(hidden.device))
    for sample, plan in enumerate(plans):
        if plan is not None and plan.merges:
            carriers, means = _averages(hidden[sample], tokens, layout, plan, sample)
            left = kept[sample].to(hidden.device)
            packed[sample, torch.searchsorted(left, carriers) + longest - left.numel()] = means
    padded = any(rows.numel() < longest for rows in kept)
    return packed, Tokens(_take(tokens.index, gather), owner, size, padded, untouched=False)


def grid_rows(tokens: Tokens, layout: Layout, sample: int) -> tuple[Tensor, Tensor]:
    """Return the rows of a sample's surviving grid tokens, and the input columns they carry.

    They are looked for once, and remembered with the tokens.
    """
    if sample not in tokens._grid:
        index = tokens.index[sample]
        role = layout.role[sample][index.clamp(min=0)]
        rows = ((role == int(Role.GRID)) & (index >= 0)).nonzero().squeeze(1)
        tokens._grid[sample] = rows, index[rows]
    return tokens._grid[sample]


def _apply_one(
    tokens: Tokens,
    layout: Layout,
    plan: Plan,
    sample: int,
    stays: Tensor,
    owner: Tensor,
    size: Tensor,
) -> None:
    """Update one sample's owner and size rows in place, and which of its rows stay."""
    rows, columns = grid_rows(tokens, layout, sample)
    slot = plan.slot.to(columns.device)
    first = plan.first_members().to(columns.device)
    # A last carrier stands for "dropped": slot -1 finds it.
    carriers = torch.cat([columns[first], columns.new_full((1,), PAD)])
    # Compose: a token that was merged into a carrier before follows that carrier. Column -1 is the
    # table's own last place, so that what was dropped stays dropped.
    table = torch.arange(owner.shape[1] + 1, device=owner.device)
    table[-1] = PAD
    table[columns] = carriers[slot]
    owner[sample] = table[owner[sample]]
    sums = torch.zeros(plan.kept + 1, dtype=torch.long, device=size.device)
    sums.index_add_(0, slot.masked_fill(slot < 0, plan.kept), size[sample][columns])
    size[sample, columns[first]] = sums[:-1]
    stays[rows] = False
    stays[rows[first]] = True
    _drop_empty_items(stays, tokens, layout, sample, columns[first], owner)


def _drop_empty_items(
    stays: Tensor, tokens: Tokens, layout: Layout, sample: int, left: Tensor, owner: Tensor
) -> None:
    """Let newline and CLS tokens go once all grid tokens of their item are gone."""
    column = tokens.index[sample].clamp(min=0)
    role = layout.role[sample][column]
    mark = ((role == int(Role.NEWLINE)) | (role == int(Role.CLS))) & stays
    if not bool(mark.any()):
        return
    orphan = mark & ~torch.isin(layout.item[sample][column], layout.item[sample][left])
    stays &= ~orphan
    owner[sample, column[orphan]] = PAD


def _averages(
    hidden: Tensor, tokens: Tokens, layout: Layout, plan: Plan, sample: int
) -> tuple[Tensor, Tensor]:
    """Return the rows of carriers of several tokens, and the weighted averages they get.

    Only groups of several are averaged, so that a token that stays alone keeps its exact bits.

    Parameters
    ----------
    hidden
        ``[left, dim]``, of one sample.
    tokens, layout, plan, sample
        See :func:`apply_plans`.
    """
    rows, columns = (part.to(hidden.device) for part in grid_rows(tokens, layout, sample))
    slot = plan.slot.to(hidden.device)
    members = (slot >= 0).nonzero().squeeze(1)
    shared = torch.bincount(slot[members], minlength=plan.kept) > 1
    members = members[shared[slot[members]]]
    group = (shared.long().cumsum(0) - 1)[slot[members]]  # numbered among the shared ones
    carriers = rows[plan.first_members().to(hidden.device)[shared]]
    weight = tokens.size[sample].to(hidden.device)[columns[members]].float()
    total = torch.zeros(carriers.numel(), device=hidden.device).index_add_(0, group, weight)
    share = (weight / total[group]).unsqueeze(1)
    means = torch.zeros(carriers.numel(), hidden.shape[1], device=hidden.device)
    means.index_add_(0, group, hidden[rows[members]].float() * share)
    return carriers, means.to(hidden.dtype)


def _take(values: Tensor, gather: Tensor) -> Tensor:
    return values.gather(1, gather.clamp(min=0)).masked_fill(gather < 0, PAD)


def _take_hidden(hidden: Tensor, gather: Tensor) -> Tensor:
    if gather.shape[0] == 1:
        return hidden.index_select(1, gather[0])
    packed = hidden.gather(1, gather.clamp(min=0).unsqueeze(2).expand(-1, -1, hidden.shape[2]))
    return packed.masked_fill(gather.unsqueeze(2) < 0, 0)
