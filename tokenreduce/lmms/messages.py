"""What a task of lmms-eval says to the model, as one clip and one question about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import UnsupportedError, VideoError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question.

    Attributes
    ----------
    question
        All texts of the message, in order.
    video
        The file it is about; None: ``images`` are.
    images
        Pictures, or paths of pictures, that are shown as the frames of one clip.
    frames
        How many frames the task wants to be sampled; None: it does not say.
    start, end
        Seconds of the part of the file that it is about; None: from its beginning, to its end.
    """

    question: str
    video: Path | None = None
    images: tuple[Any, ...] = ()
    frames: int | None = None
    start: float | None = None
    end: float | None = None


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """Return the clip and the question of a task's messages.

    A family's prompt has the video first and one question behind it, so that is what a task must
    ask. Images are shown as the frames of one clip.

    Parameters
    ----------
    messages
        ``[{"role": "user", "content": [{"type": "video", "url": PATH}, {"type": "text",
        "text": QUESTION}]}]``, as ``doc_to_messages`` returns them.

    Raises
    ------
    UnsupportedError
        For several turns or videos, for sound, and for text in front of what it is about.
    """
    roles = [str(message.get("role")) for message in messages]
    if roles != ["user"]:
        raise UnsupportedError(
            f"the task's messages are of the roles {', '.join(roles) or 'none'}: only one message "
            "of the user can be asked."
        )
    media: list[Mapping[str, Any]] = []
    texts: list[str] = []
    for part in _parts(messages[0].get("content")):
        if part.get("type") == "text":
            texts.append(str(part["text"]))
        elif "".join(texts).strip():
            raise UnsupportedError(
                "the task has text in front of a video or image: the prompts of the model families "
                "have it behind them."
            )
        else:
            media.append(part)
    return _prompt("".join(texts), media)


def _parts(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    else:
        yield from content or ()


def _prompt(question: str, media: Sequence[Mapping[str, Any]]) -> Prompt:
    kinds = [str(part.get("type")) for part in media]
    if kinds == ["video"]:
        return _video(question, media[0])
    if kinds and set(kinds) == {"image"}:
        return Prompt(question, images=tuple(part.get("url") for part in media))
    raise UnsupportedError(
        f"the task shows {', '.join(kinds) or 'nothing'}: the prompts of the model families hold "
        "one video, or images that are its frames."
    )


def _video(question: str, part: Mapping[str, Any]) -> Prompt:
    found = part.get("url")
    if isinstance(found, Mapping):
        part, found = {**part, **found}, found.get("path") or found.get("url")
    if isinstance(found, list | tuple):
        return Prompt(question, images=tuple(found))
    path = str(found).removeprefix("file://")
    if "://" in path:
        raise UnsupportedError(f"'{path}' is no local file: download it first.")
    wanted = part.get("nframes")
    return Prompt(
        question,
        Path(path),
        frames=None if wanted is None else int(wanted),
        start=_seconds(part, "start_time", "video_start"),
        end=_seconds(part, "end_time", "video_end"),
    )


def _seconds(part: Mapping[str, Any], *names: str) -> float | None:
    return next((float(part[name]) for name in names if part.get(name) is not None), None)


def picture_frames(images: Sequence[Any]) -> Tensor:
    """Return pictures as the frames ``[frames, height, width, 3]`` uint8 RGB of a clip.

    Raises
    ------
    VideoError
        If one cannot be read, or they are of several sizes.
    """
    import numpy as np
    import torch

    arrays = [np.asarray(_picture(image).convert("RGB")) for image in images]
    sizes = {array.shape[:2] for array in arrays}
    if len(sizes) > 1:
        raise VideoError(
            f"{len(arrays)} images of the sizes {sorted(sizes)} cannot be the frames of one clip."
        )
    return torch.from_numpy(np.stack(arrays))


def _picture(image: Any) -> Any:
    from PIL import Image

    if not isinstance(image, str | Path):
        return image
    try:
        return Image.open(image)
    except OSError as error:
        raise VideoError(f"{image}: cannot be read as an image ({error}).") from error
