"""Compare our processors with transformers' own; run where torchvision can be imported.

``python -m tests.processors.compare FAMILY ...`` prints a line of JSON for each family.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.torchvision_environment import import_torchvision

# Frames, height and width of clips: wide, tall, smaller than a cell, and odd.
SHAPES = ((4, 48, 64), (5, 37, 90), (2, 200, 31), (8, 9, 40), (7, 123, 77), (16, 64, 64))
QUESTION = "what is this?"


def differences(module: ModuleType, variant: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between the two processors of one tiny checkpoint."""
    from tokenreduce.inference import answer, load_model
    from tokenreduce.plugins import load_plugins

    adapters = load_plugins(entry_points=[]).registry.adapters
    generator = torch.Generator().manual_seed(0)
    tolerance = getattr(module, "PIXEL_TOLERANCE", 0.0)
    with tempfile.TemporaryDirectory(prefix="tokenreduce-") as folder:
        module.write_checkpoint(Path(folder), **variant)
        loaded = load_model(folder, adapters, dtype="float32", device="cpu")
        ours_of = loaded.checkpoint.processor
        for shape in SHAPES:
            frames = torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)
            times = [0.3 + 0.7 * frame for frame in range(shape[0])]
            ours = ours_of.video_inputs(frames, QUESTION, times)
            theirs = module.hf_inputs(Path(folder), frames, QUESTION, times)
            if ours.keys() != theirs.keys():
                yield f"{shape}: {sorted(ours)} are not {sorted(theirs)}"
                continue
            for name, value in ours.items():
                other = theirs[name]
                if value.shape != other.shape or value.dtype != other.dtype:
                    yield f"{shape}: {name} is {tuple(value.shape)}, not {tuple(other.shape)}"
                elif value.is_floating_point():
                    most = (value - other).abs().max().item()
                    if most > tolerance:
                        yield f"{shape}: {name} differs by {most:.3g}"
                elif not torch.equal(value, other):
                    yield f"{shape}: {name} differs"
        # The whole way works beside torchvision as well, on what the last clip was made into.
        answer(loaded, ours, [], max_new_tokens=2)


def main(names: list[str]) -> None:
    """Print what differs, family by family."""
    import_torchvision()  # a broken one is told before anything is compared
    for name in names:
        module = importlib.import_module(f"tests.adapters.families.{name}")
        for variant in getattr(module, "VARIANTS", ({},)):
            found = list(differences(module, variant))
            print(json.dumps({"family": name, "variant": variant, "differences": found}))


if __name__ == "__main__":
    main(sys.argv[1:])
