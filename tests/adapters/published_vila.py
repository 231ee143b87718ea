"""Writes a tiny checkpoint as VILA1.5 was published: folders, files and names of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.adapters.published import (
    Tensors,
    write_json,
    write_shards,
    write_tokenizer,
)

LLAMA_3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
LLAMA_3 += ("<|eot_id|>", "[PAD]")
HERMES = ("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
VICUNA = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Geometry and widths of a tiny checkpoint.

    Attributes
    ----------
    tower
        ``siglip`` or ``internvit``.
    image, patch
        Pixels per side.
    channels, heads, depth
        Of the tower.
    hidden, layers
        Of the language model; it has four heads and two key heads.
    specials
        Tokens beyond the 256 bytes; the language model has a row for each.
    begins
        Whether the tokenizer puts the first of ``specials`` before every text.
    """

    tower: str = "siglip"
    image: int = 40
    patch: int = 8
    channels: int = 16
    heads: int = 2
    depth: int = 3
    hidden: int = 32
    layers: int = 3
    specials: tuple[str, ...] = LLAMA_3
    begins: bool = True

    @property
    def side(self) -> int:
        return self.image // self.patch

    @property
    def vocabulary(self) -> int:
        return 256 + len(self.specials)


EIGHT = Sizes()
FORTY = Sizes("internvit", image=32, specials=HERMES, begins=False)


def publish(folder: Path, sizes: Sizes = EIGHT) -> Path:
    """Write a random checkpoint and return its folder."""
    tower = _siglip if sizes.tower == "siglip" else _internvit
    _write_configs(folder, sizes)
    write_shards(folder / "vision_tower", tower(Tensors(1), sizes).named)
    write_shards(folder / "mm_projector", _projector(Tensors(2), sizes).named)
    write_shards(folder / "llm", _llm(Tensors(3), sizes).named, count=2)
    begins, *others = sizes.specials
    write_tokenizer(
        folder / "llm",
        sizes.specials,
        first=begins if sizes.begins else None,
        bos_token=begins if sizes.begins else others[0],
        eos_token=others[0] if sizes.begins else others[1],
    )
    return folder


def _write_configs(folder: Path, sizes: Sizes) -> None:
    siglip = sizes.tower == "siglip"
    llm = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": 2 * sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "use_cache": True,
        "transformers_version": "4.36.2",
        "_name_or_path": "./checkpoints/llm",
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 8192,
        "model_max_length": 4096,
        "tokenizer_model_max_length": 4096,
        "tokenizer_padding_side": "right",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    vision: dict[str, Any] = {
        "hidden_size": sizes.channels,
        "intermediate_size": 2 * sizes.channels,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "num_channels": 3,
        "layer_norm_eps": 1e-06,
        "attention_dropout": 0.0,
        "transformers_version": "4.36.2",
        "_name_or_path": "./checkpoints/vision_tower",
        "torch_dtype": "bfloat16",
    }
    if siglip:
        vision |= {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"}
        vision |= {"hidden_act": "gelu_pytorch_tanh"}
        seen = {
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "size": {"height": sizes.image, "width": sizes.image},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 0.00392156862745098,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
    else:
        vision |= {"architectures": ["InternVisionModel"], "model_type": "intern_vit_6b"}
        vision |= {"hidden_act": "gelu", "qkv_bias": False, "qk_normalization": True}
        vision |= {"initializer_factor": 0.1, "use_flash_attn": True, "drop_path_rate": 0.0}
        seen = {"image_processor_type": "InternVisionPreprocessor", "resize_size": sizes.image}
    projector = {
        "architectures": ["MultimodalProjector"],
        "model_type": "v2l_projector",
        "mm_projector_type": "mlp_downsample",
    }
    root = {
        "architectures": ["LlavaLlamaModel"],
        "model_type": "llava_llama",
        "llm_cfg": llm,
        "vision_tower_cfg": vision,
        "mm_projector_cfg": projector,
        "hidden_size": sizes.hidden,
        "mm_hidden_size": sizes.channels,
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch" if siglip else "patch",
        "mm_vision_select_layer": -2 if siglip else -1,
        "num_video_frames": 8,
        "s2": False,
        "vision_resolution": -1,
    }
    for name, config in (
        ("config.json", root),
        ("llm/config.json", llm),
        ("vision_tower/config.json", vision),
        ("vision_tower/preprocessor_config.json", seen),
        ("mm_projector/config.json", projector),
    ):
        write_json(folder / name, config)


def _llm(tensors: Tensors, sizes: Sizes) -> Tensors:
    tensors.decoder(
        "model.",
        "lm_head",
        width=sizes.hidden,
        layers=sizes.layers,
        rows=sizes.vocabulary,
        keys=sizes.hidden // 2,
        bias=False,
    )
    return tensors


def _siglip(tensors: Tensors, sizes: Sizes) -> Tensors:
    width = sizes.channels
    _patches(tensors, "vision_model.", sizes)
    tensors.add("vision_model.embeddings.position_embedding.weight", sizes.side**2, width)
    for layer in range(sizes.depth):
        at = f"vision_model.encoder.layers.{layer}"
        for part in ("k", "v", "q", "out"):
            tensors.linear(f"{at}.self_attn.{part}_proj", width, width)
        tensors.norm(f"{at}.layer_norm1", width)
        tensors.norm(f"{at}.layer_norm2", width)
        _mlp(tensors, at, width)
    tensors.norm("vision_model.post_layernorm", width)
    tensors.add("vision_model.head.probe", 1, 1, width)
    tensors.add("vision_model.head.attention.in_proj_weight", 3 * width, width)
    tensors.add("vision_model.head.attention.in_proj_bias", 3 * width)
    tensors.linear("vision_model.head.attention.out_proj", width, width)
    tensors.norm("vision_model.head.layernorm", width)
    _mlp(tensors, "vision_model.head", width)
    return tensors


def _internvit(tensors: Tensors, sizes: Sizes) -> Tensors:
    width = sizes.channels
    tensors.add("embeddings.class_embedding", 1, 1, width)
    _patches(tensors, "", sizes)
    tensors.add("embeddings.position_embedding", 1, sizes.side**2 + 1, width)
    for layer in range(sizes.depth):
        at = f"encoder.layers.{layer}"
        tensors.linear(f"{at}.attn.qkv", 3 * width, width, bias=False)
        tensors.linear(f"{at}.attn.proj", width, width)
        for name in ("attn.q_norm", "attn.k_norm", "norm1", "norm2"):
            tensors.norm(f"{at}.{name}", width, bias=False)
        tensors.add(f"{at}.ls1", width, around=0.5)
        tensors.add(f"{at}.ls2", width, around=0.5)
        _mlp(tensors, at, width)
    return tensors


def _projector(tensors: Tensors, sizes: Sizes) -> Tensors:
    stacked = 4 * sizes.channels
    tensors.norm("layers.1", stacked)
    tensors.linear("layers.2", sizes.hidden, stacked)
    tensors.linear("layers.4", sizes.hidden, sizes.hidden)
    return tensors


def _patches(tensors: Tensors, prefix: str, sizes: Sizes) -> None:
    name = f"{prefix}embeddings.patch_embedding"
    tensors.add(f"{name}.weight", sizes.channels, 3, sizes.patch, sizes.patch)
    tensors.add(f"{name}.bias", sizes.channels)


def _mlp(tensors: Tensors, at: str, width: int) -> None:
    tensors.linear(f"{at}.mlp.fc1", 2 * width, width)
    tensors.linear(f"{at}.mlp.fc2", width, 2 * width)
