"""VILA1.5: a run of tokens for each frame, column by column, with a line break after each run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from tokenreduce.adapter import Checkpoint
from tokenreduce.composed_adapter import (
    MARKER,
    ComposedAdapter,
    PromptProcessor,
    chosen,
    load_composed,
    set_special_tokens,
)
from tokenreduce.errors import AdapterError
from tokenreduce.preprocess import FramePreprocessor, Size
from tokenreduce.pretrained import load_tokenizer, read_json

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.weights import Weights


class Template(NamedTuple):
    """A conversation of one turn: what stands around it, and what ends the model's answer."""

    before: str
    after: str
    stop: str


_LLAMA_3 = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language.{end}<|start_header_id|>user<|end_header_id|>\n\n"
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
TEMPLATES = {
    "llama_3": Template(
        _LLAMA_3.format(end="<|eot_id|>"),
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "llama_3_old": Template(
        _LLAMA_3.format(end="<|end_of_text|>"),
        "<|end_of_text|><|start_header_id|>system<|end_header_id|>\n\n",
        "<|end_of_text|>",
    ),
    "hermes_2": Template(
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n",
        "<|im_end|><|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "vicuna_v1": Template(_VICUNA, " ASSISTANT:", "</s>"),
}
"""``NVlabs/VILA: llava/conversation.py``; ``llama_3_old`` is how it was before August 2024."""

# A tensor's name begins with its folder.
_RULES = (
    (r"^llm/", "language_model."),
    (r"^mm_projector/layers\.1\.", "connector.norm."),
    (r"^mm_projector/layers\.2\.", "connector.linear_1."),
    (r"^mm_projector/layers\.4\.", "connector.linear_2."),
)
_PUBLISHED = (
    (r"^language_model\.", "llm/"),
    (r"^connector\.norm\.", "mm_projector/layers.1."),
    (r"^connector\.linear_1\.", "mm_projector/layers.2."),
    (r"^connector\.linear_2\.", "mm_projector/layers.4."),
)
_SIGLIP_RULES = (*_RULES, (r"^vision_tower/vision_model\.", "vision_tower."))
_SIGLIP_PUBLISHED = (*_PUBLISHED, (r"^vision_tower\.", "vision_tower/vision_model."))
_INTERNVIT_RULES = (
    *_RULES,
    (r"^vision_tower/", "vision_tower."),
    (r"\.class_embedding$", ".cls_token"),
    (r"\.position_embedding$", ".position_embeddings"),
    (r"\.patch_embedding\.", ".patch_embeddings.projection."),
    (r"\.encoder\.layers\.", ".encoder.layer."),
    (r"\.attn\.proj\.", ".attention.projection_layer."),
    (r"\.attn\.([qkv])\.", r".attention.\1_proj."),
    (r"\.attn\.", ".attention."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.ls([12])$", r".lambda_\1"),
)
_INTERNVIT_PUBLISHED = (
    *_PUBLISHED,
    (r"^vision_tower\.", "vision_tower/"),
    (r"\.cls_token$", ".class_embedding"),
    (r"\.position_embeddings$", ".position_embedding"),
    (r"\.patch_embeddings\.projection\.", ".patch_embedding."),
    (r"/encoder\.layer\.", "/encoder.layers."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.", ".attn."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_([12])$", r".ls\1"),
)
# SigLIP pools with its head; the projector takes patches.
_UNUSED = (r"^vision_tower/vision_model\.head\.",)
_IMAGENET: dict[str, tuple[float, float, float]] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


class Vila(ComposedAdapter):
    """Adapter for the published folders of VILA1.5: ``llm``, ``vision_tower``, ``mm_projector``.

    A video of N frames is N runs of side x side tokens, each one frame column by column, with
    text between them. Side is 14 with the SigLIP tower (8B) and 16 with InternViT (40B).
    Source: ``NVlabs/VILA`` at commit 0085724.
    """

    name: ClassVar[str] = "vila"
    model_types: ClassVar[tuple[str, ...]] = ("vila",)
    text_between_frames: ClassVar[bool] = True

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """See :meth:`tokenreduce.adapter.ModelAdapter.claims`; LLaVA has the same model_type."""
        return config.get("model_type") == "llava_llama" and "mm_projector_cfg" in config

    def load(
        self, directory: Path, *, dtype: str, device: str, template: str | None = None
    ) -> Checkpoint:
        """See :meth:`tokenreduce.adapter.ModelAdapter.load`.

        Parameters
        ----------
        directory, dtype, device
            As for every family.
        template
            A key of :data:`TEMPLATES`; None: by the tokenizer and the folder's name.

        Raises
        ------
        AdapterError
            If a file is missing or wrong, weights do not fit, or no template is known.
        ConfigError
            If there is no such template.
        """
        tokenizer = load_tokenizer(directory / "llm", template=False)
        conversation = _template(template, directory, tokenizer)
        root, tower = _checked(directory)
        text = read_json(directory / "llm" / "config.json", ("vocab_size",))
        intern = tower["model_type"] == "intern_vit_6b"
        settings = {
            "family": self.name,
            "text_config": text,
            "vision_config": _internvit(tower) if intern else {**tower, "vision_use_head": False},
            "video_token_id": text["vocab_size"],  # no row of the embedding: no word can be it
            "vision_layer": root.get("mm_vision_select_layer", -2),
            "vision_class_token": intern,
            "connector": "patch_stack",
        }
        model = load_composed(
            settings,
            _weights(directory),
            directory,
            dtype=dtype,
            device=device,
            rules=_INTERNVIT_RULES if intern else _SIGLIP_RULES,
            published=_INTERNVIT_PUBLISHED if intern else _SIGLIP_PUBLISHED,
            allowed=_UNUSED,
        )
        set_special_tokens(model, directory / "llm", tokenizer)
        _stop_at(model.generation_config, tokenizer.convert_tokens_to_ids(conversation.stop))
        preprocess = _preprocess(directory / "vision_tower", tower, intern)
        processor = VilaProcessor(tokenizer, preprocess, model)
        processor.template = conversation
        processor.frames = root.get("num_video_frames", processor.frames)
        processor.longest = text.get("tokenizer_model_max_length")
        return Checkpoint(model, processor, directory.name)


class VilaProcessor(PromptProcessor):
    """A line break after each frame, then the question.

    Attributes
    ----------
    template
        What stands around them.
    longest
        Most tokens of a prompt, visual ones included; None: no limit.
    """

    frames = 8
    sampling = "before_last"
    template: Template
    longest: int | None = None

    def prompt(self, question: str, frames: int) -> str:
        """See :meth:`tokenreduce.composed_adapter.PromptProcessor.prompt`."""
        return self.template.before + f"{MARKER}\n" * frames + question + self.template.after

    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`tokenreduce.adapter.Processor.video_inputs`.

        Raises
        ------
        AdapterError
            If the prompt is longer than the model was trained for.
        """
        inputs = super().video_inputs(frames, question, times)
        length = inputs["input_ids"].shape[1]
        if self.longest is not None and length > self.longest:
            raise AdapterError(
                f"the prompt is {length} tokens with its {len(frames)} frames, and the model was "
                f"trained for {self.longest}: give fewer frames."
            )
        return inputs


def _checked(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of the whole and of the tower, if they are of VILA1.5's kinds."""
    root = read_json(directory / "config.json")
    tower = read_json(directory / "vision_tower" / "config.json", ("image_size",))
    projector = read_json(directory / "mm_projector" / "config.json")
    features = {"siglip_vision_model": "cls_patch", "intern_vit_6b": "patch"}
    kind = tower.get("model_type", "")
    root.setdefault("mm_vision_select_feature", "patch")
    known: tuple[tuple[dict[str, Any], str, tuple[Any, ...]], ...] = (
        (tower, "model_type", tuple(features)),
        (projector, "mm_projector_type", ("mlp_downsample",)),
        (root, "mm_vision_select_feature", (features.get(kind),)),
        (root, "image_aspect_ratio", ("resize", None)),
        (root, "s2", (False, None)),
        (root, "mm_use_im_start_end", (False, None)),
    )
    for config, key, values in known:
        if config.get(key) not in values:
            wanted = " or ".join(repr(value) for value in values if value is not None)
            raise AdapterError(
                f"{directory}: {key} is {config.get(key)!r} and VILA1.5 has {wanted}; later models "
                "of this model_type need an adapter of their own."
            )
    return root, tower


def _template(asked: str | None, directory: Path, tokenizer: Any) -> Template:
    vocabulary = tokenizer.get_vocab()
    name = asked
    if name is None and "<|eot_id|>" in vocabulary:
        # Nothing in the two published folders tells them apart but their names.
        name = "llama_3" if _is_fix(directory) else "llama_3_old"
    elif name is None:
        name = "hermes_2" if "<|im_end|>" in vocabulary else "vicuna_v1"
    template = chosen("template", name, TEMPLATES)
    if template.stop not in vocabulary:
        raise AdapterError(
            f"{directory}: the tokenizer has no '{template.stop}', with which answers end in the "
            f"template '{name}': set another of {', '.join(TEMPLATES)}."
        )
    return template


def _is_fix(directory: Path) -> bool:
    """Return whether the folder is called so, or the repository in the Hugging Face cache."""
    hashed = directory.resolve()  # models--OWNER--NAME/snapshots/HASH
    name = hashed.parents[1].name if hashed.parent.name == "snapshots" else hashed.name
    return re.search(r"(?<![a-z])fix(?![a-z])", name.lower()) is not None


def _stop_at(settings: Any, token: int) -> None:
    """Let ``generate`` end at ``token`` as well."""
    known = settings.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or ())
    settings.eos_token_id = list(dict.fromkeys([*ends, token]))


def _internvit(tower: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the InternVL tower that computes what this InternViT does."""
    kept = (
        "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "layer_norm_eps image_size patch_size num_channels attention_dropout"
    )
    return {
        **{name: tower[name] for name in kept.split() if name in tower},
        "model_type": "internvl_vision",
        "norm_type": tower.get("norm_type", "rms_norm"),
        "attention_bias": tower.get("qkv_bias", False),
        "use_qk_norm": tower.get("qk_normalization", True),
    }


def _weights(directory: Path) -> Weights:
    """Read the three folders; InternViT's fused matrices are cut in three."""
    from tokenreduce.weights import read_weights, rename, split

    weights: dict[str, Callable[[], Tensor]] = {}
    for part in ("llm", "vision_tower", "mm_projector"):
        weights |= rename(read_weights(directory / part), [(r"^", f"{part}/")])
    return split(weights, r"\.attn\.qkv\.", [f".attn.{part}." for part in "qkv"])


def _preprocess(directory: Path, tower: Mapping[str, Any], intern: bool) -> FramePreprocessor:
    """Return what squashes frames to a square: SigLIP's is stored, InternViT's is in its code."""
    if not intern:
        return FramePreprocessor.from_directory(directory)
    side = tower["image_size"]
    return FramePreprocessor(size=Size(height=side, width=side), **_IMAGENET)
