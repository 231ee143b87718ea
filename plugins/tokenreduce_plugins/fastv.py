"""FastV: drop, once and early, the visual tokens that get the least attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tokenreduce.errors import ConfigError
from tokenreduce.reducer import AttentionRows, Layer, Needs, Ratio, ScoringReducer
from tokenreduce.schedule import resolve_layer

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.view import View


class FastV(ScoringReducer):
    """Drop the least attended share of the visual tokens after one early layer.

    Why it works: from the third layer on, most attention of a vision-language model leaves the
    visual tokens; what they had to say has moved into later positions, so half of them can go.

    Source: Chen et al. 2024, "An Image is Worth 1/2 Tokens After Layer 2" (arXiv 2403.06764);
    public code: pkunlp-icler/FastV. The shrinking paper runs it after the 2nd layer with 50 %.

    Where we differ
    ---------------
    - The paper speaks of the attention received from *all* tokens, the public code ranks by the
      row of the *last* one. ``queries`` offers both, and ``text``; the code's way is the default.
    - A weight matrix is never materialised: the core scores the rows that are asked for beside
      the model's own attention kernel, ``all`` in chunks.
    - The count to keep is rounded half up and never zero; ties keep the earlier token.
    - It runs once, in prefill, on each sample's own tokens; layer K of the public code (K = 2) is
      our index 1. Its random choice at K = 0 is the ``random`` reducer; layer -1 is refused here.

    Parameters
    ----------
    layer
        Layer after which to drop; index 1, the 2nd layer (60 layers: the paper uses the 5th, 4).
    ratio
        Share of the visual tokens to drop, in [0, 1).
    queries
        Query rows whose attention is added up.
    """

    name: ClassVar[str] = "fastv"
    budget_fields: ClassVar[Mapping[str, tuple[float, float]]] = {"ratio": (0.0, 0.99)}

    layer: Layer = Field(
        1,
        description="layer after which to drop: a 0-based index, or a fraction of the depth; "
        "before the first layer (-1) there is no attention",
    )
    ratio: Ratio = Field(0.5, description="share of the visual tokens to drop, in [0, 1)")
    queries: AttentionRows = Field(
        "last",
        description="query rows that are asked: 'last' token (public code), 'text' tokens after "
        "the last visual token, or 'all' tokens (the paper's words; favours early tokens, which "
        "more rows can see)",
    )

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the one layer to act after."""
        layer = resolve_layer(self.layer, num_layers)
        if layer < 0:
            raise ConfigError(
                f"fastv: layer {self.layer} is before the first of {num_layers} layers, where "
                "there is no attention to rank by: use 0 or more, or the reducer 'random'."
            )
        return (layer,)

    def needs(self) -> Needs:
        """Ask for the attention of the chosen query rows."""
        return Needs(attention=frozenset({self.queries}))

    def ratio_at(self, layer: int, num_layers: int) -> float:
        """Return the one ratio."""
        return self.ratio

    def score(self, view: View) -> Tensor:
        """Return ``[n]`` attention received, mean over heads, summed over the query rows."""
        return view.attention(self.queries)
