"""Pictures among a forward's inputs: as pixels, or as the features that the tower made of them.

A video is encoded once, so that a comparison runs the tower once and not for every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tokenreduce.adapter import Inputs

if TYPE_CHECKING:
    from torch import nn


def encoded_video(model: nn.Module, inputs: Inputs, *arguments: str) -> dict[str, Any]:
    """Return inputs that carry a video's features instead of its pixels.

    Parameters
    ----------
    model
        Its base model's ``get_video_features`` encodes pixels, and its forward takes
        ``mm_encoder_outputs``.
    inputs
        Keyword arguments of its forward. Where they hold no pixels of a video, or pixels of images
        as well, they come back as they are: such a forward takes features or pixels, not both.
    *arguments
        Names of inputs that ``get_video_features`` takes beside the pixels.
    """
    import torch

    rest = dict(inputs)
    if rest.get("pixel_values_videos") is None or rest.get("pixel_values") is not None:
        return rest
    # Not every class with a language head passes the method on.
    inner: Any = getattr(model, "base_model", model)
    named = {name: inputs[name] for name in arguments}
    with torch.no_grad():
        pixels = rest.pop("pixel_values_videos")
        features = inner.get_video_features(pixels, **named, return_dict=True)
    return {**rest, "mm_encoder_outputs": {"video": features}}


def encoded_images(
    model: nn.Module,
    inputs: Inputs,
    *arguments: str,
    pixels: str = "pixel_values",
    kind: Literal["image", "video"] = "image",
) -> dict[str, Any]:
    """Return inputs that carry features instead of pixels, for towers that see images only.

    Parameters
    ----------
    model
        Its base model's ``get_image_features`` encodes pixels, frames of a video as well, and its
        forward takes ``mm_encoder_outputs``.
    inputs
        Keyword arguments of its forward. Where they hold no such pixels, they come back as they
        are.
    *arguments
        Names of inputs that ``get_image_features`` takes beside the pixels, where they are there.
    pixels, kind
        Name of the pixels among the inputs, and of their features among ``mm_encoder_outputs``.
    """
    import torch

    rest = dict(inputs)
    if rest.get(pixels) is None:
        return rest
    inner: Any = getattr(model, "base_model", model)
    named = {name: inputs[name] for name in arguments if inputs.get(name) is not None}
    with torch.no_grad():
        features = inner.get_image_features(rest.pop(pixels), **named, return_dict=True)
    return {**rest, "mm_encoder_outputs": {kind: features}}


def features_of(inputs: Inputs, kind: Literal["image", "video"]) -> Any:
    """Return the encoded images or videos among ``inputs``; None if there are none."""
    encoded = (inputs.get("mm_encoder_outputs") or {}).get(kind)
    return None if encoded is None else encoded.pooler_output


def has_images(inputs: Inputs) -> bool:
    """Return whether ``inputs`` hold images, as pixels or as features."""
    return inputs.get("pixel_values") is not None or features_of(inputs, "image") is not None


def video_frames(inputs: Inputs, per_frame: int, beside: int = 0) -> int | None:
    """Return how many frames the videos of a batch have, all of one length; None without a video.

    Parameters
    ----------
    inputs
        With ``pixel_values_videos`` ``[videos, frames, 3, height, width]``, or with features
        ``[videos, tokens, dim]`` in their place.
    per_frame
        Tokens of a frame.
    beside
        Tokens of a video that belong to no frame.
    """
    pixels = inputs.get("pixel_values_videos")
    if pixels is not None:
        return int(pixels.shape[1])
    features = features_of(inputs, "video")
    return None if features is None else (int(features.shape[1]) - beside) // per_frame
