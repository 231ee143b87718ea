"""How long the paper's evaluations would take on one GPU, by the cost model; nothing is measured.

    python benchmarks/paper_hours.py

prints two tables in Markdown. ``docs/guides/reproduce-the-paper.md`` holds them, and what the
assumptions below leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

from tokenreduce.bench.shapes import SHAPES, NamedShape, TextShape, TowerShape
from tokenreduce.cost import DecoderShape, prefill_cost, vision_flops

FLOPS_PER_SECOND = 125e12  # assumed: 40 % of the 312e12 that an A100 is named for in bfloat16
BYTES_PER_SECOND = 1.4e12  # assumed: 70 % of the 2.0e12 of an A100 with 80 GB
TEXT = 200  # assumed: text tokens of a prompt, the template among them
BYTES = 2  # of a weight in bfloat16 or float16

MODELS = ("llama-7b", "llama3-8b", "qwen2-7b", "yi-34b")


@dataclass(frozen=True, slots=True)
class Asked:
    """One benchmark: how many questions are published, and the assumed tokens of an answer."""

    questions: int
    answer: int


# Questions as the data sets' papers and pages give them. The data was not at hand to be counted.
BENCHMARKS: Mapping[str, Asked] = {
    "MVBench": Asked(4000, answer=4),
    "VideoMME": Asked(2700, answer=4),
    "EgoSchema, all": Asked(5031, answer=4),
    "EgoSchema, subset": Asked(500, answer=4),
    "MLVU (dev)": Asked(2174, answer=4),
    "MSVD-QA (test)": Asked(13157, answer=16),
    "LongVideoBench (val)": Asked(1337, answer=4),
    "MovieChat-1K (global)": Asked(510, answer=100),
}


def main() -> None:
    """Print both tables."""
    print("\n".join((*models(), "", *hours())))


def models() -> Iterator[str]:
    """Yield a table of what one question costs each model without reduction."""
    yield "| model | weights | visual tokens | decoder | tower | prefill |"
    yield "|---|---|---|---|---|---|"
    for shape in map(SHAPES.__getitem__, MODELS):
        decoder, tower = decoder_flops(shape), tower_flops(shape)
        yield (
            f"| {shape.model} | {weights(shape) * BYTES / 1e9:.0f} GB | {shape.grid.tokens:,} "
            f"| {decoder / 1e12:.0f} TFLOP | {tower / 1e12:.1f} TFLOP "
            f"| {(decoder + tower) / FLOPS_PER_SECOND:.2f} s |"
        )


def hours() -> Iterator[str]:
    """Yield a table of the hours that each benchmark takes each model without reduction."""
    shapes = [SHAPES[name] for name in MODELS]
    yield "| hours | questions | " + " | ".join(shape.model for shape in shapes) + " |"
    yield "|---|---|" + "---|" * len(shapes)
    for name, asked in BENCHMARKS.items():
        each = (asked.questions * seconds(shape, asked.answer) / 3600 for shape in shapes)
        yield f"| {name} | {asked.questions:,} | " + " | ".join(f"{h:.2f}" for h in each) + " |"


def seconds(shape: NamedShape, answer: int) -> float:
    """Return the seconds of one question: tower, prefill, and the weights once for each token."""
    flops = decoder_flops(shape) + tower_flops(shape)
    decoded = answer * decoder_weights(shape.text) * BYTES
    return flops / FLOPS_PER_SECOND + decoded / BYTES_PER_SECOND


def decoder_flops(shape: NamedShape) -> int:
    """Return the FLOPs of an unreduced prefill."""
    text = shape.text
    sizes = DecoderShape(
        layers=text.layers,
        hidden=text.hidden,
        intermediate=text.intermediate,
        heads=text.heads,
        key_heads=text.key_heads,
        head_dim=text.head_dim,
        vocabulary=text.vocabulary,
    )
    return prefill_cost(sizes, [shape.grid.tokens + TEXT] * text.layers).total


def tower_flops(shape: NamedShape) -> int:
    """Return the FLOPs of the vision tower; InternViT is counted as a CLIP of its sizes."""
    tower = shape.tower
    kind = "siglip_vision_model" if tower.family == "siglip" else "clip_vision_model"
    config = SimpleNamespace(
        model_type=kind,
        num_hidden_layers=tower.layers,
        hidden_size=tower.hidden,
        intermediate_size=tower.intermediate,
        num_channels=3,
        image_size=tower.image,
        patch_size=tower.patch,
    )
    return vision_flops(config, shape.grid.frames)


def weights(shape: NamedShape) -> int:
    """Return the number of weights, but for norms, biases and the projector."""
    return decoder_weights(shape.text) + tower_weights(shape.tower)


def decoder_weights(text: TextShape) -> int:
    """Return the weights of a decoder, with an embedding and a head of their own."""
    attention = 2 * text.hidden * (text.heads + text.key_heads) * text.head_dim
    layer = attention + 3 * text.hidden * text.intermediate
    return text.layers * layer + 2 * text.vocabulary * text.hidden


def tower_weights(tower: TowerShape) -> int:
    """Return the weights of a tower's layers."""
    return tower.layers * (4 * tower.hidden**2 + 2 * tower.hidden * tower.intermediate)


if __name__ == "__main__":
    main()
