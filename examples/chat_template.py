"""Write the prompt with a chat template, and ask a second question on the reduced cache.

python examples/chat_template.py [CHECKPOINT [CLIP [QUESTION]]]
"""

import sys
from pathlib import Path

import torch

import tokenreduce
from tokenreduce.processing import PipelineProcessor

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(model: str = "embedded", clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the first answer, and the answer to the same question asked again."""
    loaded = tokenreduce.load(model)
    processor = PipelineProcessor(loaded)
    content = [{"type": "video", "path": clip}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    ).to(loaded.device)
    prompt = inputs["input_ids"].shape[1]
    again = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"].to(loaded.device)
    with tokenreduce.reduce(loaded.model, "vas", ratio=0.3):
        first = loaded.model.generate(**inputs, max_new_tokens=16, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, again], dim=1)
        second = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=first.past_key_values,
            max_new_tokens=16,
        )
    print(processor.decode(first.sequences[0, prompt:], skip_special_tokens=True).strip())
    print(processor.decode(second[0, ids.shape[1] :], skip_special_tokens=True).strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
