"""What the adapters of composed models share: their layout, and prompts written by hand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from tokenreduce.adapter import Inputs, ModelAdapter, Processor
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.features import encoded_video, features_of
from tokenreduce.layout import Layout
from tokenreduce.names import suggestion
from tokenreduce.placement import Grid, Item, place
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.pretrained import said

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenreduce.composed import ComposedModel
    from tokenreduce.weights import Rules, Weights

MARKER = "<image>"
"""What prompts hold in place of a run of visual tokens."""

Choice = TypeVar("Choice")


class ComposedAdapter(ModelAdapter):
    """Adapter of a family whose model is a :class:`tokenreduce.composed.ComposedModel`.

    Attributes
    ----------
    text_between_frames
        Whether each frame is a run of its own, with text in between.
    """

    text_between_frames: ClassVar[bool] = False

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        config: Any = model.config
        items = {config.video_token_id: self._videos(model, inputs)}
        return place(inputs["input_ids"], items, inputs.get("attention_mask"))

    def encode_video(self, model: nn.Module, inputs: Inputs) -> dict[str, Any]:
        """See :meth:`tokenreduce.adapter.ModelAdapter.encode_video`."""
        return encoded_video(model, inputs)

    def _videos(self, model: Any, inputs: Inputs) -> Iterable[Item]:
        """Yield the grid of each video of the batch; all have as many frames."""
        encoded = features_of(inputs, "video")
        pixels = inputs.get("pixel_values_videos")
        if encoded is not None:
            _, rows, columns = model.video_grid(1)
            frames = encoded.shape[1] // (rows * columns)
        elif pixels is not None:
            frames, rows, columns = model.video_grid(pixels.shape[1])
        else:
            return ()
        length = 1 if self.text_between_frames else frames
        starts = range(0, frames, length)
        order = model.connector.order
        return repeat([Grid(length, rows, columns, start, order=order) for start in starts])


class PromptProcessor(Processor):
    """Writes a family's prompt around its visual tokens: for tokenizers without a chat template.

    Parameters
    ----------
    tokenizer
        Of the checkpoint.
    preprocess
        Frames to pixels.
    model
        Knows how many visual tokens a video has.
    """

    def __init__(self, tokenizer: Any, preprocess: FramePreprocessor, model: ComposedModel) -> None:
        self.tokenizer, self.preprocess = tokenizer, preprocess
        self.grid, self.placeholder = model.video_grid, model.config.video_token_id

    @abstractmethod
    def prompt(self, question: str, frames: int) -> str:
        """Return the prompt, with one marker ``<image>`` for each run of visual tokens."""

    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`tokenreduce.adapter.Processor.video_inputs`."""
        import torch

        if MARKER in question:
            raise AdapterError(f"'{MARKER}' stands for the video: leave it out of the question.")
        ids = self.tokenized(self.prompt(question, len(frames)))
        if not (runs := ids.count(self.placeholder)):
            raise AdapterError(
                f"the tokenizer makes no token {self.placeholder} of '{MARKER}': is it the one of "
                "this checkpoint?"
            )
        count, rows, columns = self.grid(len(frames))
        length = count * rows * columns // runs
        expanded = [
            token for each in ids for token in [each] * (length if each == self.placeholder else 1)
        ]
        input_ids = torch.tensor([expanded])
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values_videos": self.preprocess(frames)[None],
        }

    def tokenized(self, prompt: str) -> list[int]:
        """Return token ids with one placeholder for each marker; texts are tokenized apart.

        A first token that the tokenizer adds to every text is kept once, at the beginning.
        """
        first, *others = (self.tokenizer(text)["input_ids"] for text in prompt.split(MARKER))
        begins = bool(first) and first[0] == self.tokenizer.bos_token_id
        ids = list(first)
        for text in others:
            ids += [self.placeholder, *text[begins:]]
        return ids

    def decode(self, token_ids: Tensor) -> str:
        """See :meth:`tokenreduce.adapter.Processor.decode`."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()


def chosen(option: str, value: object, known: Mapping[str, Choice]) -> Choice:
    """Return what the ``value`` of a family's ``option`` names.

    Raises
    ------
    ConfigError
        If it is none of the ``known`` names.
    """
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"the model's option {option}={value!r}: {suggestion(value, known)}")
    return known[value]


def load_composed(
    settings: Mapping[str, Any],
    weights: Weights,
    directory: Path,
    *,
    dtype: str,
    device: str,
    rules: Rules,
    published: Rules,
    allowed: Sequence[str] = (),
) -> ComposedModel:
    """Return the model of a configuration with the tensors of a checkpoint, in ``eval()`` mode.

    Parameters
    ----------
    settings
        Of the model: fields of :class:`tokenreduce.composed.ComposedConfig`.
    weights
        By the checkpoint's names.
    directory
        The checkpoint, for messages.
    dtype
        Name of a torch type.
    device
        Where the model goes; ``meta``: no weight is read, and nothing can be computed.
    rules, published
        From the checkpoint's names to the model's, and back.
    allowed
        Patterns of names that the checkpoint may hold beyond the model's.

    Raises
    ------
    AdapterError
        If the settings describe no model, or a tensor is missing, unexpected, or of another shape.
    """
    import torch

    from tokenreduce.composed import ComposedConfig, empty_model
    from tokenreduce.weights import COMPUTED, load_weights

    try:
        with torch.device(device if device == "meta" else "cpu"):
            model = empty_model(ComposedConfig(**settings), dtype)
    except Exception as error:  # a wrong configuration can end in any class of error
        raise AdapterError(
            f"{directory}: the configuration describes no model: {said(error)}"
        ) from error
    if device == "meta":
        return model
    load_weights(
        model,
        weights,
        directory,
        rules=rules,
        published=published,
        allowed=(*COMPUTED, *allowed),
    )
    model.to(device)
    return model


def set_special_tokens(model: ComposedModel, directory: Path, tokenizer: Any) -> None:
    """Take over where generation ends from ``generation_config.json`` or the tokenizer.

    Sampling settings are left out: a run is greedy unless its caller asks for something else.
    """
    from transformers import GenerationConfig

    stored = GenerationConfig()
    if (directory / "generation_config.json").is_file():
        stored = GenerationConfig.from_pretrained(directory, local_files_only=True)
    settings = model.generation_config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        found = getattr(stored, name)
        setattr(settings, name, getattr(tokenizer, name) if found is None else found)
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.eos_token_id
