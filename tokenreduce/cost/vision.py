"""FLOPs of a vision tower, which runs before any reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenreduce.errors import AdapterError

KNOWN = ("clip_vision_model", "siglip_vision_model", "qwen2_vl_vision")


@dataclass(frozen=True, slots=True)
class _Tower:
    """Sizes of a tower: ``values`` per patch, ``extra`` tokens per picture, 0 ``merge``: none."""

    layers: int
    hidden: int
    intermediate: int
    values: int
    extra: int = 0
    merge: int = 0
    outputs: int = 0


def vision_flops(config: Any, frames: int, patches: int | None = None) -> int:
    """Return the FLOPs of a vision transformer over ``frames`` frames.

    Counted are the patch embedding, all layers with attention over the full square of one picture,
    and the patch merger of Qwen2-VL. A projector outside the tower, a pooling head, norms and
    activations are not.

    Parameters
    ----------
    config
        Vision configuration of transformers, of a model type in :data:`KNOWN`.
    frames
        Frames; Qwen2-VL takes two of them as one picture.
    patches
        Patches per frame, before any merging; None: those of the configuration's image size, which
        Qwen2-VL does not have.

    Raises
    ------
    AdapterError
        If the tower is of another type, or ``patches`` is needed and missing.
    """
    if config.model_type not in KNOWN:
        raise AdapterError(
            f"the cost of a vision tower of type '{config.model_type}' is not modelled; known are: "
            f"{', '.join(KNOWN)}."
        )
    if config.model_type == "qwen2_vl_vision":
        if patches is None:
            raise AdapterError(
                "a Qwen2-VL tower has no image size of its own: pass patches=, the number of "
                "patches of one frame before merging."
            )
        pictures: int = -(-frames // config.temporal_patch_size)
        return pictures * _picture_flops(_qwen2_vl(config), patches)
    if patches is None:
        patches = (config.image_size // config.patch_size) ** 2
    return frames * _picture_flops(_clip(config), patches)


def _clip(config: Any) -> _Tower:
    return _Tower(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_channels * config.patch_size**2,
        extra=int(config.model_type == "clip_vision_model"),  # its class token
    )


def _qwen2_vl(config: Any) -> _Tower:
    return _Tower(
        config.depth,
        config.embed_dim,
        config.embed_dim * config.mlp_ratio,
        config.in_channels * config.temporal_patch_size * config.patch_size**2,
        merge=config.spatial_merge_size**2,
        outputs=config.hidden_size,
    )


def _picture_flops(tower: _Tower, patches: int) -> int:
    tokens, width = patches + tower.extra, tower.hidden
    weights = 4 * width * width + 2 * width * tower.intermediate
    layer = 2 * tokens * weights + 2 * 2 * width * tokens * tokens
    merger = 0
    if tower.merge:
        merged = tower.merge * width
        merger = 2 * (patches // tower.merge) * merged * (merged + tower.outputs)
    return 2 * patches * tower.values * width + tower.layers * layer + merger
