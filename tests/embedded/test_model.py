"""The shipped model loads like any checkpoint and answers questions about files."""

import json
import re

import pytest
import torch
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from tokenreduce.embedded import MODEL_DIR
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.embedded.evaluate import evaluate
from tokenreduce.preprocess import FramePreprocessor
from tokenreduce.video import load_video

pytestmark = pytest.mark.skipif(
    not (MODEL_DIR / "measured.json").exists(), reason="weights are not trained yet"
)


@pytest.fixture(scope="module")
def loaded():
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        MODEL_DIR, dtype=torch.float32, output_loading_info=True
    )
    return model.eval(), info


def test_all_weights_are_there_and_none_is_left_over(loaded):
    _, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], kind


def test_the_weights_are_small():
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 8_000_000


def ask_model(model, sample):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    content = [{"type": "video"}, {"type": "text", "text": sample.question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    video = load_video(sample.video, frames=sample.frames)
    text = text.replace("<video>", "<video> " * (16 * len(video) + 1))
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    pixels = FramePreprocessor.from_directory(MODEL_DIR)(video.frames)[None]
    out = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        pixel_values_videos=pixels,
        max_new_tokens=4,
    )
    return tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def test_generate_answers_and_stops(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path))
    model, _ = loaded
    bench = EmbeddedBenchmark()
    samples = bench.samples()[:20]
    said = [ask_model(model, sample) for sample in samples]
    assert sum(bench.matches(s, a) for s, a in zip(samples, said, strict=True)) >= 17


@pytest.mark.slow
def test_accuracy_is_what_the_card_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path))
    samples = EmbeddedBenchmark(split="full").samples()
    samples = [s for s in samples if s.frames in {8, 16}]
    measured = evaluate(MODEL_DIR, samples)
    recorded = json.loads((MODEL_DIR / "measured.json").read_text())
    for frames in ("8", "16"):
        right, asked = measured["none"][frames]["all"]
        before, _ = recorded["none"][frames]["all"]
        assert right / asked >= 0.95
        assert abs(right - before) <= 0.005 * asked
    right, asked = measured["wrong clip"]["all"]["all"]
    assert right / asked <= 0.30
    kept, _ = measured["random 50 % after layer 2"]["all"]["all"]
    whole, asked = measured["none"]["all"]["all"]
    assert (whole - kept) / asked >= 0.15


def test_the_card_shows_the_recorded_numbers():
    card = (MODEL_DIR / "README.md").read_text()
    recorded = json.loads((MODEL_DIR / "measured.json").read_text())
    right, asked = recorded["none"]["all"]["all"]
    (line,) = [x for x in card.splitlines() if x.startswith("| all |")]
    assert f"{right / asked:.3f}" in line
    assert re.search(r"license: apache-2\.0", card)
