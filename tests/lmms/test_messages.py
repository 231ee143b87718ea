"""What tasks say to a model becomes one clip and one question, or an error that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenreduce.errors import UnsupportedError, VideoError
from tokenreduce.lmms.messages import Prompt, picture_frames, read_messages

VIDEO = {"type": "video", "url": "/data/clip.mp4"}


def user(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_a_video_and_a_question() -> None:
    found = read_messages(user(VIDEO, text("what is "), text("this?")))
    assert found == Prompt("what is this?", Path("/data/clip.mp4"))


@pytest.mark.parametrize(
    ("part", "prompt"),
    [
        ({"url": "file:///data/a.mp4"}, Prompt("q", Path("/data/a.mp4"))),
        ({"url": Path("/data/a.mp4")}, Prompt("q", Path("/data/a.mp4"))),
        ({"url": "a.mp4", "nframes": 8}, Prompt("q", Path("a.mp4"), frames=8)),
        ({"url": "a.mp4", "nframes": None}, Prompt("q", Path("a.mp4"))),
        (
            {"url": "a.mp4", "start_time": 1, "end_time": 2.5},
            Prompt("q", Path("a.mp4"), start=1.0, end=2.5),
        ),
        (
            {"url": {"path": "a.mp4", "video_start": 0.0, "video_end": 4}},
            Prompt("q", Path("a.mp4"), start=0.0, end=4.0),
        ),
        ({"url": ["1.png", "2.png"]}, Prompt("q", images=("1.png", "2.png"))),
    ],
)
def test_forms_of_a_video(part: dict[str, Any], prompt: Prompt) -> None:
    assert read_messages(user({"type": "video", **part}, text("q"))) == prompt


def test_images_are_frames_of_one_clip() -> None:
    parts = [{"type": "image", "url": name} for name in ("1.png", "2.png")]
    assert read_messages(user(*parts, text("q"))) == Prompt("q", images=("1.png", "2.png"))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "roles none"),
        (
            [{"role": "system", "content": [text("be brief")]}, *user(VIDEO, text("q"))],
            "roles system, user",
        ),
        ([{"role": "user", "content": "hello"}], "shows nothing"),
        (user(text("q")), "shows nothing"),
        (user(VIDEO, VIDEO, text("q")), "shows video, video"),
        (user(VIDEO, {"type": "image", "url": "1.png"}, text("q")), "shows video, image"),
        (user({"type": "audio", "url": "a.wav"}, text("q")), "shows audio"),
        (user(text("look at"), VIDEO), "text in front of a video"),
        (user({"type": "video", "url": "https://host/a.mp4"}, text("q")), "is no local file"),
    ],
)
def test_what_cannot_be_asked(messages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        read_messages(messages)


def test_blank_text_in_front_is_no_text() -> None:
    assert read_messages(user(text("\n"), VIDEO, text("q"))).question == "\nq"


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    for content in (None, b"no picture"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(VideoError, match=r"picture\.png: cannot be read as an image"):
            picture_frames([file])
