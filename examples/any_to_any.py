"""Ask about a video through the pipeline ``any-to-any``, which needs torchvision.

    python examples/any_to_any.py [CHECKPOINT [CLIP [QUESTION]]]

Without a torchvision that fits the installed torch, transformers refuses to make this pipeline;
``pipeline.py`` does the same without it.
"""

import sys
from pathlib import Path

from transformers import pipeline

import tokenreduce
from tokenreduce.processing import PipelineProcessor

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(model: str = "embedded", clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the answer, and how much of the visual cache was left."""
    loaded = tokenreduce.load(model)
    pipe = pipeline("any-to-any", model=loaded.model, processor=PipelineProcessor(loaded))
    content = [{"type": "video", "path": clip}, {"type": "text", "text": question}]
    with tokenreduce.reduce(loaded.model, "vas", ratio=0.3) as run:
        said = pipe([{"role": "user", "content": content}], return_full_text=False)
    print(said[0]["generated_text"].strip())
    print(f"Img-Memory {run.trace.img_memory:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
