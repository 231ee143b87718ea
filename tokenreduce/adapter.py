"""The model adapter interface: what the core must know about one model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreduce.cost import DecoderShape
    from tokenreduce.layout import Layout

Inputs = Mapping[str, Any]
"""Keyword arguments of a model's forward, as ``generate`` or the caller gave them."""


class Processor(ABC):
    """Turns frames and a question into model inputs, and token ids back into text."""

    @abstractmethod
    def video_inputs(self, frames: Tensor, question: str) -> dict[str, Tensor]:
        """Return the model's inputs for one question about one video.

        Parameters
        ----------
        frames
            ``[frames, height, width, 3]`` uint8 RGB.
        question
            The user's words; the chat template is added here.
        """

    @abstractmethod
    def decode(self, token_ids: Tensor) -> str:
        """Return the text of generated ``token_ids`` ``[tokens]``, special tokens left out."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what is needed to talk to it."""

    model: nn.Module
    processor: Processor
    name: str


class ModelAdapter(ABC):
    """One model family: which ``model_type`` it claims, and where its visual tokens sit."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]

    def decoder(self, model: nn.Module) -> nn.Module:
        """Return the language model: ``layers``, ``rotary_emb`` and ``norm`` are its children."""
        decoder: nn.Module = model.get_decoder()  # type: ignore[operator]
        return decoder

    def first_layer(self, model: nn.Module) -> int:
        """Return the first layer after which tokens may be reduced; -1: before the first layer."""
        return -1

    @abstractmethod
    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """Return where the visual tokens of one forward sit.

        Parameters
        ----------
        model
            The whole model.
        inputs
            Keyword arguments of its forward: ``input_ids`` ``[batch, tokens]``, perhaps
            ``attention_mask`` ``[batch, tokens]``, and the family's own vision inputs.

        Raises
        ------
        AdapterError
            If the tokens do not add up to whole grids.
        """

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """Run the vision tower once, and return inputs that carry its features instead of pixels.

        The default leaves the inputs as they are: each forward then encodes the video again.
        """
        return dict(inputs)

    def decoder_shape(self, model: nn.Module) -> DecoderShape:
        """Return the sizes that the cost model needs, read from the decoder's configuration."""
        from tokenreduce.cost import DecoderShape

        return DecoderShape.from_config(self.decoder(model).config)

    @abstractmethod
    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """Load a checkpoint directory: configuration, weights, tokenizer and processor settings.

        Raises
        ------
        AdapterError
            If a file is missing or wrong, or weights do not fit the model.
        """


def claimed_by(adapter: ModelAdapter, model: nn.Module) -> bool:
    """Return whether ``adapter`` claims ``model`` by its configuration's ``model_type``."""
    config = getattr(model, "config", None)
    return getattr(config, "model_type", None) in adapter.model_types


def expand_ids(token_ids: list[int], placeholder: int, counts: list[int]) -> list[int]:
    """Replace the i-th ``placeholder`` of ``token_ids`` by ``counts[i]`` copies of it.

    Raises
    ------
    AdapterError
        If there are not as many placeholders as counts.
    """
    found = token_ids.count(placeholder)
    if found != len(counts):
        raise AdapterError(
            f"the prompt holds {found} visual placeholders (token id {placeholder}) for "
            f"{len(counts)} videos or images: does the chat template insert them?"
        )
    remaining = iter(counts)
    expanded: list[int] = []
    for token in token_ids:
        expanded.extend([token] * (next(remaining) if token == placeholder else 1))
    return expanded
