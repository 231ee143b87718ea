"""PLLaVA: one run of 16 x 12 x 12 tokens per video, averaged behind the projector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint
from tokenreduce.composed_adapter import (
    MARKER,
    ComposedAdapter,
    PromptProcessor,
    chosen,
    load_composed,
    set_special_tokens,
)
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.preprocess import FramePreprocessor, resized
from tokenreduce.pretrained import load_tokenizer, read_json

if TYPE_CHECKING:
    from torch import Tensor

POOLED = (16, 12, 12)
"""Frames, rows and columns: what the authors evaluate with, whatever ``config.json`` says."""

LONGEST_EDGE = 640
"""Pixels; frames are made no larger than this before CLIP's own preprocessing."""

_RULES = (
    (r"^language_model\.base_model\.model\.", "language_model."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
    (r"^multi_modal_projector\.", "connector."),
)
_PUBLISHED = (
    (r"^(language_model\..*\.[qv]_proj)\.weight$", r"\1.base_layer.weight"),
    (r"^language_model\.", "language_model.base_model.model."),
    (r"^vision_tower\.", "vision_tower.vision_model."),
    (r"^connector\.", "multi_modal_projector."),
)


@dataclass(frozen=True, slots=True)
class Style:
    """A way to ask, as the authors do it for one benchmark.

    Attributes
    ----------
    system
        What the prompt begins with.
    alone
        Whether the video is a turn of its own; else it stands before the question.
    before, after
        What is written around the question.
    answer
        How the answer begins: the model goes on from there.
    returned
        What is put before the model's words, as the part of ``answer`` that belongs to them.
    """

    system: str = ""
    alone: bool = True
    before: str = ""
    after: str = ""
    answer: str = ""
    returned: str = ""

    def prompt(self, question: str) -> str:
        """Return the whole prompt."""
        asked = f"{self.before}{question}{self.after}"
        video = f"{MARKER}\n USER: " if self.alone else f"{MARKER}\n "
        opening = f"{self.system} " if self.system else ""
        return f"{opening}USER: {video}{asked} ASSISTANT:{self.answer}"


STYLES = {
    "vcgbench": Style(
        "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the "
        "video content that the user provides, and assist the user with a variety of tasks using "
        "natural language.Follow the instructions carefully and explain your answers in detail "
        "based on the provided video."
    ),
    "mvbench": Style(
        "Carefully watch the video and pay attention to the cause and sequence of events, the "
        "detail and movement of objects, and the action and pose of persons. Based on your "
        "observations, select the best option that accurately addresses the question.\n",
        after=" \nOnly give the best option.",
        answer="Best option:(",
        returned="(",
    ),
    "videoqabench": Style(
        alone=False,
        before="The input consists of a sequence of key frames from a video. Answer the question "
        "concisely first and followed by significant events, characters, or objects that appear "
        "throughout the frames. Question: ",
        after=" \n",
        answer="\nAnswer: In the video,",
    ),
}
"""The prompts of ``magic-research/PLLaVA: tasks/eval``, by the name of their benchmark."""


class Pllava(ComposedAdapter):
    """Adapter for ``PllavaForConditionalGeneration`` as it was published, with a Vicuna inside.

    A video is 16 frames of 12 x 12 tokens, row by row. Its low-rank updates are merged on loading.
    Source: ``magic-research/PLLaVA: models/pllava``.
    """

    name: ClassVar[str] = "pllava"
    model_types: ClassVar[tuple[str, ...]] = ("pllava",)

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Return whether the architecture is PLLaVA's: the ``model_type`` is that of LLaVA."""
        return "PllavaForConditionalGeneration" in (config.get("architectures") or ())

    def load(
        self,
        directory: Path,
        *,
        dtype: str,
        device: str,
        lora_alpha: float = 4,
        style: str = "vcgbench",
    ) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`.

        Parameters
        ----------
        directory, dtype, device
            As for every family.
        lora_alpha
            Strength of the low-rank updates, in units of their rank.
        style
            A key of :data:`STYLES`.

        Raises
        ------
        ConfigError
            If there is no such style, or ``lora_alpha`` is no number from 0 on.
        """
        from tokenreduce.weights import merge_lora, read_weights

        asked, alpha = chosen("style", style, STYLES), _strength(lora_alpha)
        stored = read_json(
            directory / "config.json", ("text_config", "vision_config", "image_token_index")
        )
        settings = {
            "family": self.name,
            "text_config": stored["text_config"],
            "vision_config": stored["vision_config"],
            "video_token_id": stored["image_token_index"],
            "vision_layer": stored.get("vision_feature_layer", -2),
            "connector": "adaptive_pool",
            "pooled": POOLED,
        }
        model = load_composed(
            settings,
            merge_lora(read_weights(directory), alpha),
            directory,
            dtype=dtype,
            device=device,
            rules=_RULES,
            published=_PUBLISHED,
        )
        tokenizer = load_tokenizer(directory, template=False)
        set_special_tokens(model, directory, tokenizer)
        processor = PllavaProcessor(tokenizer, FramePreprocessor.from_directory(directory), model)
        processor.style = asked
        return Checkpoint(model, processor, directory.name)


class PllavaProcessor(PromptProcessor):
    """One of the authors' prompts; frames are resized twice.

    Attributes
    ----------
    style
        How to ask.
    """

    frames = POOLED[0]
    sampling = "segments"
    style = STYLES["vcgbench"]

    def prompt(self, question: str, frames: int) -> str:
        """See :meth:`tokenreduce.composed_adapter.PromptProcessor.prompt`."""
        return self.style.prompt(question)

    def tokenized(self, prompt: str) -> list[int]:
        """Tokenize the prompt as a whole: the tokenizer knows the marker."""
        ids: list[int] = self.tokenizer(prompt)["input_ids"]
        return ids

    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`tokenreduce.adapter.Processor.video_inputs`.

        Raises
        ------
        AdapterError
            If there are more frames than the model takes.
        """
        if len(frames) > POOLED[0]:
            raise AdapterError(
                f"{len(frames)} frames are more than the {POOLED[0]} that PLLaVA takes: sample "
                "fewer."
            )
        edge = self.preprocess.size.shortest_edge or self.preprocess.size.height
        return super().video_inputs(_bounded(frames, edge or 1), question, times)

    def decode(self, token_ids: Tensor) -> str:
        """See :meth:`tokenreduce.adapter.Processor.decode`."""
        return self.style.returned + super().decode(token_ids)


def _strength(alpha: object) -> float:
    """Check ``lora_alpha``, which comes as a user wrote it."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < inf:
        raise ConfigError(
            f"the model's option lora_alpha={alpha!r} is no number from 0 on: the authors evaluate "
            "with 4 and trained with 32."
        )
    return float(alpha)


def _bounded(frames: Tensor, smallest: int) -> Tensor:
    """Resize frames to a long edge of at most 640 pixels, or to a short edge of ``smallest``."""
    height, width = frames.shape[1:3]
    long, short = max(height, width), min(height, width)
    ratio = long / short
    edge = max(smallest, min(short, int(min(LONGEST_EDGE, long) / ratio)))
    other = edge * long // short
    frames = resized(frames, (other, edge) if height > width else (edge, other))
    # The authors' own arithmetic may come out one pixel short, and they cut it off.
    cut = int(edge * ratio)
    return frames[:, :cut] if height > width else frames[:, :, :cut]
