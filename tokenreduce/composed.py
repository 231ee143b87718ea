"""A video-language model put together from transformers' own vision tower and language model.

For published models whose own class is not in transformers. The prompt holds one placeholder id
for every visual token; the model puts the features of its videos in their place.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast

from tokenreduce.connectors import CONNECTORS, Connector
from tokenreduce.errors import AdapterError


class ComposedConfig(PreTrainedConfig):
    """Configuration of a :class:`ComposedModel`.

    Attributes
    ----------
    family
        What ``model_type`` says: the adapters' name for the model.
    text_config, vision_config
        Configurations of transformers, or mappings with a ``model_type``.
    video_token_id
        Stands for one visual token. It may lie beyond the embedding's rows, but then
        ``generate``'s penalties on prompt tokens cannot be used.
    vision_layer
        Which of the tower's hidden states is taken: 0 is the embedding, -1 the last layer's.
    vision_class_token
        Whether the tower's first token is a CLS token, which is left out.
    connector
        A key of :data:`tokenreduce.connectors.CONNECTORS`.
    pooled
        Frames, rows and columns of every video, for the connector ``adaptive_pool``.
    """

    model_type = "composed"
    sub_configs_defaults = {  # noqa: RUF012
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    family: str = "composed"
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    video_token_id: int = 0
    vision_layer: int = -2
    vision_class_token: bool = True
    connector: str = "stride_pool"
    pooled: list[int] | tuple[int, ...] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.model_type = self.family


class ComposedModel(PreTrainedModel, GenerationMixin):
    """Vision tower, connector and language model: what an adapter of such a family loads.

    It works with ``generate``, beams, left padding and :func:`tokenreduce.reduce` as the classes
    of transformers do; ``generate`` runs the vision tower once.
    """

    config: ComposedConfig
    config_class = ComposedConfig
    main_input_name = "input_ids"
    input_modalities = ("video", "text")
    _skip_keys_device_placement = ("past_key_values",)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ComposedConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        depth = self.vision_tower.config.num_hidden_layers
        if config.vision_layer not in range(-depth - 1, depth + 1):
            raise AdapterError(
                f"vision_layer is {config.vision_layer!r}, and the tower has {depth} layers."
            )
        self.connector: Connector = CONNECTORS[config.connector](config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_decoder(self) -> Any:
        """Return the language model without its head: ``layers``, ``norm`` and ``rotary_emb``."""
        return self.language_model.get_decoder()

    def get_input_embeddings(self) -> Any:
        """Return the language model's embedding of token ids."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the language model's head."""
        return self.language_model.get_output_embeddings()

    def video_grid(self, frames: int) -> tuple[int, int, int]:
        """Return frames, rows and columns of the visual tokens of a video of so many frames."""
        vision: Any = self.config.vision_config
        size, patch = _one(vision.image_size), _one(vision.patch_size)
        return self.connector.grid(frames, size // patch)

    def get_video_features(
        self, pixel_values_videos: Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return the visual tokens of videos as ``pooler_output`` ``[videos, tokens, dim]``.

        Parameters
        ----------
        pixel_values_videos
            ``[videos, frames, 3, height, width]``.
        **kwargs
            Not used.
        """
        videos, frames = pixel_values_videos.shape[:2]
        pixels = pixel_values_videos.flatten(0, 1).to(self.vision_tower.dtype)
        layer = self.config.vision_layer
        seen = self.vision_tower(pixels, output_hidden_states=[layer], return_dict=True)
        patches = seen.hidden_states[layer]
        if self.config.vision_class_token:
            patches = patches[:, 1:]
        side = isqrt(patches.shape[1])
        tokens = self.connector(patches.reshape(videos, frames, side, side, -1))
        if self.connector.order == "column":
            tokens = tokens.transpose(2, 3)
        return BaseModelOutputWithPooling(pooler_output=tokens.flatten(1, 3))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return the language model's output, with logits ``[batch, tokens, vocabulary]``.

        Parameters
        ----------
        input_ids
            ``[batch, tokens]``, with one ``video_token_id`` for each visual token.
        attention_mask
            ``[batch, tokens]``, 0 at padding.
        position_ids
            ``[batch, tokens]``.
        past_key_values
            Cache of earlier tokens.
        inputs_embeds
            ``[batch, tokens, dim]``, instead of ``input_ids``; features are spliced in already.
        pixel_values_videos
            ``[videos, frames, 3, height, width]``, in the order of their placeholders.
        mm_encoder_outputs
            Instead of pixels, ``{"video": ...}`` as :meth:`get_video_features` returned it.
        use_cache, logits_to_keep, **kwargs
            For the language model.

        Raises
        ------
        AdapterError
            If there are not as many placeholders as visual tokens.
        """
        encoded = (mm_encoder_outputs or {}).get("video")
        if pixel_values_videos is not None:
            encoded = self.get_video_features(pixel_values_videos)
        if inputs_embeds is None:
            assert input_ids is not None
            features = None if encoded is None else encoded.pooler_output
            inputs_embeds = self._embedded(input_ids, features)
        output: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return output

    def _embedded(self, ids: Tensor, features: Tensor | None) -> Tensor:
        if features is None:
            embeds: Tensor = self.get_input_embeddings()(ids)
            return embeds
        here = ids == self.config.video_token_id
        tokens = features.flatten(0, 1)
        if (found := int(here.sum())) != len(tokens):
            raise AdapterError(
                f"the prompts hold {found} placeholders (token id {self.config.video_token_id}) "
                f"for {len(tokens)} visual tokens: were text and pixels prepared together, with "
                "this model's own processor?"
            )
        # The placeholder need not have a row.
        embeds = self.get_input_embeddings()(ids.masked_fill(here, 0))
        return embeds.masked_scatter(here[..., None].to(embeds.device), tokens.to(embeds))


def empty_model(config: ComposedConfig, dtype: str) -> ComposedModel:
    """Return a model in ``eval()`` mode whose tensors are allocated and hold nothing yet."""
    with no_init_weights():
        model: ComposedModel = ComposedModel._from_config(config, dtype=getattr(torch, dtype))
    model.tie_weights()
    model.eval()
    return model


def _one(size: Any) -> int:
    """Return the side of a square that is given as one number or as two."""
    return int(size[0] if isinstance(size, list | tuple) else size)
