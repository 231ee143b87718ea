"""Asks a model what lmms-eval asks, in batches of questions that may go together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenreduce.inference import EncodedVideo, Loaded
from tokenreduce.lmms.batching import encoded, layout_of
from tokenreduce.lmms.generation import Generation, generate
from tokenreduce.lmms.messages import Prompt, picture_frames
from tokenreduce.lmms.records import Answered
from tokenreduce.video import load_video

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.reducer import Reducer


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and how its answer is to be generated.

    Attributes
    ----------
    prompt, generation
        What the task wants.
    draw
        Seed of the answer, where tokens are drawn at random.
    """

    prompt: Prompt
    generation: Generation
    draw: int = 0


class Asker:
    """A model under reducers.

    Parameters
    ----------
    loaded
        The model.
    reducers
        Composed in order; none leaves the model as it is.
    seed
        Of the reducers' random choices.
    frames
        Frames to sample from each video, whatever a task says; None: as it says, or else as the
        model's family does.
    """

    def __init__(
        self, loaded: Loaded, reducers: Sequence[Reducer], seed: int = 0, frames: int | None = None
    ) -> None:
        self._loaded, self._reducers, self._seed, self._frames = loaded, reducers, seed, frames
        self._opened: tuple[Hashable, tuple[Tensor, Any]] | None = None
        self._encoded: tuple[Any, EncodedVideo] | None = None

    def ask(self, questions: Sequence[Asked]) -> list[Answered]:
        """Answer questions, those in one batch that can be; what fails is an answer that says why.

        Parameters
        ----------
        questions
            As many as may go into one batch. Prompts of one layout that are generated alike do;
            where tokens are drawn at random each goes alone, so that what is drawn does not depend
            on the others.
        """
        answers: dict[int, Answered] = {}
        batches: dict[Hashable, list[tuple[int, Any, Any]]] = {}
        for number, asked in enumerate(questions):
            try:
                clip = self._clip(asked.prompt)
                key: Hashable = number
                raw: Any = None
                if len(questions) > 1 and not asked.generation.sampled:
                    raw = self._loaded.checkpoint.processor.video_inputs(
                        clip[0], asked.prompt.question, clip[1]
                    )
                    key = layout_of(raw), repr(asked.generation)
                batches.setdefault(key, []).append((number, clip, raw))
            except Exception as error:
                answers[number] = failed(error)
        for members in batches.values():
            answers |= self._batch(questions, members)
        return [answers[number] for number in range(len(questions))]

    def _batch(
        self, questions: Sequence[Asked], members: Sequence[tuple[int, Any, Any]]
    ) -> dict[int, Answered]:
        first = questions[members[0][0]].generation
        if len(members) > 1:
            try:
                inputs = encoded(self._loaded, [raw for _, _, raw in members])
                said = generate(self._loaded, inputs, self._reducers, first, self._seed)
                return dict(zip([number for number, _, _ in members], said, strict=True))
            except Exception:  # noqa: S110, RUF100 - each goes alone, and says itself why it fails
                pass
        return {number: self._alone(questions[number], clip) for number, clip, _ in members}

    def _alone(self, asked: Asked, clip: tuple[Tensor, Any]) -> Answered:
        try:
            if asked.generation.sampled:
                import torch

                torch.manual_seed(asked.draw)
            inputs = self._video(clip).inputs(asked.prompt.question)
            return generate(self._loaded, inputs, self._reducers, asked.generation, self._seed)[0]
        except Exception as error:  # one question's failure is a result, not the end of the run
            return failed(error)

    def _video(self, clip: tuple[Tensor, Any]) -> EncodedVideo:
        """Return an encoded video; questions about one video mostly follow one another."""
        if self._encoded is None or self._encoded[0] is not clip[0]:
            self._encoded = clip[0], EncodedVideo(self._loaded, *clip)
        return self._encoded[1]

    def _clip(self, prompt: Prompt) -> tuple[Tensor, Any]:
        """Return frames and their times, decoded once for questions that follow one another."""
        if prompt.video is None:
            return picture_frames(prompt.images), None
        processor = self._loaded.checkpoint.processor
        frames = self._frames or prompt.frames or processor.frames
        key = prompt.video, frames, prompt.start, prompt.end
        if self._opened is None or self._opened[0] != key:
            video = load_video(
                prompt.video, frames, processor.sampling, start=prompt.start, end=prompt.end
            )
            self._opened = key, (video.frames, video.timestamps)
        return self._opened[1]


def failed(error: BaseException) -> Answered:
    """Return what stands for a question that failed."""
    from tokenreduce.worker import reason

    if isinstance(error, Exception):
        return Answered(error=reason(error))
    return Answered(error=f"the task ended the program: {error}")  # as tasks do of missing videos
