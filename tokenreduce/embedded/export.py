"""Write trained weights as a standard Hugging Face directory that any adapter can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.embedded.architecture import build_model
from tokenreduce.embedded.clips import SIZE
from tokenreduce.embedded.questions import IM_END, IM_START, PAD, SPECIAL, UNK, VOCABULARY, WORD_ID

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] != 'assistant' %}{{ '<|im_start|> ' }}{% endif -%}
{{- message['role'] + ' ' -}}
{%- if message['content'] is string -%}
{{- message['content'] + ' ' -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] + ' ' -}}
{%- else -%}
{{- '<' + part['type'] + '> ' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|> ' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'assistant' -}}
{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: split at white space, lower case, pad on the left."""
    from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
    from tokenizers import Regex as Pattern
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(dict(WORD_ID), unk_token=UNK))
    punctuation = normalizers.Replace(Pattern("[.,;:!?]"), " ")
    tokenizer.normalizer = normalizers.Sequence([punctuation, normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    result = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=IM_START,
        eos_token=IM_END,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    result.chat_template = CHAT_TEMPLATE
    return result


def processor_settings() -> dict[str, Any]:
    """Return the content of `processor_config.json`."""
    frame: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": SIZE, "width": SIZE},
    }
    return {
        "image_processor": {
            **frame,
            "image_grid_pinpoints": [[SIZE, SIZE]],
            "image_processor_type": "LlavaOnevisionImageProcessor",
        },
        "video_processor": {
            **frame,
            "do_sample_frames": False,
            "video_processor_type": "LlavaOnevisionVideoProcessor",
        },
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": 64,
        "vision_aspect_ratio": "anyres_max_1",
        "vision_feature_select_strategy": "full",
    }


def export(weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write configuration, bf16 weights, tokenizer and processor settings.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Float32, under Hugging Face names; names the model does not have are left out.
    directory : Path
        Made if missing; its files are overwritten.
    """
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    model = build_model()
    known = model.state_dict()
    unused = {k for k in known if k.startswith("model.vision_tower.post_layernorm")}
    own = {k: v for k, v in weights.items() if k in known}
    missing, _ = model.load_state_dict(own, strict=False)
    if set(missing) - unused - {"lm_head.weight"}:
        raise ValueError(f"weights lack {sorted(missing)}: were they trained by this version?")
    model.tie_weights()
    model = model.to(torch.bfloat16)
    model.generation_config.update(
        bos_token_id=WORD_ID[IM_START],
        eos_token_id=WORD_ID[IM_END],
        pad_token_id=WORD_ID[PAD],
        do_sample=False,
    )
    model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner only
    build_tokenizer().save_pretrained(directory)
    settings = json.dumps(processor_settings(), indent=2) + "\n"
    (directory / "processor_config.json").write_text(settings)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    assert len(VOCABULARY) == model.config.text_config.vocab_size
