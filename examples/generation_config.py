"""Beams, several answers and sampling, from a ``GenerationConfig``.

python examples/generation_config.py [CHECKPOINT [CLIP [QUESTION]]]
"""

import sys
from pathlib import Path

from transformers import set_seed

import tokenreduce

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(model: str = "embedded", clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the two best answers of three beams, and two that were sampled."""
    loaded = tokenreduce.load(model)
    processor = loaded.checkpoint.processor
    video = tokenreduce.load_video(clip, processor.frames, processor.sampling)
    inputs = loaded.inputs(video.frames, question, video.timestamps)
    # Of a checkpoint: it knows where generation ends.
    config = loaded.model.generation_config
    config.max_new_tokens, config.num_return_sequences = 16, 2
    with tokenreduce.reduce(loaded.model, "vas", ratio=0.3):
        config.num_beams, config.do_sample = 3, False
        beams = loaded.model.generate(**inputs, generation_config=config)
        set_seed(0)
        config.num_beams, config.do_sample = 1, True
        sampled = loaded.model.generate(**inputs, generation_config=config)
    for name, sequences in (("beams", beams), ("sampled", sampled)):
        print(name, *(loaded.decode(row[None], inputs) for row in sequences), sep=" | ")


if __name__ == "__main__":
    main(*sys.argv[1:])
