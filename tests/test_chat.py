"""Prompts from chat templates, and checkpoints that lack a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import AdapterError
from tokenreduce.pretrained import load_pretrained, load_tokenizer
from tokenreduce.testing.tiny import tiny_onevision

WORDS = ["<unk>", "<s>", "<video>", "user", "what", "?", "assistant"]
TEMPLATE = (
    "{% for m in messages %}user {% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<video> {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}assistant"
)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Words are tokens; like Llama's, it puts <s> in front."""
    inner = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", unk_token="<unk>", extra_special_tokens=["<video>"]
    )
    made.chat_template = template
    return made


class TwoPerFrame(ChatProcessor):
    def video(self, frames, times):
        self.seen = list(times)
        return "<video>" * 2 * len(frames), {"pixel_values_videos": frames.float()}


FRAMES = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)


@pytest.mark.parametrize("template", [TEMPLATE, "<s> " + TEMPLATE])
def test_placeholders_are_written_out_and_the_first_token_stands_once(template):
    inputs = TwoPerFrame(tokenizer(template), "<video>").video_inputs(FRAMES, "what ?")
    assert inputs["input_ids"].tolist() == [[1, 3, 2, 2, 2, 2, 4, 5, 6]]
    assert inputs["attention_mask"].tolist() == [[1] * 9]
    assert inputs["pixel_values_videos"].shape == (2, 4, 4, 3)


def test_times_are_passed_on_and_default_to_two_frames_a_second():
    processor = TwoPerFrame(tokenizer(), "<video>")
    processor.video_inputs(FRAMES, "what ?", [0.25, 4.0])
    assert processor.seen == [0.25, 4.0]
    processor.video_inputs(FRAMES, "what ?")
    assert processor.seen == [0.0, 0.5]
    with pytest.raises(AdapterError, match="2 frames were given with 3 times"):
        processor.video_inputs(FRAMES, "what ?", [0.0, 1.0, 2.0])


def test_a_placeholder_in_the_question_is_refused():
    with pytest.raises(AdapterError, match="2 video placeholders '<video>' for one"):
        TwoPerFrame(tokenizer(), "<video>").video_inputs(FRAMES, "what <video> ?")


@pytest.mark.parametrize("place", ["tokenizer", "chat_template.json", "processor_config.json"])
def test_the_template_is_found_wherever_it_is_kept(tmp_path: Path, place: str) -> None:
    tokenizer(TEMPLATE if place == "tokenizer" else None).save_pretrained(tmp_path)
    if place != "tokenizer":
        (tmp_path / place).write_text(json.dumps({"chat_template": TEMPLATE}))
    assert load_tokenizer(tmp_path).chat_template == TEMPLATE


def test_no_template_and_no_tokenizer_are_errors(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no tokenizer can be loaded"):
        load_tokenizer(tmp_path)
    tokenizer(None).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="there is no chat template"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"model": 1}', "[1]"])
def test_a_broken_tokenizer_is_one_error(tmp_path: Path, content: str) -> None:
    tokenizer(TEMPLATE).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(AdapterError, match="no tokenizer can be loaded: "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_file_of_the_template_is_named(tmp_path: Path, content: str) -> None:
    tokenizer(None).save_pretrained(tmp_path)
    (tmp_path / "chat_template.json").write_text(content)
    with pytest.raises(AdapterError, match=r"chat_template\.json: "):
        load_tokenizer(tmp_path)


def test_a_checkpoint_that_does_not_load_is_one_error(tmp_path: Path) -> None:
    name = "LlavaOnevisionForConditionalGeneration"
    with pytest.raises(AdapterError, match=f"not loaded as a {name}"):
        load_pretrained(name, tmp_path, dtype="float32", device="cpu")
    tiny_onevision().save_pretrained(tmp_path)
    model = load_pretrained(name, tmp_path, dtype="bfloat16", device="cpu")
    assert (model.dtype, model.training) == (torch.bfloat16, False)
    config = tmp_path / "config.json"
    written = config.read_text()
    config.write_text(json.dumps({**json.loads(written), "vision_feature_layer": "x"}))
    with pytest.raises(AdapterError, match=f"not loaded as a {name}: .*'vision_feature_layer'"):
        load_pretrained(name, tmp_path, dtype="float32", device="cpu")
    config.write_text(written)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AdapterError, match=f"not loaded as a {name}"):
        load_pretrained(name, tmp_path, dtype="float32", device="cpu")
