"""For every check of the kit, reducers that only it catches."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, Field, PrivateAttr
from torch import Tensor

from tokenreduce import Plan, Reducer, ScoringReducer, View
from tokenreduce.reducer import Needs, Ratio
from tokenreduce.schedule import resolve_layer


class Sound(Reducer):
    """Keeps every second token after one layer."""

    name: ClassVar[str] = "sound"
    layer: int = Field(2, description="layer after which to drop")

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (resolve_layer(self.layer, num_layers),)

    def plan(self, view: View) -> Plan | None:
        return Plan.where(torch.arange(len(view)) % 2 == 0) if len(view) else None


class SoundScore(Sound, ScoringReducer):
    """Keeps the later tokens."""

    name: ClassVar[str] = "sound_score"
    budget_fields: ClassVar[Any] = {"ratio": (0.0, 0.99)}
    ratio: Ratio = Field(0.5, description="share to drop")

    def ratio_at(self, layer: int, num_layers: int) -> float:
        return self.ratio

    def score(self, view: View) -> Tensor:
        return view.index.float()

    plan = ScoringReducer.plan


class Forgetful(Sound):
    secret: int = Field(1, exclude=True, description="is not written")


class Silent(Sound):
    step: int = 1


class Assignable(Sound):
    model_config = ConfigDict(frozen=False)


class Lenient(Sound):
    model_config = ConfigDict(extra="ignore")


class Untyped(Sound):
    layer: Any = Field(2, description="anything goes")


class FixedLayer(Sound):
    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (self.layer,)


class BoundTooFar(SoundScore):
    budget_fields: ClassVar[Any] = {"ratio": (0.0, 1.0)}


class Draws(Sound):
    """Takes from the global generator, even if it does not use it."""

    def plan(self, view: View) -> Plan | None:
        torch.rand(1)
        return super().plan(view)


class Writes(Sound):
    def plan(self, view: View) -> Plan | None:
        view.frame.add_(1)
        return super().plan(view)


class Counts(Sound):
    _calls: int = PrivateAttr(0)

    def plan(self, view: View) -> Plan | None:
        self._calls += 1
        return super().plan(view)


class OutOfOrderAfterMerges(Sound):
    def plan(self, view: View) -> Plan | None:
        if len(view) and int(view.size.max()) > 1:
            return Plan(torch.arange(len(view)).flip(0))
        return super().plan(view)


class WantsWholeGrids(Sound):
    def plan(self, view: View) -> Plan | None:
        for item in view.item.unique():
            own = view.item == item
            view.row[own].reshape(len(view.frame[own].unique()), -1)
        return super().plan(view)


class MixesVideos(Sound):
    def plan(self, view: View) -> Plan | None:
        return Plan.windows(torch.zeros_like(view.item), 2) if len(view) else None


class Greedy(Sound):
    budget_fields: ClassVar[Any] = {"ratio": (0.0, 0.99)}
    ratio: Ratio = Field(0.5, description="share to drop")

    def plan(self, view: View) -> Plan | None:
        gone = max(1, round(len(view) * self.ratio))
        return Plan.keep(range(max(1, len(view) - gone)), len(view)) if len(view) else None


class RoundsDown(SoundScore):
    def plan(self, view: View) -> Plan | None:
        keep = max(1, int(len(view) * (1 - self.ratio)))
        if keep >= len(view):
            return None
        return Plan.keep(range(keep), len(view))


class TakesTheLast(Sound):
    """Rounds to zero, as a float budget does."""

    budget_fields: ClassVar[Any] = {"ratio": (0.0, 0.99)}
    ratio: Ratio = Field(0.5, description="share to drop")

    def plan(self, view: View) -> Plan | None:
        keep = round(len(view) * (1 - self.ratio))
        return Plan.keep(range(keep), len(view)) if len(view) else None


class CountsTextAsVisual(Sound):
    """Reaches behind the view: makes a text token a grid token, and drops it two layers on."""

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        first = resolve_layer(self.layer, num_layers)
        return (first, resolve_layer(first + 2, num_layers))

    def plan(self, view: View) -> Plan | None:
        prefill = getattr(view, "_prefill", None)
        if prefill is None or view.layer != self.layer:
            return Plan.where(torch.arange(len(view)) % 2 == 1) if len(view) > 1 else None
        role = prefill.layout.role[view._sample]  # type: ignore[attr-defined]
        role[(role == 0).nonzero()[0]] = 1
        # Rows are looked for again once something is gone.
        return Plan.where(torch.arange(len(view)) > 0) if len(view) > 1 else None


class LooksAtTheRow(Sound):
    def plan(self, view: View) -> Plan | None:
        step = 2 + getattr(view, "_sample", 0)
        return Plan.where(torch.arange(len(view)) % step == 0) if len(view) else None


class CountsPadding(Sound):
    def plan(self, view: View) -> Plan | None:
        return Plan.where(view.index % 2 == 0) if len(view) else None


class ScalesWhatRepeats(Sound):
    """Changes hidden states in place, where two tokens are equal."""

    layer: int = Field(-1, description="layer after which to drop")

    def plan(self, view: View) -> Plan | None:
        hidden = getattr(view, "_hidden", None)
        if hidden is not None and hidden.dim() == 3:
            own = view.hidden
            if len(own.unique(dim=0)) < len(own):
                hidden.mul_(2)
        return super().plan(view)


class SpoilsTheCache(Sound):
    """Writes into the keys once they are cached: the prefill is right, decoding is not."""

    def needs(self) -> Needs:
        return Needs(keys=True)

    def plan(self, view: View) -> Plan | None:
        prefill = getattr(view, "_prefill", None)
        if prefill is not None:
            prefill.probe.captures[view.layer].key.mul_(-1)
        return super().plan(view)


class Hoards(Sound):
    seen: ClassVar[list[Tensor]] = []

    def plan(self, view: View) -> Plan | None:
        self.seen.append(view.hidden)
        return super().plan(view)


class LeavesHooks(Sound):
    def plan(self, view: View) -> Plan | None:
        prefill = getattr(view, "_prefill", None)
        if prefill is not None:
            prefill.layers[0].register_forward_hook(lambda *_: None)
        return super().plan(view)


BROKEN: dict[str, list[Reducer]] = {
    "schema_round_trip": [Forgetful(secret=2), Silent()],
    "frozen": [Assignable()],
    "unknown_settings_are_refused": [Lenient()],
    "nonsense_is_refused": [Untyped()],
    "layers_fit_every_depth": [FixedLayer()],
    "budget_fields_are_settings": [BoundTooFar()],
    "pure_and_deterministic": [Draws(), Writes(), Counts()],
    "chronological": [OutOfOrderAfterMerges()],
    "ragged_grids": [WantsWholeGrids()],
    "several_videos": [MixesVideos()],
    "identity_at_zero": [Greedy()],
    "counts_as_declared": [RoundsDown(), TakesTheLast()],
    "text_untouched": [CountsTextAsVisual()],
    "batch_order_does_not_matter": [LooksAtTheRow()],
    "padding_does_not_matter": [CountsPadding()],
    "equals_masking_and_averaging": [ScalesWhatRepeats()],
    "decodes_as_it_prefilled": [SpoilsTheCache()],
    "memory_does_not_grow": [Hoards()],
    "nothing_is_left_on_the_model": [LeavesHooks()],
}
