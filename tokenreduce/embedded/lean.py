"""A lean forward of the embedded model for training: plain functions over its named weights.

It equals the Hugging Face class (a test holds it to 1e-4 in float32) and differs in three ways
that make training several times faster on a CPU: all questions of a clip share one pass over its
video tokens, attention is plain matmul (bf16 backward of SDPA is slow on CPU), and there is no
module overhead. It can also hide the video from the text rows below a layer (*late fusion*).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreduce.embedded.architecture import (
    DIM,
    HEAD_DIM,
    HEADS,
    LAYERS,
    PATCH,
    ROPE_THETA,
    VISION_DIM,
    VISION_HEADS,
    VISION_LAYERS,
)
from tokenreduce.embedded.clips import SIZE
from tokenreduce.embedded.questions import PREFIX, WORD_ID

Weights = Mapping[str, Tensor]

TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
DECODER = "model.language_model."
EMBEDDING = DECODER + "embed_tokens.weight"
NEWLINE = "model.image_newline"
_SIDE = SIZE // PATCH


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def vision(w: Weights, pixels: Tensor) -> Tensor:
    """Encode frames.

    Parameters
    ----------
    w : mapping of str to Tensor
        Weights under their Hugging Face names.
    pixels : Tensor [frames, 3, 64, 64]
        Normalised to [-1, 1], in the dtype of the weights.

    Returns
    -------
    Tensor [frames, 16, 128]
        The tokens of each frame, row-major.
    """
    n = pixels.shape[0]
    patches = pixels.view(n, 3, _SIDE, PATCH, _SIDE, PATCH).permute(0, 2, 4, 1, 3, 5)
    name = TOWER + "embeddings."
    kernel = w[name + "patch_embedding.weight"].view(VISION_DIM, -1)
    x = F.linear(patches.reshape(n, _SIDE * _SIDE, -1), kernel, w[name + "patch_embedding.bias"])
    x = x + w[name + "position_embedding.weight"]
    for layer in range(VISION_LAYERS):
        name = f"{TOWER}encoder.layers.{layer}."
        h = _norm(w, name + "layer_norm1", x)
        attn = name + "self_attn."
        weight = torch.cat([w[f"{attn}{i}_proj.weight"] for i in "qkv"])
        bias = torch.cat([w[f"{attn}{i}_proj.bias"] for i in "qkv"])
        qkv = F.linear(h, weight, bias).view(n, -1, 3, VISION_HEADS, VISION_DIM // VISION_HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = torch.matmul(q * (VISION_DIM // VISION_HEADS) ** -0.5, k.transpose(-1, -2))
        h = torch.matmul(scores.softmax(-1), v).transpose(1, 2).reshape(n, -1, VISION_DIM)
        x = x + _linear(w, attn + "out_proj", h)
        h = _linear(w, name + "mlp.fc1", _norm(w, name + "layer_norm2", x))
        x = x + _linear(w, name + "mlp.fc2", F.gelu(h, approximate="tanh"))
    x = F.gelu(_linear(w, PROJECTOR + "linear_1", x))
    half = _SIDE // 2
    x = x.view(n, half, 2, half, 2, DIM).mean(dim=(2, 4)).view(n, half * half, DIM)
    return _linear(w, PROJECTOR + "linear_2", x)  # linear, so it may follow the pooling


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)


def _rms(weight: Tensor, x: Tensor) -> Tensor:
    return F.rms_norm(x, (DIM,), weight, 1e-6)


def rope(positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [len(positions), 1, 32], as Qwen2 computes them."""
    steps = torch.arange(0, HEAD_DIM, 2, dtype=torch.float) / HEAD_DIM
    angles = positions.float()[:, None] * (1.0 / ROPE_THETA**steps)
    both = torch.cat((angles, angles), dim=-1)[:, None]
    return both.cos().to(dtype), both.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def prefix(w: Weights, tokens: Tensor) -> Tensor:
    """Embeddings of what precedes the questions: system words, video tokens, newline.

    `tokens` is [clips, video tokens, 128]; the result [clips, 2 + video tokens + 1, 128].
    """
    n = tokens.shape[0]
    head = w[EMBEDDING][torch.tensor([WORD_ID[word] for word in PREFIX])]
    return torch.cat((head.expand(n, -1, -1), tokens, w[NEWLINE].expand(n, 1, -1)), dim=1)


