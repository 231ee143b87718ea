"""What is timed: a model with one prompt about one video, from a named shape or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.bench.shapes import Grid, NamedShape
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, Role

if TYPE_CHECKING:
    from torch import nn

    from tokenreduce.cost import DecoderShape
    from tokenreduce.reducer import Reducer
    from tokenreduce.session import Session

QUESTION = "What happens in this video, and in which order? Answer in one sentence."
SIDE = 336  # pixels of the frames that a checkpoint's processor is given


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the inputs of its ``generate``.

    Attributes
    ----------
    name
        What the user called it.
    model, adapter
        In ``eval()`` mode, and what knows its family.
    inputs
        Keyword arguments of ``generate``; the video is encoded already.
    layout
        Where the visual tokens sit.
    given
        Whether sessions must be given the layout, because no ids say so.
    vision
        Runs the vision tower over the video; None if it is not part of the model.
    device
        Where the model is.
    """

    name: str
    model: Any
    adapter: ModelAdapter
    inputs: Mapping[str, Any]
    layout: Layout
    given: bool
    vision: Callable[[], object] | None
    device: str

    @property
    def visual(self) -> int:
        """Grid tokens of the prompt."""
        return int((self.layout.role == int(Role.GRID)).sum())

    @property
    def tokens(self) -> int:
        """All tokens of the prompt."""
        return int((self.layout.role >= 0).sum())

    @property
    def shape(self) -> DecoderShape:
        """Sizes of the decoder."""
        return self.adapter.decoder_shape(self.model)

    @property
    def dtype(self) -> Any:
        """Number format of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def attention(self) -> str:
        """The attention implementation that the decoder uses now."""
        decoder: Any = self.adapter.decoder(self.model)
        return str(decoder.config._attn_implementation)

    def session(self, reducers: Sequence[Reducer]) -> Session:
        """Return a session of ``reducers`` on the model, not yet attached."""
        from tokenreduce.session import Session

        layout = self.layout if self.given else None
        return Session(self.model, self.adapter, reducers, layout=layout)

    @contextmanager
    def implementation(self, name: str | None) -> Iterator[None]:
        """Let the model compute attention another way inside the block; None: its own."""
        before = self.attention
        if name is not None:
            self.model.set_attn_implementation(name)
        try:
            yield
        finally:
            if name is not None:
                self.model.set_attn_implementation(before)


class ShapeAdapter(ModelAdapter):
    """A bare language model: where its visual tokens sit is told to every session."""

    name = "shape"
    model_types = ("llama", "qwen2")

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """Refuse: the layout of a named shape is given, not found."""
        raise AdapterError("a bare language model's ids do not say where its visual tokens sit.")

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """Refuse: named shapes have no checkpoint."""
        raise AdapterError(f"'{directory}' is not loaded: a named shape's weights are drawn.")


def shape_subject(
    shape: NamedShape, grid: Grid, *, text: int, dtype: str, device: str, attention: str
) -> Subject:
    """Fill a named shape with random weights, and write it a prompt.

    Parameters
    ----------
    shape
        Its sizes.
    grid
        The video.
    text
        Text tokens of the prompt: a quarter before the video, the rest after it.
    dtype, device
        Of weights and activations.
    attention
        Attention implementation.
    """
    import torch

    from tokenreduce.bench.random_weights import random_decoder

    model = random_decoder(shape.text, dtype=dtype, device=device, attention=attention)
    length = grid.tokens + text
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.text.vocabulary, (1, length), generator=generator).to(device)
    layout = Layout.video(
        start=text // 4, frames=grid.frames, rows=grid.rows, columns=grid.columns, length=length
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Subject(shape.name, model, ShapeAdapter(), inputs, layout, True, None, device)


def checkpoint_subject(
    directory: str,
    adapters: Mapping[str, type[ModelAdapter]],
    frames: int,
    *,
    dtype: str,
    device: str,
    attention: str,
) -> Subject:
    """Load a checkpoint, and ask it about a clip of random frames.

    Parameters
    ----------
    directory
        With a ``config.json`` whose family an adapter claims.
    adapters
        Adapter classes by name.
    frames
        Of the clip.
    dtype, device
        Of weights and activations.
    attention
        Attention implementation.

    Raises
    ------
    ConfigError
        If there is no such checkpoint or device.
    AdapterError
        If no adapter claims the model, or it cannot be loaded.
    """
    import torch

    from tokenreduce.inference import EncodedVideo, load_model

    loaded = load_model(directory, adapters, dtype=dtype, device=device)
    loaded.model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, (frames, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    inputs = EncodedVideo(loaded, clip).inputs(QUESTION)

    def vision() -> object:
        return EncodedVideo(loaded, clip).inputs(QUESTION)

    layout = loaded.adapter.layout(loaded.model, inputs)
    return Subject(
        directory, loaded.model, loaded.adapter, inputs, layout, False, vision, loaded.device
    )
