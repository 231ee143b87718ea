"""LongVA: one run of 12 x 12 tokens per frame, averaged behind the projector."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint
from tokenreduce.composed_adapter import (
    MARKER,
    ComposedAdapter,
    PromptProcessor,
    load_composed,
    set_special_tokens,
)
from tokenreduce.errors import AdapterError
from tokenreduce.preprocess import FramePreprocessor, Size
from tokenreduce.pretrained import load_tokenizer, read_json

if TYPE_CHECKING:
    from tokenreduce.weights import Weights

_TOWER = "model.vision_tower.vision_tower.vision_model."
_RULES = (
    (rf"^{re.escape(_TOWER)}", "vision_tower."),
    (r"^model\.mm_projector\.0\.", "connector.linear_1."),
    (r"^model\.mm_projector\.2\.", "connector.linear_2."),
    (r"^(model\.|lm_head\.)", r"language_model.\1"),
)
_PUBLISHED = (
    (r"^language_model\.", ""),
    (r"^vision_tower\.", _TOWER),
    (r"^connector\.linear_1\.", "model.mm_projector.0."),
    (r"^connector\.linear_2\.", "model.mm_projector.2."),
)
_EXPECTED = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "unires",
    "mm_vision_select_feature": "patch",
}
_HEAD = 64
"""Channels of one attention head, in every CLIP tower that OpenAI published."""


class LongVa(ComposedAdapter):
    """Adapter for ``LlavaQwenForCausalLM`` as LongVA was published.

    A video of T frames is T frames of 12 x 12 tokens, row by row.
    Source: ``EvolvingLMMs-Lab/LongVA: longva/longva/model``.
    """

    name: ClassVar[str] = "longva"
    model_types: ClassVar[tuple[str, ...]] = ("longva",)

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Return whether the configuration is LongVA's: others share its ``model_type``."""
        merge = config.get("mm_patch_merge_type")
        return (
            config.get("model_type") == "llava_qwen" and merge == _EXPECTED["mm_patch_merge_type"]
        )

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`."""
        from tokenreduce.weights import read_weights

        stored = _checked(directory / "config.json")
        tokenizer = load_tokenizer(directory, template=False, model_type="qwen2")
        weights = read_weights(directory)
        tower = _tower(weights, directory)
        settings = {
            "family": self.name,
            "text_config": _language_model(stored),
            "vision_config": tower,
            "video_token_id": len(tokenizer),  # a row of the embedding that no text uses
            "vision_layer": stored.get("mm_vision_select_layer", -2),
            "connector": "stride_pool",
        }
        model = load_composed(
            settings,
            weights,
            directory,
            dtype=dtype,
            device=device,
            rules=_RULES,
            published=_PUBLISHED,
        )
        set_special_tokens(model, directory, tokenizer)
        rows = model.get_input_embeddings().num_embeddings
        # The authors cut these rows off; here one of them is the placeholder.
        model.generation_config.suppress_tokens = [*range(len(tokenizer), rows)] or None
        edge = tower["image_size"]
        preprocess = FramePreprocessor(
            size=Size(shortest_edge=edge),
            crop=Size(height=edge, width=edge),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
        return Checkpoint(model, LongVaProcessor(tokenizer, preprocess, model), directory.name)


class LongVaProcessor(PromptProcessor):
    """The conversation ``qwen_1_5``, with CLIP's preprocessing."""

    frames = 32
    sampling = "linspace"

    def prompt(self, question: str, frames: int) -> str:
        """See :meth:`tokenreduce.composed_adapter.PromptProcessor.prompt`."""
        return (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{MARKER}\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )


def _checked(file: Path) -> dict[str, Any]:
    stored = read_json(file)
    for name, expected in _EXPECTED.items():
        if (found := stored.get(name, expected)) != expected:
            raise AdapterError(f"{file}: {name} is {found!r}, and of a LongVA it is '{expected}'.")
    return stored


def _language_model(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of Qwen2 among those of the whole model."""
    from transformers import Qwen2Config

    known = Qwen2Config().to_dict().keys() | {"rope_theta"}
    settings = {name: value for name, value in stored.items() if name in known}
    return {**settings, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}


def _tower(weights: Weights, directory: Path) -> dict[str, Any]:
    """Return the sizes of the CLIP tower, which only its tensors tell."""

    def shape(name: str) -> tuple[int, ...]:
        full = f"{_TOWER}{name}"
        if full not in weights:
            raise AdapterError(f"{directory}: the weights lack '{full}', a tensor of the tower.")
        return tuple(weights[full]().shape)

    width, _, patch, _ = shape("embeddings.patch_embedding.weight")
    positions, _ = shape("embeddings.position_embedding.weight")
    layer = re.compile(rf"^{re.escape(_TOWER)}encoder\.layers\.(\d+)\.")
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": shape("encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": 1 + max(int(m[1]) for m in map(layer.match, weights) if m),
        "num_attention_heads": width // _HEAD,
        "image_size": isqrt(positions - 1) * patch,
        "patch_size": patch,
    }
