"""Measure the embedded model through rendered files: accuracy, floors, and what removal costs.

Frames take the ordinary path of a user's file (`load_video`, then the checkpoint's own
preprocessor settings). Answers come from the lean forward, which asks all questions of a clip in
one pass and equals the Hugging Face class; an answer counts if it is the most likely word and
`<|im_end|>` the most likely one after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenreduce.benchmark import Sample

if TYPE_CHECKING:
    from torch import Tensor

Condition = Literal["none", "wrong clip", "text only", "random 50 % after layer 2"]
CONDITIONS: tuple[Condition, ...] = ("none", "wrong clip", "text only", "random 50 % after layer 2")
REMOVAL_LAYER = 2

Scores = dict[str, dict[str, tuple[int, int]]]
"""Frames or "all" -> category or "all" -> (right answers, questions)."""


def load_weights(directory: Path) -> dict[str, Tensor]:
    """Load a model directory with transformers; return its weights as float32."""
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    return dict(model.state_dict())


def video_tokens(weights: dict[str, Tensor], directory: Path, video: Path, frames: int) -> Tensor:
    """Projected video tokens of a file, [1, frames * 16, 128]."""
    from tokenreduce.embedded import lean
    from tokenreduce.preprocess import FramePreprocessor
    from tokenreduce.video import load_video

    decoded = load_video(video, frames=frames)
    pixels = FramePreprocessor.from_directory(directory)(decoded.frames)
    return lean.vision(weights, pixels).flatten(0, 1)[None]


def answers(
    weights: dict[str, Tensor],
    tokens: Tensor,
    samples: list[Sample],
    condition: Condition,
    seed: int,
) -> list[bool]:
    """Whether each question about one clip is answered rightly under a condition."""
    import torch

    from tokenreduce.embedded import lean
    from tokenreduce.embedded.questions import IM_END, MAX_TOKENS, PREFIX, SUFFIX, WORD_ID

    ids = torch.full((1, len(samples), MAX_TOKENS), WORD_ID["<pad>"])
    ends = []
    for row, sample in enumerate(samples):
        text = [*sample.question.split(), *SUFFIX, sample.answer]
        ids[0, row, : len(text)] = torch.tensor([WORD_ID[word] for word in text])
        ends.append(len(text) - 1)
    shared = lean.prefix(weights, tokens)
    removed = None
    if condition == "text only":
        shared = shared[:, : len(PREFIX)]
    elif condition == "random 50 % after layer 2":
        generator = torch.Generator().manual_seed(seed)
        gone = torch.randperm(tokens.shape[1], generator=generator)[: tokens.shape[1] // 2]
        mask = torch.zeros(1, shared.shape[1], dtype=torch.bool)
        mask[0, len(PREFIX) + gone] = True
        removed = (REMOVAL_LAYER, mask)
    hidden, _, _ = lean.decode(weights, shared, ids, removed=removed)
    said = lean.logits(weights, hidden[0]).argmax(-1)
    return [
        bool(said[row, end - 1] == ids[0, row, end] and said[row, end] == WORD_ID[IM_END])
        for row, end in enumerate(ends)
    ]


def evaluate(
    directory: Path,
    samples: list[Sample],
    conditions: tuple[Condition, ...] = CONDITIONS,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[Condition, Scores]:
    """Measure a model directory on benchmark samples.

    Parameters
    ----------
    directory : Path
        Hugging Face directory of the embedded model.
    samples : list of Sample
        From `EmbeddedBenchmark.samples`.
    conditions : tuple of str
        "none" (everything is seen), "wrong clip" (tokens of another clip of the same length),
        "text only", "random 50 % after layer 2".
    progress : callable, optional
        Told (done, total, what).
    """
    import torch

    weights = load_weights(directory)
    by_clip: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_clip[sample.video].append(sample)
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path, asked in by_clip.items():
        by_length[asked[0].frames or 0].append(path)
    scores: dict[Condition, Scores] = {
        condition: defaultdict(lambda: defaultdict(lambda: (0, 0))) for condition in conditions
    }
    done = 0
    with torch.inference_mode():
        for frames, paths in by_length.items():
            tokens = [video_tokens(weights, directory, path, frames) for path in paths]
            for number, path in enumerate(paths):
                for condition in conditions:
                    seen = tokens[number]
                    if condition == "wrong clip":
                        seen = tokens[(number + 1) % len(tokens)]
                    right = answers(weights, seen, by_clip[path], condition, seed=number)
                    for sample, good in zip(by_clip[path], right, strict=True):
                        for length in (str(frames), "all"):
                            for category in (sample.category, "all"):
                                old = scores[condition][length][category]
                                scores[condition][length][category] = (old[0] + good, old[1] + 1)
                done += 1
                if progress is not None:
                    progress(done, len(by_clip), "measuring the embedded model")
    return {c: {k: dict(v) for k, v in s.items()} for c, s in scores.items()}
