"""The model adapter interface: what the core must know about one model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.errors import AdapterError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreduce.cost import DecoderShape
    from tokenreduce.layout import Layout

Inputs = Mapping[str, Any]
"""Keyword arguments of a model's forward, as ``generate`` or the caller gave them."""


_RECURRENT = "have recurrent layers, whose state mixes all tokens that came before"
_SHARING = "share keys and values between layers, so that one layer needs what another dropped"
_REFUSED = {"qwen3_5": _RECURRENT, "gemma3n": _SHARING, "gemma4": _SHARING}
"""By the beginning of a ``model_type``, why no adapter can claim it."""


class Processor(ABC):
    """Turns frames and a question into model inputs, and token ids back into text.

    Attributes
    ----------
    frames, sampling
        How many frames of a clip the model was made for, and by which rule
        (:func:`tokenreduce.load_video`) they are picked: what ``tokenreduce run`` does unless it
        is told otherwise.
    """

    frames: int = 16
    sampling: str = "uniform"

    @abstractmethod
    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """Return the model's inputs for one question about one video.

        Parameters
        ----------
        frames
            ``[frames, height, width, 3]`` uint8 RGB.
        question
            The user's words; the chat template is added here.
        times
            Seconds of each frame, for families that write them into the prompt; None: two frames
            a second.
        """

    @staticmethod
    def times_of(frames: Tensor, times: Sequence[float] | None) -> Sequence[float]:
        """Return one time in seconds for each of ``frames``.

        Raises
        ------
        AdapterError
            If there is another number of times than of frames.
        """
        if times is None:
            return [number / 2 for number in range(len(frames))]
        if len(times) != len(frames):
            raise AdapterError(
                f"{len(frames)} frames were given with {len(times)} times: give one for each."
            )
        return times

    def next_turn(self, question: str) -> list[int]:
        """Return the ids that stand between the model's answer and its next one.

        They end the answer, ask ``question``, and ask for an answer: a conversation's first prompt,
        the generated ids without what ended them, and these are the prompt of its second turn.

        Raises
        ------
        UnsupportedError
            If the family's prompts are written for one turn only, which is the default.
        """
        raise UnsupportedError(
            f"{type(self).__name__} writes prompts of one turn: a second question cannot be asked "
            "in the same conversation."
        )

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

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this ``config.json`` is of the family.

        Several families were published under one ``model_type``: those look at ``architectures``
        as well.
        """
        return config.get("model_type") in cls.model_types

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

    def blocks(self, model: nn.Module, inputs: Inputs, layout: Layout) -> Tensor | None:
        """Return which tokens of one forward see each other, whatever their order.

        Parameters
        ----------
        model, inputs
            As for :meth:`layout`.
        layout
            What :meth:`layout` returned, or the caller gave.

        Returns
        -------
        Tensor or None
            ``[batch, tokens]`` int64 over the forward's tokens: those with the same number from 0
            on see each other, -1 elsewhere. None, the default: attention is causal throughout.
        """
        return None

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

        On the device ``meta`` no weight is read, and nothing can be computed: the model is asked
        for its layout and its sizes only. A family's own choices are keyword parameters with
        defaults after these two; users set them by name.

        Raises
        ------
        AdapterError
            If a file is missing or wrong, or weights do not fit the model.
        """


def claimed_by(adapter: ModelAdapter, model: nn.Module) -> bool:
    """Return whether ``adapter`` claims ``model`` by its configuration's ``model_type``."""
    config = getattr(model, "config", None)
    return getattr(config, "model_type", None) in adapter.model_types


def require_reducible(model_type: object) -> None:
    """Refuse families on which dropping a token is not the same as masking it.

    Raises
    ------
    UnsupportedError
        If ``model_type``, which no adapter claims, is of one of them.
    """
    for beginning, why in _REFUSED.items():
        if str(model_type).startswith(beginning):
            raise UnsupportedError(
                f"models of the type '{model_type}' {why}: reduction on them would not be exact, "
                "and is refused; `tokenreduce list adapters` shows the types that work."
            )
