"""A processor for families whose checkpoints bring a chat template with video placeholders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tokenreduce.adapter import Processor
from tokenreduce.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor


class ChatProcessor(Processor):
    """Renders the chat template, writes a video's tokens in place of its placeholder, tokenizes.

    Parameters
    ----------
    tokenizer
        With a chat template, as :func:`tokenreduce.pretrained.load_tokenizer` returns it.
    placeholder
        What the template writes for one video.
    typed
        Id of the tokens to mark as a video's in ``mm_token_type_ids`` (2, and 0 elsewhere), for
        models that number positions by them; None: the model takes no such input.
    """

    def __init__(self, tokenizer: Any, placeholder: str, *, typed: int | None = None) -> None:
        self.tokenizer, self.placeholder, self.typed = tokenizer, placeholder, typed

    @abstractmethod
    def video(self, frames: Tensor, times: Sequence[float]) -> tuple[str, dict[str, Tensor]]:
        """Return what stands in the prompt for a video, and the inputs that carry its pixels.

        Parameters
        ----------
        frames
            ``[frames, height, width, 3]`` uint8 RGB.
        times
            Seconds of each frame.
        """

    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """See :meth:`tokenreduce.adapter.Processor.video_inputs`."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = self.rendered([{"role": "user", "content": content}])
        return self.prompt_inputs(prompt, frames, times)

    def next_turn(self, question: str) -> list[int]:
        """See :meth:`tokenreduce.adapter.Processor.next_turn`.

        Raises
        ------
        AdapterError
            If the template leaves out earlier answers, or the question has a video placeholder.
        """
        video = [{"type": "video"}, {"type": "text", "text": "?"}]
        turns = [("user", video), ("assistant", _text(_ANSWER)), ("user", _text(question))]
        prompt = self.rendered([{"role": role, "content": content} for role, content in turns])
        _, found, rest = prompt.partition(_ANSWER)
        if not found:
            raise AdapterError(
                "the chat template leaves out earlier answers: a second question cannot be asked "
                "in the same conversation."
            )
        if self.placeholder and self.placeholder in rest:
            raise AdapterError(
                f"the placeholder '{self.placeholder}' stands for a video: leave it out of the "
                "question."
            )
        ids: list[int] = self.tokenizer(rest, add_special_tokens=False)["input_ids"]
        return ids

    def rendered(self, messages: Sequence[Mapping[str, Any]], **template: Any) -> str:
        """Return the prompt of a conversation, with a placeholder for each video.

        Parameters
        ----------
        messages
            Mappings with ``role`` and ``content``, as chat templates take them.
        **template
            Further arguments of the template; the answer is asked for unless they say otherwise.
        """
        arguments = {"add_generation_prompt": True, **template}
        prompt: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        return prompt

    def prompt_inputs(
        self, prompt: str, frames: Tensor, times: Sequence[float] | None = None
    ) -> dict[str, Tensor]:
        """Return the model's inputs for a rendered prompt that shows one video.

        Parameters
        ----------
        prompt
            With one placeholder.
        frames, times
            As for :meth:`video_inputs`.

        Raises
        ------
        AdapterError
            If there is no placeholder, or more than one.
        """
        written, pixels = self.video(frames, self.times_of(frames, times))
        if (found := prompt.count(self.placeholder)) != 1:
            raise AdapterError(
                f"the prompt has {found} video placeholders '{self.placeholder}' for one video: "
                "leave it out of the question, or mend the chat template."
            )
        inputs = self._tokenized(prompt.replace(self.placeholder, written))
        if self.typed is not None:
            inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == self.typed).long()
        return {**inputs, **pixels}

    def decode(self, token_ids: Tensor) -> str:
        """See :meth:`tokenreduce.adapter.Processor.decode`."""
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()

    def _tokenized(self, prompt: str) -> dict[str, Tensor]:
        import torch

        begin = self.tokenizer.bos_token
        # A template that writes the first token itself must not get a second one.
        written = begin is not None and prompt.startswith(begin)
        ids = self.tokenizer(prompt, add_special_tokens=not written)["input_ids"]
        input_ids = torch.tensor([ids])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words}]


_ANSWER = "theanswer"  # a word that no template writes by itself


class PicturesOnly(ChatProcessor):
    """The processor of a family that takes images and no videos.

    Parameters
    ----------
    tokenizer
        As for :class:`ChatProcessor`.
    family
        For the message.
    """

    def __init__(self, tokenizer: Any, family: str) -> None:
        super().__init__(tokenizer, "")
        self.family = family

    def video_inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> NoReturn:
        """Refuse a video, whatever its chat template may say; raises :class:`AdapterError`."""
        self.video(frames, times or ())

    def video(self, frames: Tensor, times: Sequence[float]) -> NoReturn:
        """Refuse a video; raises :class:`AdapterError`."""
        raise AdapterError(
            f"{self.family} takes images, not a video of {len(frames)} frames: give it inputs of "
            "its own processor, frames as images if need be, inside tokenreduce.reduce(...)."
        )
