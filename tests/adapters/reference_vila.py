"""Towers and projector of VILA1.5 written out, on the published tensors: one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, softmax

from tests.adapters.published_vila import Sizes

Weights = dict[str, Tensor]


def attended(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of one image ``[patches, channels]``, head by head."""
    outputs = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        outputs.append(softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v)
    return torch.cat(outputs, dim=-1)


def patches_of(image: Tensor, weight: Tensor, bias: Tensor, patch: int) -> Tensor:
    return conv2d(image[None], weight, bias, stride=patch)[0].flatten(1).T


def siglip(w: Weights, image: Tensor, sizes: Sizes) -> Tensor:
    """All patches of the last layer but one ``[patches, channels]``, not normalised."""
    at = "vision_model.embeddings."
    weight, bias = w[at + "patch_embedding.weight"], w[at + "patch_embedding.bias"]
    x = patches_of(image, weight, bias, sizes.patch) + w[at + "position_embedding.weight"]
    for layer in range(sizes.depth - 1):
        at = f"vision_model.encoder.layers.{layer}."

        def through(name: str, y: Tensor, at: str = at) -> Tensor:
            return linear(y, w[f"{at}{name}.weight"], w[f"{at}{name}.bias"])

        def normed(name: str, y: Tensor, at: str = at) -> Tensor:
            scale, shift = w[f"{at}{name}.weight"], w[f"{at}{name}.bias"]
            return layer_norm(y, y.shape[-1:], scale, shift, eps=1e-6)

        y = normed("layer_norm1", x)
        q, k, v = (through(f"self_attn.{part}_proj", y) for part in "qkv")
        x = x + through("self_attn.out_proj", attended(q, k, v, sizes.heads))
        y = gelu(through("mlp.fc1", normed("layer_norm2", x)), approximate="tanh")
        x = x + through("mlp.fc2", y)
    return x


def internvit(w: Weights, image: Tensor, sizes: Sizes) -> Tensor:
    """All patches of the last layer ``[patches, channels]``, without the class token."""
    at = "embeddings.patch_embedding."
    x = patches_of(image, w[at + "weight"], w[at + "bias"], sizes.patch)
    x = torch.cat([w["embeddings.class_embedding"][0], x]) + w["embeddings.position_embedding"][0]

    def normed(y: Tensor, scale: Tensor) -> Tensor:
        return scale * y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    for layer in range(sizes.depth):
        own = {n.split(f".{layer}.", 1)[1]: t for n, t in w.items() if f"layers.{layer}." in n}
        q, k, v = linear(normed(x, own["norm1.weight"]), own["attn.qkv.weight"]).chunk(3, dim=-1)
        # The norm of queries and keys is over all heads together.
        q, k = normed(q, own["attn.q_norm.weight"]), normed(k, own["attn.k_norm.weight"])
        y = linear(attended(q, k, v, sizes.heads), own["attn.proj.weight"], own["attn.proj.bias"])
        x = x + own["ls1"] * y
        y = linear(normed(x, own["norm2.weight"]), own["mlp.fc1.weight"], own["mlp.fc1.bias"])
        x = x + own["ls2"] * linear(gelu(y), own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    return x[1:]


def projected(w: Weights, patches: Tensor) -> Tensor:
    """Tokens ``[tokens, dim]``: token k is column k // S, row k % S of the S x S squares."""
    side = round(len(patches) ** 0.5)
    half = (side + 1) // 2
    nothing = torch.zeros(patches.shape[1])
    tokens = []
    for number in range(half * half):
        left, top = 2 * (number // half), 2 * (number % half)
        corners = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        square = torch.cat(
            [patches[r * side + c] if max(r, c) < side else nothing for r, c in corners]
        )
        y = layer_norm(square, square.shape, w["layers.1.weight"], w["layers.1.bias"])
        y = gelu(linear(y, w["layers.2.weight"], w["layers.2.bias"]))
        tokens.append(linear(y, w["layers.4.weight"], w["layers.4.bias"]))
    return torch.stack(tokens)
