"""Tiny models, tokenizers and checkpoints of the families that grew out of LLaVA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tests.adapters.family import Cell, Inputs, noise, padded, ready
from tokenreduce.layout import Layout, Role

IMAGE, VIDEO = 120, 121
SIZE, PATCH = 32, 8  # pixels
SIDE = SIZE // PATCH  # tokens per side of a picture
BASE = SIDE**2
ONE = [IMAGE] * BASE  # a picture that fills the tower

WORDS = ("USER", "ASSISTANT", ":", "What", "happens", "?")
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Pictures first, then the words, between the two names that Vicuna was tuned with."""


def clip(**settings: Any) -> Any:
    """Return the configuration of a tiny CLIP tower; its class token comes first."""
    from transformers import CLIPVisionConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    return CLIPVisionConfig(
        **{**sizes, "num_hidden_layers": 2, "image_size": SIZE, "patch_size": PATCH, **settings}
    )


def llama() -> Any:
    """Return the configuration of a decoder of six layers, far from uniform attention."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=65536,
        initializer_range=0.3,
    )


def tiny(prefix: str, **settings: Any) -> Any:
    """Return a random model of a family by the prefix of its classes, with a CLIP tower."""
    import transformers

    torch.manual_seed(0)
    ids = {"image_token_index": IMAGE, "video_token_index": VIDEO}
    if "Video" not in prefix:
        del ids["video_token_index"]
    config = getattr(transformers, f"{prefix}Config")(
        **{"vision_config": clip(), "text_config": llama(), **ids, **settings}
    )
    model = ready(getattr(transformers, f"{prefix}ForConditionalGeneration")(config))
    projector = model.model.multi_modal_projector
    for linear in (projector.linear_1, projector.linear_2):
        torch.nn.init.normal_(linear.weight)
    return model


def local(model: Any, towers: tuple[str, ...]) -> None:
    """Let the towers of a model mix nothing between patches."""
    for name in towers:
        for layer in getattr(model.model, name).encoder.layers:
            torch.nn.init.zeros_(layer.self_attn.out_proj.weight)


def disturbed(
    inputs: Inputs, name: str, where: tuple[int, ...], row: int, column: int, side: int = PATCH
) -> Inputs:
    """Return inputs whose picture ``inputs[name][where]`` differs in one square of ``side`` px."""
    pixels = inputs[name].clone()
    top, left = side * row, side * column
    pixels[where][:, top : top + side, left : left + side] += 5
    return {**inputs, name: pixels}


def squares(rows: list[list[int]], images: int) -> Inputs:
    """Return a prompt about pictures that fill the tower."""
    pixels = {"pixel_values": noise(images, 3, SIZE, SIZE)} if images else {}
    return {**padded(rows), **pixels}


def text() -> Inputs:
    return padded([[1, 2, 3, 4, 5, 6]])


SQUARES = {
    "image": lambda: squares([[1, 2, *ONE, 3, 4, 5]], 1),
    "images": lambda: squares([[1, *ONE, *ONE, 2, *ONE, 3, 4, 5]], 3),
    "text": text,
    "ragged": lambda: squares([[1, 2, *ONE, 3], [4, *ONE, 11, *ONE, 5, 6, 7, 8], [1, 2, 3, 4]], 3),
}
"""Prompts of families that know no other pictures, by kind."""


def square_probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb one patch after another of the three pictures of ``SQUARES["images"]``."""
    for item in range(3):
        for row in range(SIDE):
            for column in range(SIDE):
                yield (
                    disturbed(inputs, "pixel_values", (item,), row, column),
                    0,
                    (item, 0, row, column),
                )


PINPOINTS = [[32, 32], [64, 32], [32, 64]]
FLAT = [IMAGE] * (BASE + SIDE * (SIDE + 1))  # 32 x 32 px: one tile of 4 x 4, a newline per row
TALL = [IMAGE] * (BASE + 8 * (2 + 1))  # 60 x 20 px: two tiles, 8 x 4, the outer columns padding
SIZES = {"flat": [32, 32], "tall": [60, 20]}


def tiled(rows: list[list[int]], *names: str) -> Inputs:
    """Return a prompt about pictures with a base view and tiles, by name of :data:`SIZES`."""
    if not names:
        return padded(rows)
    sizes = torch.tensor([SIZES[name] for name in names])
    pixels = noise(len(names), 3, 3, SIZE, SIZE)
    return {**padded(rows), "pixel_values": pixels, "image_sizes": sizes}


TILED = {
    "image": lambda: tiled([[1, 2, *TALL, 3, 4, 5]], "tall"),
    "images": lambda: tiled([[1, *TALL, *FLAT, 2, 3, 4]], "tall", "flat"),
    "text": text,
}
"""Prompts of families whose pictures have a base view and tiles, by kind."""


def tiled_probes(model: Any, inputs: Inputs) -> Iterator[tuple[Inputs, int, Cell]]:
    """Disturb the base view and the tiles of ``TILED["image"]``, patch by patch."""
    for row in range(SIDE):
        for column in range(SIDE):
            other = disturbed(inputs, "pixel_values", (0, 0), row, column)
            yield other, 0, (0, 0, row, column)
    for row in range(8):
        for column in range(2):
            where = (0, 1 + row // SIDE)
            # The first column of the tiles shows padding only.
            other = disturbed(inputs, "pixel_values", where, row % SIDE, 1 + column)
            yield other, 0, (0, 1, row, column)


def tokenizer() -> Any:
    """Return a tokenizer of single words that writes a first token by itself, as Llama's does."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", "<s>", "</s>", "<pad>", "\n", *WORDS]
    ids = {word: number for number, word in enumerate(known)}
    ids |= {f"word{number}": number for number in range(len(known), IMAGE)}
    inner = Tokenizer(WordLevel({**ids, "<image>": IMAGE, "<video>": VIDEO}, unk_token="<unk>"))
    inner.pre_tokenizer = Split(Regex(r"[A-Za-z]+|[^A-Za-z ]"), "removed", invert=True)
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>", "<video>"],
        chat_template=TEMPLATE,
    )


def processor(prefix: str, images: str, videos: str | None = None, **more: Any) -> dict[str, Any]:
    """Return what transformers saves of a processor whose pictures are cut to a square.

    Parameters
    ----------
    prefix
        Of the family's classes.
    images
        Class of its image processor.
    videos
        Class of its video processor, if it has one.
    **more
        Other settings.
    """
    settings = {
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "do_convert_rgb": True,
    }
    found = {
        "processor_class": f"{prefix}Processor",
        "image_processor": {**settings, "image_processor_type": images},
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        **more,
    }
    if videos is not None:
        found["video_processor"] = {**settings, "video_processor_type": videos}
    return found


def cells(layout: Layout, sample: int = 0) -> list[tuple[int, ...]]:
    """Return role, item, frame, row and column of every position of a sample."""
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[sample].tolist() for name in names), strict=True))


TEXT = (Role.TEXT, -1, -1, -1, -1)
PAD = (Role.PAD, -1, -1, -1, -1)


def grid(item: int, frame: int, row: int, column: int) -> tuple[int, ...]:
    return (Role.GRID, item, frame, row, column)


def newline(item: int) -> tuple[int, ...]:
    return (Role.NEWLINE, item, -1, -1, -1)


def class_token(item: int) -> tuple[int, ...]:
    return (Role.CLS, item, -1, -1, -1)