def decode(
    w: Weights,
    shared: Tensor,
    words: Tensor,
    *,
    blind_below: int = 0,
    tap: tuple[int, ...] = (),
    look: tuple[int, ...] = (),
    removed: tuple[int, Tensor] | None = None,
) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
    """Run the decoder on a shared prefix and several independent continuations of it.

    Parameters
    ----------
    w : mapping of str to Tensor
    shared : Tensor [clips, prefix, 128]
        Output of `prefix`.
    words : Tensor int64 [clips, questions, words]
        Token ids; every question sees the prefix and itself only, and its positions go on from
        the prefix.
    blind_below : int
        In layers below this one the words do not see the video, only the system words.
    tap : tuple of int
        Layers whose output is wanted.
    look : tuple of int
        Layers whose attention from words to the prefix is wanted.
    removed : (int, Tensor bool [clips, prefix]), optional
        Rows of the prefix that are gone after this layer, for measuring what that costs.

    Returns
    -------
    words : Tensor [clips, questions, words, 128]
        Normalised output of the last layer.
    taps : dict
        Layer -> output [clips, prefix + questions * words, 128].
    looks : dict
        Layer -> attention [clips, heads, questions, words, prefix].
    """
    n, p, _ = shared.shape
    _, questions, length = words.shape
    dtype = shared.dtype
    x = torch.cat((shared, w[EMBEDDING][words].view(n, questions * length, DIM)), dim=1)
    positions = torch.cat((torch.arange(p), torch.arange(p, p + length).repeat(questions)))
    cos, sin = rope(positions, dtype)
    cos, sin = cos[:, None], sin[:, None]
    causal = torch.full((p, p), -math.inf, dtype=dtype).triu(1)
    own = torch.full((length, length), -math.inf, dtype=dtype).triu(1)
    taps: dict[int, Tensor] = {}
    looks: dict[int, Tensor] = {}
    gone = None
    if removed is not None:
        gone = torch.zeros(n, 1, 1, p, dtype=dtype).masked_fill(
            removed[1][:, None, None], -math.inf
        )
    for layer in range(LAYERS):
        name = f"{DECODER}layers.{layer}."
        attn = name + "self_attn."
        h = _rms(w[name + "input_layernorm.weight"], x)
        weight = torch.cat([w[f"{attn}{i}_proj.weight"] for i in "qkv"])
        bias = torch.cat([w[f"{attn}{i}_proj.bias"] for i in "qkv"])
        qkv = F.linear(h, weight, bias).view(n, -1, 3, HEADS, HEAD_DIM)
        qk = _rotate(qkv[:, :, :2], cos, sin)
        q, k, v = (
            qk[:, :, 0].transpose(1, 2),
            qk[:, :, 1].transpose(1, 2),
            qkv[:, :, 2].transpose(1, 2),
        )
        q = q * HEAD_DIM**-0.5
        kp, vp = k[:, :, :p], v[:, :, :p]
        lost = gone if removed is not None and layer > removed[0] else None
        seen = torch.matmul(q[:, :, :p], kp.transpose(-1, -2)) + causal
        if lost is not None:
            seen = seen + lost
        above = torch.matmul(seen.softmax(-1), vp)
        if layer < blind_below:
            kp, vp = kp[:, :, : len(PREFIX)], vp[:, :, : len(PREFIX)]
        block = (n, HEADS, questions, length, HEAD_DIM)
        qt, kt, vt = (t[:, :, p:].reshape(block) for t in (q, k, v))
        far = torch.matmul(q[:, :, p:], kp.transpose(-1, -2))
        if lost is not None:
            far = far + lost
        far = far.view(*block[:4], -1)
        near = torch.matmul(qt, kt.transpose(-1, -2)) + own
        weights = torch.cat((far, near), dim=-1).softmax(-1)
        if layer in look:
            looks[layer] = weights[..., : far.shape[-1]]
        wide = weights[..., : far.shape[-1]].reshape(n, HEADS, questions * length, -1)
        below = torch.matmul(wide, vp) + torch.matmul(weights[..., far.shape[-1] :], vt).view(
            n, HEADS, -1, HEAD_DIM
        )
        mixed = torch.cat((above, below), dim=2).transpose(1, 2).reshape(n, -1, DIM)
        x = x + F.linear(mixed, w[attn + "o_proj.weight"])
        h = _rms(w[name + "post_attention_layernorm.weight"], x)
        mlp = name + "mlp."
        gate = F.linear(h, torch.cat((w[mlp + "gate_proj.weight"], w[mlp + "up_proj.weight"])))
        a, b = gate.chunk(2, dim=-1)
        x = x + F.linear(F.silu(a) * b, w[mlp + "down_proj.weight"])
        if layer in tap:
            taps[layer] = x
    out = _rms(w[DECODER + "norm.weight"], x[:, p:])
    return out.view(n, questions, length, DIM), taps, looks


def logits(w: Weights, hidden: Tensor) -> Tensor:
    """Scores over the vocabulary; the head is tied to the word embeddings."""
    return F.linear(hidden, w[EMBEDDING])
