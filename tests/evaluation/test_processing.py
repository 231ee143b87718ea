"""The processor that pipelines take: the same inputs as the library's own, or a clear refusal."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.published_vila import publish
from tokenreduce.errors import AdapterError, ConfigError, UnsupportedError, VideoError
from tokenreduce.inference import Loaded, load_model
from tokenreduce.plugins import load_plugins
from tokenreduce.processing import PipelineProcessor
from tokenreduce.video import load_video

CLIP = Path(__file__).parents[2] / "examples" / "ring.mp4"
QUESTION = "what color is the ring"
ADAPTERS = load_plugins(entry_points=[]).registry.adapters


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    return load_model("embedded", ADAPTERS, dtype="float32", device="cpu")


def chat(video: Any = str(CLIP), key: str = "path", question: str = QUESTION) -> list[Any]:
    content = [{"type": "video", key: video}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def asked(processor: PipelineProcessor, conversation: list[Any], **options: Any) -> Any:
    whole = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return processor.apply_chat_template(conversation, **whole, **options)


def assert_same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    "family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "llava_next_video", "internvl"]
)
def test_inputs_are_those_of_the_library(family: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tests.adapters.families.{family}")
    module.write_checkpoint(tmp_path)
    loaded = load_model(str(tmp_path), ADAPTERS, dtype="float32", device="cpu")
    own = loaded.checkpoint.processor
    video = load_video(CLIP, own.frames, own.sampling)
    expected = own.video_inputs(video.frames, QUESTION, video.timestamps)
    assert_same(asked(PipelineProcessor(loaded), chat()), expected)


@pytest.mark.parametrize("key", ["path", "url", "video"])
def test_a_video_is_a_file(embedded: Loaded, key: str) -> None:
    processor = PipelineProcessor(embedded, frames=4)
    found = asked(processor, chat(CLIP, key))
    assert found["pixel_values_videos"].shape[:2] == (1, 4)
    assert_same(asked(processor, chat(str(CLIP), key)), found)


def test_a_video_is_frames(embedded: Loaded) -> None:
    frames = load_video(CLIP, 5).frames
    found = asked(PipelineProcessor(embedded), chat(frames, "video"))
    expected = embedded.checkpoint.processor.video_inputs(frames, QUESTION)
    assert_same(found, expected)


def test_frames_can_be_chosen_in_the_call(embedded: Loaded) -> None:
    processor = PipelineProcessor(embedded)
    expected = asked(PipelineProcessor(embedded, frames=6, sampling="linspace"), chat())
    options = {"num_frames": 6, "sampling": "linspace"}
    assert_same(asked(processor, chat(), **options), expected)
    assert_same(asked(processor, chat(), processor_kwargs=options), expected)
    part = load_video(CLIP, 3, start=0.5, end=0.9)
    found = asked(processor, chat(), num_frames=3, start=0.5, end=0.9)
    assert_same(found, asked(processor, chat(part.frames, "video")))


def test_the_prompt_and_its_video_can_be_given_apart(embedded: Loaded) -> None:
    processor = PipelineProcessor(embedded)
    prompt = processor.apply_chat_template(chat(), add_generation_prompt=True)
    assert prompt == f"<|im_start|> user <video> {QUESTION} <|im_end|> assistant"
    for videos in (CLIP, [str(CLIP)]):
        found = processor(text=prompt, images=None, videos=videos, audio=None)
        assert_same(found, asked(processor, chat()))


def test_a_conversation_of_several_turns(embedded: Loaded) -> None:
    turns = [
        {"role": "system", "content": "look"},
        *chat(),
        {"role": "assistant", "content": [{"type": "text", "text": "green"}]},
        {"role": "user", "content": "is there a ring"},
    ]
    processor = PipelineProcessor(embedded, frames=2)
    written = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert written == (
        f"<|im_start|> system look <|im_end|> <|im_start|> user <video> {QUESTION} <|im_end|> "
        "assistant green <|im_end|> <|im_start|> user is there a ring <|im_end|> assistant"
    )
    found = asked(processor, turns)
    # Two frames of 4 x 4 tokens, and the newline.
    tokens = written.replace("<video>", "<video>" * 33)
    expected = processor.tokenizer(tokens, add_special_tokens=False)["input_ids"]
    assert found["input_ids"].tolist() == [expected]
    ids = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)
    assert torch.equal(ids, found["input_ids"])


def test_a_family_without_a_template_takes_one_question(tmp_path: Path) -> None:
    loaded = load_model(str(publish(tmp_path)), ADAPTERS, dtype="float32", device="cpu")
    processor = PipelineProcessor(loaded, frames=2)
    video = load_video(CLIP, 2, loaded.checkpoint.processor.sampling)
    expected = loaded.checkpoint.processor.video_inputs(video.frames, QUESTION, video.timestamps)
    assert_same(asked(processor, chat()), expected)
    with pytest.raises(UnsupportedError, match="a conversation of 2 messages is refused"):
        asked(processor, [{"role": "system", "content": "look"}, *chat()])
    with pytest.raises(UnsupportedError, match="give a conversation, not a prompt"):
        processor(text="what is it ?", videos=CLIP)


IMAGE = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]
TEXT = [{"role": "user", "content": "what color is the ring"}]
NO_SOURCE = [{"role": "user", "content": [{"type": "video"}]}]
NO_KIND = [{"role": "user", "content": [{"path": str(CLIP)}]}]
NO_WORDS = [{"role": "user", "content": [{"type": "video", "path": CLIP}, {"type": "text"}]}]


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        (IMAGE, UnsupportedError, "image is refused here: this processor takes one video"),
        (TEXT, UnsupportedError, "a conversation with 0 videos is refused"),
        ([*chat(), *chat()], UnsupportedError, "a conversation with 2 videos is refused"),
        ([chat(), chat()], UnsupportedError, "several conversations at once"),
        (NO_SOURCE, ConfigError, "names no video: give its 'path'"),
        (NO_KIND, ConfigError, "is no message: its 'content' is text, or a list of parts"),
        (NO_WORDS, ConfigError, "{'type': 'text'} holds no words: give its 'text'"),
        ([{"role": "user"}], ConfigError, "{'role': 'user'} is no message"),
        (chat("http://localhost/a.mp4"), UnsupportedError, "download the file first"),
        (chat("lost.mp4"), VideoError, r"lost\.mp4: there is no such file"),
        (chat(question="where is <video> ?"), AdapterError, "2 video placeholders"),
    ],
)
def test_refusals(
    embedded: Loaded, conversation: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        asked(PipelineProcessor(embedded), conversation)


@pytest.mark.parametrize("kind", ["images", "audio"])
def test_other_inputs_are_refused(embedded: Loaded, kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{kind} is refused here"):
        PipelineProcessor(embedded)(text="<video> what", **{kind: ["a.png"]})


def test_no_frames_are_refused(embedded: Loaded) -> None:
    with pytest.raises(ConfigError, match="frames=0 asks for no frame"):
        asked(PipelineProcessor(embedded, frames=0), chat())
    with pytest.raises(ConfigError, match="frames=0 asks for no frame"):
        asked(PipelineProcessor(embedded), chat(), num_frames=0)


def test_unknown_options_are_refused(embedded: Loaded) -> None:
    with pytest.raises(ConfigError, match=r"called 'fps': .*num_frames, sampling, start, end"):
        asked(PipelineProcessor(embedded), chat(), processor_kwargs={"fps": 2})
