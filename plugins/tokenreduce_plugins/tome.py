"""ToMe: merge the most similar tokens, a few after each of many layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from tokenreduce.errors import ConfigError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Layer, Needs, Reducer
from tokenreduce.schedule import resolve_layer, share_count

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View

CELLS = 1 << 22
"""Similarities computed at a time: 16 MiB of float32, however long the video."""

Amount = Annotated[int | float, Field(ge=0)]


class ToMe(Reducer):
    """Merge the ``r`` most redundant visual tokens with the tokens most like them, layer by layer.

    Why it works: attention looks a token up by its key; tokens with the same key are looked up
    together, so their mean can stand for both. Tokens alternate between two sets, each of the first
    proposes to the most similar of the second, and the best ``r`` proposals merge.

    Source: Bolya et al. 2023, "Token Merging: Your ViT But Faster" (arXiv 2210.09461); public code:
    facebookresearch/ToMe (no free licence; written from the paper). The shrinking paper merges 48
    of 2304 tokens after each of the first 24 of 32 layers.

    Where we differ
    ---------------
    - The original merges between attention and MLP of a vision transformer; here the visual tokens
      of the decoder merge after the layer, by the mean over heads of its keys, rotary applied.
    - The original leaves tokens out of order; here a merged token takes the place and the position
      of its first member. Tokens of different images or videos do not merge.
    - ``proportional_attention`` (log of the size added to the logits) is refused: it would change
      the attention of every later layer and decode step, which nothing here does.
    - Equal similarities: the earlier token merges, into the earlier partner.

    Parameters
    ----------
    r
        Tokens to merge away per layer: an integer counts tokens, a number in (0, 1) is a share of
        the sample's *original* visual tokens; a list gives one for each layer (0 skips it). Never
        more than half of the current tokens go at once.
    start_layer, end_layer
        First and last layer after which to merge; every layer between them does too.
    proportional_attention
        Must be false.
    """

    name: ClassVar[str] = "tome"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"r": (0.0, 0.5)}

    r: Amount | tuple[Amount, ...] = Field(
        48 / 2304,
        description="tokens to merge away per layer: an integer count, or a share in (0, 1) of the "
        "original visual tokens; a list gives one for each layer from start_layer to end_layer",
    )
    start_layer: Layer = Field(
        0, description="first layer after which to merge: a 0-based index or a fraction of depth"
    )
    end_layer: Layer = Field(
        24 / 32, description="last layer after which to merge: a 0-based index or a fraction"
    )
    proportional_attention: bool = Field(
        False, description="must be false: attention is never changed, see the reducer's page"
    )

    @field_validator("r")
    @classmethod
    def _whole_or_share(cls, r: Amount | tuple[Amount, ...]) -> Amount | tuple[Amount, ...]:
        for amount in r if isinstance(r, tuple) else (r,):
            if amount > 1 and not float(amount).is_integer():
                raise ConfigError(
                    f"tome: r {amount} is neither a count of tokens nor a share below 1: write an "
                    "integer, or a share of the original tokens such as 0.02."
                )
        return r

    @field_validator("proportional_attention")
    @classmethod
    def _refused(cls, wanted: bool) -> bool:
        if wanted:
            raise ConfigError(
                "tome: proportional_attention true is not supported, because it would change the "
                "attention logits of every later layer and decode step: leave it false."
            )
        return wanted

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return every layer from the first to the last."""
        first = resolve_layer(self.start_layer, num_layers)
        last = resolve_layer(self.end_layer, num_layers)
        if not 0 <= first <= last:
            raise ConfigError(
                f"tome: start_layer {self.start_layer} (index {first}) to end_layer "
                f"{self.end_layer} (index {last}) is no range from 0 upwards (before it there are "
                f"no keys) on {num_layers} layers: write two indices in order."
            )
        layers = tuple(range(first, last + 1))
        if isinstance(self.r, tuple) and len(self.r) != len(layers):
            raise ConfigError(
                f"tome: r lists {len(self.r)} counts for the {len(layers)} layers {first} to "
                f"{last} of {num_layers}: give one for each, or one number for all."
            )
        return layers

    def needs(self) -> Needs:
        """Ask for the keys."""
        return Needs(keys=True)

    def amount(self, view: View) -> int:
        """Return how many tokens to merge away now: at most half."""
        r = self.r
        if isinstance(r, tuple):
            r = r[self.acts_after(view.num_layers).index(view.layer)]
        wanted = int(r) if float(r).is_integer() else share_count(view.total, r)
        return min(wanted, len(view) // 2)

    def plan(self, view: View) -> Plan | None:
        """Merge the best proposals of the even tokens to the odd ones."""
        import torch

        amount = self.amount(view)
        if amount == 0:
            return None
        keys = view.keys.mean(dim=1, dtype=torch.float32)
        metric = torch.nn.functional.normalize(keys, dim=-1)  # [n, dim]
        item, even = (part.to(metric.device) for part in (view.item, torch.arange(0, len(view), 2)))
        likeness = torch.cat([some.amax(dim=1) for some in _cosines(metric, item, even)])  # [a]
        best = likeness.argsort(descending=True, stable=True)[:amount]
        best = best[likeness[best].isfinite()]  # a lone token of an item has nobody to merge with
        if len(best) == 0:
            return None
        # Looking for the partners of those alone that merge is faster than for all of them.
        partner = torch.cat([some.argmax(dim=1) for some in _cosines(metric, item, even[best])])
        label = torch.arange(len(view), device=metric.device)
        label[even[best]] = 2 * partner + 1
        # How unlike its partner a token is; the odd ones are never asked and get the maximum.
        scores = torch.full((len(view),), 2.0, device=metric.device)
        scores[::2] = (1 - likeness).clamp(max=2)
        return Plan.groups(label, scores=scores)


def _cosines(metric: Tensor, item: Tensor, even: Tensor) -> Iterator[Tensor]:
    """Yield cosines ``[rows, b]`` of ``even`` tokens ``[a]`` to all odd ones, a few rows at a time.

    Between tokens of different items they are minus infinity.
    """
    import torch

    odd, several = metric[1::2], bool((item != item[0]).any())
    for some in torch.split(even, max(1, CELLS // len(odd))):
        cosine = metric[some] @ odd.T
        if several:
            cosine.masked_fill_(item[some, None] != item[1::2], -torch.inf)
        yield cosine
