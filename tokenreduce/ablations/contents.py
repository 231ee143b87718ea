"""Finds out whether what reducers remove follows from their settings, or from what is in a video.

Two videos that no reducer takes for one another are shown to the same reducers, in place of the
attention, keys and hidden states that the model computed. Where the counts of every layer come out
the same, they follow from the settings and the size of the video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tokenreduce.ablations.knobs import knobs_of
from tokenreduce.ablations.prefills import prefill
from tokenreduce.bench.pattern import SeenView, asked_with, plainly
from tokenreduce.reducer import Reducer
from tokenreduce.trace_builder import sum_up
from tokenreduce.view import View

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.inference import Loaded

Content = Literal["still", "moving"]

TRIED = 4
"""The first knob is tried at the ends of so many equal parts of its range, its own ends apart."""


class ContentView(SeenView):
    """A view of a video of our making.

    ``still``: all frames show the same, and attention is the same in every layer. ``moving``: no
    two tokens are alike, and attention leaves all frames but the last.
    """

    def __init__(self, view: View, content: Content) -> None:
        super().__init__(view, "published" if content == "still" else "falling", plainly)
        self._content = content

    @property
    def keys(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.keys`."""
        return self._made(super().keys)

    @property
    def hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.hidden`."""
        return self._made(super().hidden)

    @property
    def visual_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.visual_embeddings`."""
        return self._made(super().visual_embeddings)

    def _made(self, real: Tensor) -> Tensor:
        import torch

        if self._content == "still":
            return real[:1].expand_as(real)
        generator = torch.Generator().manual_seed(self.layer + 1)
        return torch.randn(real.shape, generator=generator).to(real)


def counts_follow_settings(
    loaded: Loaded, inputs: Mapping[str, Any], reducers: Sequence[Reducer]
) -> bool:
    """Return whether counts are the same whatever the video shows.

    Tried are the settings given, and the first of ``budget_fields`` at values over its range.

    Parameters
    ----------
    loaded
        The model; one prefill runs for each try and content.
    inputs
        What its ``generate`` takes, for one question about one video.
    reducers
        Composed in order.
    """
    lists = [tuple(reducers)]
    for knob in knobs_of(reducers)[:1]:
        steps = dict.fromkeys(round(part * knob.last / TRIED) for part in range(1, TRIED))
        lists += [knob.turned(reducers, step) for step in steps]
    return all(
        _counts(loaded, inputs, tried, "still") == _counts(loaded, inputs, tried, "moving")
        for tried in lists
    )


def _counts(
    loaded: Loaded, inputs: Mapping[str, Any], reducers: Sequence[Reducer], content: Content
) -> tuple[tuple[int, ...], ...]:
    shown = [asked_with(each, lambda view: ContentView(view, content)) for each in reducers]
    return sum_up(prefill(loaded, inputs, shown)).tokens_per_layer
