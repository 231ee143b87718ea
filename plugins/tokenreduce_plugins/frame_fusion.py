"""FrameFusion: merge what repeats from frame to frame, then prune what is not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokenreduce.errors import ConfigError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Needs, Reducer
from tokenreduce.schedule import exact, resolve_layer, share_count

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View

MERGED, FILLED, PRUNED = "merged", "merged to the budget", "pruned"


class FrameFusion(Reducer):
    """Merge similar tokens over frames in the first layers; prune once to meet the budget.

    Why it works: similarity and importance are different things. Tokens that repeat the frame
    before can be averaged early without loss, and of what is left the last token's attention says
    what matters.

    Source: Fu et al. 2024, "FrameFusion: Combining Similarity and Importance for Video Token
    Reduction on Large Vision Language Models" (arXiv 2501.01986); public code:
    thu-nics/FrameFusion. Cost 0.3, similarity 0.6, least share 0.1.

    Where we differ
    ---------------
    - It merges and prunes between attention and MLP of a layer; here that happens after the layer,
      so the layer itself still holds all, which the budget below takes into account.
    - A merged token is merged again as the mean of all its originals; there all members count one.
    - Its budget counts 28 layers whatever the model; here the model's own.
    - Positions are kept, as there (a setting of the run): of a merged token, the first member's.
    - Cells are compared within one video. Of equals the earlier token merges or stays first.
    - Whether merging goes on is read off the events: nothing is remembered from layer to layer.

    Parameters
    ----------
    cost
        Mean over all layers of the tokens left, as a share of the original tokens, in (0, 1].
    threshold
        Cosine above which a token is merged into the same cell of the frame before.
    least_share
        When a layer merges less than this share of the tokens, the next one prunes.
    start_layer
        Layer after which to merge first; -1: before the first layer, as published.
    """

    name: ClassVar[str] = "frame_fusion"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"cost": (0.05, 1.0)}

    cost: float = Field(
        0.3, gt=0, le=1, description="mean share of the original tokens over all layers, in (0, 1]"
    )
    threshold: float = Field(
        0.6, ge=-1, le=1, description="cosine to the cell a frame earlier, above which to merge"
    )
    least_share: float = Field(
        0.1, gt=0, le=1, description="share of the tokens; the last to merge merges less than this"
    )
    start_layer: Layer = Field(
        -1, description="first layer after which to merge: index, -1: before all, or fraction"
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return every layer from the first to the one before the last."""
        first = resolve_layer(self.start_layer, num_layers)
        if first > num_layers - 2:
            raise ConfigError(
                f"frame_fusion: start_layer {self.start_layer} (index {first}) is the last of "
                f"{num_layers} layers: use at most {num_layers - 2}."
            )
        return tuple(range(first, num_layers - 1))

    def needs(self) -> Needs:
        """Ask for the last token's attention."""
        return Needs(attention=frozenset({"last"}))

    def plan(self, view: View) -> Plan | None:
        """Merge, prune, or leave it, as the events so far say."""
        past = view.events[-1] if view.events else None
        if len(view) == 0 or (past is not None and past.note in (FILLED, PRUNED)):
            return None
        room = self.room(view)
        if room >= len(view):
            return None
        merging = view.layer == self.acts_after(view.num_layers)[0]
        if past is not None and past.layer == view.layer - 1:
            merging = past.before - past.after >= exact(self.least_share) * past.before
        return self._merge(view, room) if merging else _prune(view, room)

    def room(self, view: View) -> int:
        """Return how many tokens each layer to come may hold, if all hold the same."""
        held, last = 0, -1
        for event in view.events:
            held += (event.layer - last) * event.before
            last = event.layer
        held += (view.layer - last) * len(view)
        budget = exact(self.cost) * view.num_layers * view.total - held
        share = budget / (view.num_layers - 1 - view.layer) / len(view)
        return max(1, share_count(len(view), min(max(share, Fraction(0)), Fraction(1))))

    def _merge(self, view: View, room: int) -> Plan | None:
        """Average every run of similar tokens of a cell into the token that it repeats."""
        import torch

        cosine = _similarity(view)
        cell = view.cell.to(cosine.device)
        similar = cosine > self.threshold
        surplus, note = len(view) - room, MERGED
        if int(similar.sum()) >= surplus:
            similar = torch.zeros_like(similar)
            similar[cosine.argsort(descending=True, stable=True)[:surplus]] = True
            note = FILLED
        order = cell.argsort(stable=True)  # cell by cell, in chronological order
        place = torch.arange(len(order), device=order.device)
        start = place.masked_fill(similar[order], 0).cummax(0).values  # where a run begins
        label = torch.empty_like(order)
        label[order] = order[start]
        return Plan.groups(label, scores=-cosine, note=note) if bool(similar.any()) else None


def _prune(view: View, room: int) -> Plan:
    scores = view.attention("last")
    best = scores.argsort(descending=True, stable=True)[:room]
    return Plan.keep(best, len(view), scores=scores, note=PRUNED)


def _similarity(view: View) -> Tensor:
    """Return ``[n]`` cosines to the same cell a frame earlier; -2 for the first of a cell."""
    import torch

    hidden = torch.nn.functional.normalize(view.hidden.float(), dim=-1)  # [n, dim]
    earlier = view.earlier.to(hidden.device)
    cosine = torch.full((len(view),), -2.0, device=hidden.device)
    again = earlier >= 0
    cosine[again] = (hidden[earlier[again]] * hidden[again]).sum(dim=-1)
    return cosine
