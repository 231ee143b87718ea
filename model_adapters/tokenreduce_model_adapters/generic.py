"""Any model with a decoder and a placeholder for visual tokens, for callers who know its grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tokenreduce.adapter import Checkpoint, Inputs, ModelAdapter
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, SampleLayout, Span, contiguous_runs

if TYPE_CHECKING:
    from torch import nn


class Generic(ModelAdapter):
    """Any model: each run of visual placeholders is frames of a grid that the caller gives.

    It claims no model by itself. Give ``tokenreduce.reduce`` an instance: ``adapter=Generic(rows,
    columns)``. What follows from the model's own family (newlines, CLS tokens, frames between
    texts that belong to one video) is not known to it: every run is an item of its own.

    Parameters
    ----------
    rows, columns
        Tokens of one frame.
    """

    name: ClassVar[str] = "generic"
    model_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, rows: int = 0, columns: int = 0) -> None:
        self.rows, self.columns = rows, columns

    def layout(self, model: nn.Module, inputs: Inputs) -> Layout:
        """See :meth:`tokenreduce.adapter.ModelAdapter.layout`."""
        if self.rows < 1 or self.columns < 1:
            raise AdapterError(
                f"the generic adapter was given a grid of {self.rows} x {self.columns} tokens: "
                "say how many a frame has, as in Generic(rows=14, columns=14)."
            )
        ids, tokens = inputs["input_ids"], _placeholders(model)
        samples = [self._sample(row, sample, tokens) for sample, row in enumerate(ids.tolist())]
        note = f"generic adapter: every run of placeholders taken as {self.rows} x {self.columns}"
        return Layout.build(samples, ids.shape[1], inputs.get("attention_mask"), note=note)

    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        """Refuse: how prompts and pixels are prepared is what a family's own adapter knows."""
        raise AdapterError(
            f"{directory}: the generic adapter loads no checkpoint: load the model with "
            "transformers and pass tokenreduce.reduce(..., adapter=Generic(rows, columns))."
        )

    def _sample(self, row: list[int], sample: int, tokens: tuple[int, ...]) -> SampleLayout:
        runs = [run for t in tokens for run in contiguous_runs(value == t for value in row)]
        spans = []
        for item, (start, length) in enumerate(sorted(runs)):
            frames, rest = divmod(length, self.rows * self.columns)
            if rest:
                raise AdapterError(
                    f"sample {sample}: the {length} placeholders at position {start} are not whole "
                    f"frames of {self.rows} x {self.columns} tokens: give the grid that this "
                    "model's frames have."
                )
            spans.append(Span(start, frames, self.rows, self.columns, item))
        return SampleLayout(tuple(spans))


def _placeholders(model: nn.Module) -> tuple[int, ...]:
    config: Any = model.config
    found = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
    tokens = tuple(dict.fromkeys(token for token in found if token is not None))
    if not tokens:
        raise AdapterError(
            f"the configuration of {type(model).__name__} has neither image_token_id nor "
            "video_token_id: pass tokenreduce.reduce(..., layout=...) instead."
        )
    return tokens
