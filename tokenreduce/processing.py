"""A processor that transformers' pipelines and chat scripts take, without torchvision.

No video processor of transformers can be built without torchvision. This one decodes videos with
:func:`tokenreduce.load_video` and prepares them as ``tokenreduce run`` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.chat import ChatProcessor
from tokenreduce.errors import ConfigError, UnsupportedError
from tokenreduce.names import suggestion
from tokenreduce.problems import shown
from tokenreduce.video import load_video

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.inference import Loaded

Message = Mapping[str, Any]

_SOURCES = ("video", "path", "url")  # where a part of a message says which video
_OPTIONS = ("num_frames", "sampling", "start", "end", "return_tensors")


class PipelineProcessor:
    """What ``transformers.pipeline`` asks of a processor, for conversations about one video.

    Parameters
    ----------
    loaded
        From :func:`tokenreduce.load`.
    frames, sampling
        Frames to sample from each video, and by which rule; by default as the model was made for.

    Examples
    --------
    >>> loaded = tokenreduce.load("my-checkpoint")  # doctest: +SKIP
    >>> pipe = pipeline(  # doctest: +SKIP
    ...     "image-text-to-text", model=loaded.model, processor=PipelineProcessor(loaded)
    ... )
    """

    def __init__(
        self, loaded: Loaded, *, frames: int | None = None, sampling: str | None = None
    ) -> None:
        self._processor = loaded.checkpoint.processor
        self._frames = self._processor.frames if frames is None else frames
        self._sampling = sampling or self._processor.sampling
        self.tokenizer: Any = getattr(self._processor, "tokenizer", None)

    @property
    def chat_template(self) -> str | None:
        """The template of the checkpoint; None where the family writes its prompts itself."""
        template: str | None = getattr(self.tokenizer, "chat_template", None)
        return template

    def apply_chat_template(
        self,
        conversation: Sequence[Message],
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """Return the prompt of a conversation, or the model's inputs.

        Parameters
        ----------
        conversation
            Messages with ``role`` and ``content``; one part of one content is
            ``{"type": "video", "path": FILE}``, or ``{"type": "video", "video": frames}`` with
            ``[frames, height, width, 3]`` uint8 RGB.
        tokenize, return_dict
            Neither: the prompt as text. ``tokenize``: its token ids ``[1, tokens]``. Both: all
            inputs of the model's ``generate``.
        processor_kwargs
            As for :meth:`__call__`.
        **arguments
            Of the template, such as ``add_generation_prompt``, or of :meth:`__call__`.

        Raises
        ------
        UnsupportedError
            For pictures, sound, several videos or several conversations at once.
        ConfigError
            If a message is not as above, or of values that :func:`tokenreduce.load_video` refuses.
        VideoError
            If the video cannot be decoded.
        """
        videos = list(_videos(conversation))
        options = {name: arguments.pop(name) for name in _OPTIONS if name in arguments}
        prompt: str | None = None
        if isinstance(self._processor, ChatProcessor):
            arguments = {"add_generation_prompt": False, **arguments}
            prompt = self._processor.rendered(conversation, **arguments)
        if not tokenize and prompt is not None:
            return prompt
        question = _only_question(conversation) if prompt is None else ""
        inputs = self._inputs(prompt, question, videos, {**options, **(processor_kwargs or {})})
        return inputs if return_dict else inputs["input_ids"]

    def __call__(
        self, text: str, images: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> Any:
        """Return the model's inputs for a rendered prompt and its video.

        Parameters
        ----------
        text
            As :meth:`apply_chat_template` returns it.
        images, audio
            Refused.
        videos
            One video: a file or frames, or a list with one of them.
        **options
            ``num_frames``, ``sampling``, ``start`` and ``end``, as for
            :func:`tokenreduce.load_video`.

        Raises
        ------
        UnsupportedError, ConfigError, VideoError
            As :meth:`apply_chat_template`.
        """
        if images is not None or audio is not None:
            raise UnsupportedError(_refused("images" if images is not None else "audio"))
        given = list(videos) if isinstance(videos, list | tuple) else [videos]
        return self._inputs(text, "", [video for video in given if video is not None], options)

    def decode(self, token_ids: Tensor, **options: Any) -> str:
        """Return the text of token ids, as the tokenizer decodes them."""
        text: str = self.tokenizer.decode(token_ids, **options)
        return text

    def batch_decode(self, sequences: Tensor, **options: Any) -> list[str]:
        """Return the text of each row of token ids."""
        texts: list[str] = self.tokenizer.batch_decode(sequences, **options)
        return texts

    def post_process_image_text_to_text(self, generated: Tensor, **options: Any) -> list[str]:
        """Return the text of each row that ``generate`` returned."""
        return self.batch_decode(generated, **options)

    def post_process_multimodal_output(
        self, generated: Tensor, generation_mode: str | None = None, **options: Any
    ) -> list[str]:
        """Return the text of each row that ``generate`` returned."""
        return self.batch_decode(generated, **options)

    def _inputs(
        self, prompt: str | None, question: str, videos: Sequence[Any], options: Mapping[str, Any]
    ) -> Any:
        from transformers import BatchFeature

        if prompt is not None and not isinstance(prompt, str):
            raise UnsupportedError("several prompts at once are refused: give one after the other.")
        if len(videos) != 1:
            raise UnsupportedError(
                f"a conversation with {len(videos)} videos is refused: give one, as "
                '{"type": "video", "path": FILE}.'
            )
        frames, times = self._decoded(videos[0], options)
        if prompt is None or not isinstance(self._processor, ChatProcessor):
            if not question:
                raise UnsupportedError(
                    "this family writes its prompts itself: give a conversation, not a prompt."
                )
            return BatchFeature(self._processor.video_inputs(frames, question, times))
        return BatchFeature(self._processor.prompt_inputs(prompt, frames, times))

    def _decoded(
        self, video: Any, options: Mapping[str, Any]
    ) -> tuple[Tensor, Sequence[float] | None]:
        for name in options:
            if name not in _OPTIONS:
                raise ConfigError(f"no option of videos is called '{name}': {_known(name)}")
        if not isinstance(video, str | Path):
            return video, None
        if "://" in str(video):
            raise UnsupportedError(f"{shown(str(video))} is refused: download the file first.")
        frames = options.get("num_frames")
        decoded = load_video(
            video,
            self._frames if frames is None else frames,
            options.get("sampling") or self._sampling,
            start=options.get("start"),
            end=options.get("end"),
        )
        return decoded.frames, decoded.timestamps


def _known(name: str) -> str:
    return suggestion(name, _OPTIONS[:-1])


def _parts(message: Message) -> list[Message]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts: list[Any] = list(content) if isinstance(content, Sequence) else [None]
    for part in parts:
        if not isinstance(part, Mapping) or "type" not in part:
            raise ConfigError(
                f"{shown(dict(message))} is no message: its 'content' is text, or a list of parts "
                "that say their 'type'."
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise ConfigError(f"{shown(dict(part))} holds no words: give its 'text'.")
    return parts


def _videos(conversation: Sequence[Message]) -> Iterator[Any]:
    for message in conversation:
        if not isinstance(message, Mapping):
            raise UnsupportedError("several conversations at once are refused: give one by one.")
        for part in _parts(message):
            if part["type"] == "video":
                source = next((part[key] for key in _SOURCES if key in part), None)
                if source is None:
                    raise ConfigError(f"{shown(dict(part))} names no video: give its 'path'.")
                yield source
            elif part["type"] != "text":
                raise UnsupportedError(_refused(str(part["type"])))


def _only_question(conversation: Sequence[Message]) -> str:
    """Return the words of a conversation of one message, for families without a template."""
    if len(conversation) != 1:
        raise UnsupportedError(
            f"a conversation of {len(conversation)} messages is refused: this family writes its "
            "prompts itself, for one question about one video."
        )
    return " ".join(part["text"] for part in _parts(conversation[0]) if part["type"] == "text")


def _refused(kind: str) -> str:
    return (
        f"{kind} is refused here: this processor takes one video and text; give transformers' own "
        "processor what else the model takes."
    )
