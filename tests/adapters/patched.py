"""Prompts of families whose pictures come as flat patches, with a size for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters.family import Cell, Inputs, noise, padded

IMAGE, VIDEO, BEGIN, END = 120, 121, 122, 123
PATCH, MERGE = 4, 2
IMAGES = [(1, 4, 6), (1, 4, 4)]  # groups of frames, rows and columns of patches
VIDEOS = [(3, 4, 4), (2, 6, 4), (4, 4, 4)]  # the first three of the ragged batch
WORDS = ("what", "is", "this")
SPECIAL = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>"}
SPECIAL |= {
    BEGIN: "<|vision_start|>",
    END: "<|vision_end|>",
    124: "<|im_start|>",
    125: "<|im_end|>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def cells(size: Sequence[int]) -> int:
    """Return the tokens of one group of frames."""
    return size[1] // MERGE * (size[2] // MERGE)


def flat(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Return the patches of one group of frames ``[frames, 3, height, width]``, one by one.

    The order is that in which the model joins them; each is its channels, each of those its frames.
    """
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    found = []
    for row in range(rows // merge):
        for column in range(columns // merge):
            for inner_row in range(merge):
                for inner_column in range(merge):
                    top = (row * merge + inner_row) * patch
                    left = (column * merge + inner_column) * patch
                    cut = pixels[:, :, top : top + patch, left : left + patch]
                    found.append(cut.transpose(0, 1).flatten())
    return torch.stack(found)


@dataclass(frozen=True, slots=True)
class Patched:
    """How a family writes a picture.

    Attributes
    ----------
    temporal
        Frames per group.
    token
        Placeholder of a video.
    apart
        Whether each group of frames is a run of its own, with text between.
    typed
        Whether the model takes ``mm_token_type_ids``.
    merges
        Whether it takes a merge size for each picture.
    before, after
        Ids in front of and behind each run of a video.
    around
        Ids in front of and behind a video.
    """

    temporal: int = 2
    token: int = VIDEO
    apart: bool = False
    typed: bool = True
    merges: bool = False
    before: tuple[int, ...] = (BEGIN,)
    after: tuple[int, ...] = (END,)
    around: tuple[int, ...] = ()

    def picture(self, size: Sequence[int]) -> list[int]:
        return [BEGIN, *[IMAGE] * cells(size), END]

    def clip(self, size: Sequence[int]) -> list[int]:
        runs = size[0] if self.apart else 1
        tokens = [self.token] * (cells(size) * size[0] // runs)
        written = [*self.before, *tokens, *self.after] * runs
        return [*self.around[:1], *written, *self.around[1:]]

    def pixels(self, kind: str, sizes: list[tuple[int, int, int]], seed: int) -> Inputs:
        """Return what the model's forward takes for pictures of these sizes."""
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        parts = [
            self.group(size, seed + n, g) for n, size in enumerate(sizes) for g in range(size[0])
        ]
        found = {name: torch.cat(parts), f"{kind}_grid_thw": torch.tensor(sizes)}
        if self.merges:
            found[f"{kind}_merge_sizes"] = torch.full((len(sizes),), MERGE)
        return found

    def group(self, size: Sequence[int], seed: int, number: int) -> Tensor:
        shape = (self.temporal, 3, size[1] * PATCH, size[2] * PATCH)
        return flat(noise(*shape, seed=100 * seed + number), PATCH, MERGE)

    def prompt(
        self,
        rows: list[list[int]],
        images: Sequence[tuple[int, int, int]] = (),
        videos: Sequence[tuple[int, int, int]] = (),
    ) -> Inputs:
        """Return ids, mask and pixels of pictures in the order of the batch."""
        inputs = padded(rows)
        ids = inputs["input_ids"]
        if self.typed:
            types = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
            if self.token == IMAGE and videos:
                types = types * 2
            inputs["mm_token_type_ids"] = types
        if images:
            inputs |= self.pixels("image", list(images), 1)
        if videos:
            inputs |= self.pixels("video", list(videos), 2)
        return inputs

    def image(self) -> Inputs:
        return self.prompt([[1, 2, *self.picture(IMAGES[0]), 3, 4]], IMAGES[:1])

    def images(self) -> Inputs:
        first, second = (self.picture(size) for size in IMAGES)
        return self.prompt([[1, *first, 2, *second, 3, 4]], IMAGES)

    def video(self) -> Inputs:
        return self.prompt([[1, 2, *self.clip(VIDEOS[0]), 3, 4, 5]], videos=VIDEOS[:1])

    def both(self) -> Inputs:
        row = [1, *self.clip(VIDEOS[0]), 2, *self.picture(IMAGES[0]), 3, 4]
        return self.prompt([row], IMAGES[:1], VIDEOS[:1])

    def text(self) -> Inputs:
        return self.prompt([[1, 2, 3, 4, 5, 6]])

    def ragged(self, pictures: bool = True) -> Inputs:
        """Return two videos, an image (or text), one video, and text."""
        first, second, third = (self.clip(size) for size in VIDEOS)
        mixed = [1, 2, *self.picture(IMAGES[0]), 3] if pictures else [1, 2, 3]
        rows = [[1, *first, 7, *second, 2, 3], mixed, [8, *third, 9, 10], [1, 2, 3, 4]]
        return self.prompt(rows, IMAGES[:1] if pictures else (), VIDEOS)

    def probes(self, model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
        """Disturb the patches of each cell, picture by picture, in the order of the sequence."""
        kind = "video" if "video_grid_thw" in inputs else "image"
        name = "pixel_values_videos" if kind == "video" else "pixel_values"
        before = 0
        for item, size in enumerate(inputs[f"{kind}_grid_thw"].tolist()):
            shape = (self.temporal, 3, size[1] * PATCH, size[2] * PATCH)
            for frame in range(size[0]):
                for row in range(size[1] // MERGE):
                    for column in range(size[2] // MERGE):
                        change = torch.zeros(shape)
                        side = PATCH * MERGE
                        top, left = side * row, side * column
                        change[..., top : top + side, left : left + side] = 5
                        pixels = inputs[name].clone()
                        count = size[1] * size[2]
                        pixels[before : before + count] += flat(change, PATCH, MERGE)
                        yield {**inputs, name: pixels}, 0, (item, frame, row, column)
                before += size[1] * size[2]


def tokenizer(
    special: dict[int, str],
    template: str | None,
    size: int = 128,
    words: Sequence[str] = WORDS,
    named: dict[str, str] | None = None,
) -> Any:
    """Return a tokenizer of words and single characters, with given tokens at given ids.

    ``named`` are those that processors find as attributes.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", *"0123456789<>.,:? \n", "seconds", "Time", "s", "user", "assistant", *words]
    vocabulary = {word: number for number, word in enumerate(known)}
    vocabulary |= {f"w{n}": n for n in range(len(known), size) if n not in special}
    vocabulary |= {word: number for number, word in special.items()}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Split(Regex(r"[A-Za-z]+|[^A-Za-z]"), "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<unk>",
        eos_token=special[max(special)],
        extra_special_tokens=list(special.values()),
        model_specific_special_tokens=named or {},
    )
    made.chat_template = template
    return made


def write(directory: Path, model: Any, made: Any, processor: dict[str, Any]) -> None:
    """Write a checkpoint as a model and its processor of transformers are saved."""
    model.save_pretrained(directory)
    made.save_pretrained(directory)
    text = json.dumps(processor, indent=2)
    (directory / "processor_config.json").write_text(text, encoding="utf-8")


def clip_settings(kind: str, **settings: Any) -> dict[str, Any]:
    """Return what transformers saves of a video processor; budgets fit tiny models."""
    return {
        "video_processor_type": kind,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "merge_size": MERGE,
        "patch_size": PATCH,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "return_metadata": False,
        "size": {"longest_edge": 2048, "shortest_edge": 256},
        "temporal_patch_size": 2,
        **settings,
    }


def transformers_inputs(
    directory: Path, frames: Tensor, question: str, times: Sequence[float], **settings: Any
) -> dict[str, Any]:
    """Return what transformers' own processor makes of a clip; this needs torchvision."""
    from transformers import AutoProcessor
    from transformers.video_utils import VideoMetadata

    processor = AutoProcessor.from_pretrained(directory)
    content = [{"type": "video"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    # Frame numbers of a file with one frame a second are its times.
    last = len(times) * (times[-1] - times[0]) / max(1, len(times) - 1) if len(times) > 1 else 1
    metadata = VideoMetadata(total_num_frames=last, fps=1.0, frames_indices=list(times))
    return dict(
        processor(
            text=[prompt],
            videos=[frames.permute(0, 3, 1, 2)],
            video_metadata=[metadata],
            do_sample_frames=False,
            return_tensors="pt",
            **settings,
        )
    )
