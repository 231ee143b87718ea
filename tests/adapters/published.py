"""Tiny checkpoints in the layouts of published ones: random tensors, shards, a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def write_shards(folder: Path, tensors: Mapping[str, Tensor], count: int = 1) -> None:
    """Write safetensors: one file, or ``count`` shards with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    if count == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = names[number::count]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_tokenizer(
    folder: Path, special: Sequence[str], *, first: str | None = None, **settings: Any
) -> None:
    """Write a tokenizer of 256 bytes; the special tokens have the ids from 256 on.

    Parameters
    ----------
    folder
        Where its files go.
    special
        Tokens that are never cut.
    first
        The one of them that is put before every text.
    **settings
        Of ``tokenizer_config.json``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: number for number, letter in enumerate(sorted(alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    if first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **settings},
    )


class Tensors:
    """Random tensors by name, as a checkpoint would hold them."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.named: dict[str, Tensor] = {}

    def add(self, name: str, *shape: int, scale: float = 0.1, around: float = 0.0) -> Tensor:
        """Make one; it is remembered and returned."""
        tensor = torch.randn(shape, generator=self.generator) * scale + around
        self.named[name] = tensor
        return tensor

    def linear(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        self.add(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        if bias:
            self.add(f"{name}.bias", outputs)

    def norm(self, name: str, width: int, *, bias: bool = True) -> None:
        self.add(f"{name}.weight", width, around=1.0)
        if bias:
            self.add(f"{name}.bias", width)

    def clip(self, prefix: str, *, width: int, layers: int, side: int, patch: int) -> None:
        """Add a CLIP vision tower under the names that it had before transformers 5."""
        self.add(f"{prefix}embeddings.class_embedding", width)
        self.add(f"{prefix}embeddings.patch_embedding.weight", width, 3, patch, patch)
        self.add(f"{prefix}embeddings.position_embedding.weight", side * side + 1, width)
        self.norm(f"{prefix}pre_layrnorm", width)
        for layer in range(layers):
            at = f"{prefix}encoder.layers.{layer}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                self.linear(f"{at}.self_attn.{name}", width, width)
            self.norm(f"{at}.layer_norm1", width)
            self.norm(f"{at}.layer_norm2", width)
            self.linear(f"{at}.mlp.fc1", 2 * width, width)
            self.linear(f"{at}.mlp.fc2", width, 2 * width)
        self.norm(f"{prefix}post_layernorm", width)

    def decoder(
        self, prefix: str, head: str, *, width: int, layers: int, rows: int, keys: int, bias: bool
    ) -> None:
        """Add a Llama or, with ``bias``, a Qwen2."""
        self.add(f"{prefix}embed_tokens.weight", rows, width, scale=1.0)
        for layer in range(layers):
            at = f"{prefix}layers.{layer}"
            self.linear(f"{at}.self_attn.q_proj", width, width, bias=bias)
            self.linear(f"{at}.self_attn.k_proj", keys, width, bias=bias)
            self.linear(f"{at}.self_attn.v_proj", keys, width, bias=bias)
            self.linear(f"{at}.self_attn.o_proj", width, width, bias=False)
            self.linear(f"{at}.mlp.gate_proj", 2 * width, width, bias=False)
            self.linear(f"{at}.mlp.up_proj", 2 * width, width, bias=False)
            self.linear(f"{at}.mlp.down_proj", width, 2 * width, bias=False)
            self.norm(f"{at}.input_layernorm", width, bias=False)
            self.norm(f"{at}.post_attention_layernorm", width, bias=False)
        self.norm(f"{prefix}norm", width, bias=False)
        self.linear(head, rows, width, bias=False)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix``, without it."""
        return {n.removeprefix(prefix): t for n, t in self.named.items() if n.startswith(prefix)}


def clip_features(tensors: Mapping[str, Tensor], pixels: Tensor, *, heads: int) -> Tensor:
    """Return what enters the last layer of a CLIP tower ``[frames, 1 + patches, width]``.

    Written out, as the model is defined: pre-norm layers with an approximate GELU.
    """
    from torch.nn.functional import conv2d, layer_norm, scaled_dot_product_attention

    def normed(name: str, x: Tensor) -> Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, 1e-5)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    kernel = tensors["embeddings.patch_embedding.weight"]
    patches = conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    first = tensors["embeddings.class_embedding"].expand(len(pixels), 1, -1)
    hidden = torch.cat([first, patches], dim=1) + tensors["embeddings.position_embedding.weight"]
    hidden = normed("pre_layrnorm", hidden)
    layers = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.layers."))
    for layer in range(layers - 1):
        at = f"encoder.layers.{layer}"
        entering = normed(f"{at}.layer_norm1", hidden)
        q, k, v = (
            linear(f"{at}.self_attn.{name}", entering).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = hidden + linear(f"{at}.self_attn.out_proj", mixed)
        inner = linear(f"{at}.mlp.fc1", normed(f"{at}.layer_norm2", hidden))
        hidden = hidden + linear(f"{at}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    return hidden
