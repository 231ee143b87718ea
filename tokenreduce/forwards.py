"""What a forward's layout must be, and what stands for its prompts in seeds."""

from __future__ import annotations

from torch import Tensor

from tokenreduce.errors import LayoutError
from tokenreduce.layout import Layout


def fitted(layout: Layout, valid: Tensor, repeated: bool) -> Layout:
    """Check a layout against a forward's tokens ``valid`` ``[batch, tokens]`` bool.

    A batch that ``generate`` has repeated for beams has several rows for each of its samples.
    """
    batch, count = valid.shape
    repeats, rest = divmod(batch, layout.batch)
    if layout.length != count or rest or (repeats > 1 and not repeated):
        raise LayoutError(
            f"the layout describes {layout.batch} samples of {layout.length} tokens, but the "
            f"decoder runs {batch} of {count}: build it for the padded sequence that the decoder "
            "is given."
        )
    layout = layout if repeats == 1 else layout.expand(repeats)
    if bool(((layout.role > 0) & ~valid.to(layout.role.device)).any()):
        raise LayoutError(
            "the layout puts visual tokens where the attention mask has padding: build it for the "
            "padded sequence that the decoder is given."
        )
    return layout


def seed_bytes(ids: Tensor | None, layout: Layout) -> list[bytes] | None:
    """Return what stands for each sample in seeds: its ids without padding, whatever its row."""
    if ids is None:
        return None
    valid = (layout.role >= 0).cpu()
    return [row[keep].numpy().tobytes() for row, keep in zip(ids.cpu(), valid, strict=True)]


def embedding_bytes(embeddings: Tensor, layout: Layout) -> list[bytes]:
    """Stand in for token ids where only embeddings were given: the text's own embeddings."""
    text = (layout.role == 0).cpu()
    rows = zip(embeddings.detach().float().cpu(), text, strict=True)
    return [row[keep].numpy().tobytes() for row, keep in rows]
