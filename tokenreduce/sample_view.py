"""The view of one sample of a running prefill: re-indexes what the core holds to the survivors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from tokenreduce.attention import over_heads
from tokenreduce.errors import ReducerError
from tokenreduce.layout import Role
from tokenreduce.scores import peeked_at, received_at
from tokenreduce.view import Heads, Rows, View

if TYPE_CHECKING:
    from tokenreduce.course import Course
    from tokenreduce.reducer import Needs
    from tokenreduce.scheduler import Prefill


class SampleView(View):
    """The view of one sample of a running prefill."""

    def __init__(
        self,
        prefill: Prefill,
        course: Course,
        stage: int,
        layer: int,
        sample: int,
        hidden: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> None:
        self._prefill, self._course, self._sample = prefill, course, sample
        self._stage = course.stages[stage]
        self._hidden, self._rows = hidden, rows
        layout = prefill.layout
        self.layer, self.num_layers = layer, len(prefill.layers)
        self._columns = columns
        self.index = columns + prefill.offset
        self.item = layout.item[sample].index_select(0, columns)
        self.frame = layout.frame[sample].index_select(0, columns)
        self.row = layout.row[sample].index_select(0, columns)
        self.column = layout.column[sample].index_select(0, columns)
        self.size = prefill.tokens.size[sample].index_select(0, columns)
        self.total = prefill.totals[sample]
        self.events = course.events.get((stage, sample), ())
        self.layers_since_reduction = layer - (self.events[-1].layer if self.events else -1)

    @property
    def _needs(self) -> Needs:
        return self._stage.needs

    @property
    def _name(self) -> str:
        return self._stage.reducer.name

    def attention(
        self,
        rows: Rows | Sequence[int] = "text",
        back: int = 0,
        heads: Heads = "mean",
        layer: Literal["this", "next"] = "this",
    ) -> Tensor:
        """See :meth:`tokenreduce.view.View.attention`."""
        asked = rows if isinstance(rows, str) else self._checked(rows)
        if layer == "next":
            self._require(self._needs.next_layer, "next_layer=True")
            if self.layer + 1 >= self.num_layers:
                raise ReducerError(f"reducer '{self._name}' asks for the layer after the last one.")
            weight = peeked_at(self._prefill, self.layer + 1, self._sample, self._hidden, asked)
            return over_heads(weight, heads)[..., self._rows]
        self._check_declared(asked, back)
        key = (self.layer, self._sample, asked, back, heads)
        # Computed once for all reducers that ask about these tokens.
        known = self._prefill.weights_now
        if key not in known:
            known[key] = self._history(asked, back, heads)
        return known[key].clone()

    def _checked(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Return row indices that there are."""
        count = int(self._prefill.text_columns(self._sample).numel())
        chosen = tuple(int(row) for row in rows)
        if not chosen or not all(0 <= row < count for row in chosen):
            raise ReducerError(
                f"reducer '{self._name}' asks for the text rows {list(chosen)}, but there are "
                f"{count}: name at least one from 0 to {count - 1}."
            )
        return chosen

    def _check_declared(self, rows: Rows | tuple[int, ...], back: int) -> None:
        needs = self._needs
        declared = rows if isinstance(rows, str) else "text"
        covered = declared in needs.attention or (declared == "last" and "text" in needs.attention)
        self._require(covered, f"attention={{'{declared}'}}")
        self._require(0 <= back <= needs.history, f"history={back}")
        source = self.layer - back
        if source < 0:
            raise ReducerError(
                f"reducer '{self._name}' asks after layer {self.layer} for the attention of layer "
                f"{source}, which does not exist: look at view.layer first."
            )

    def _history(self, rows: Rows | tuple[int, ...], back: int, heads: Heads) -> Tensor:
        source = self.layer - back
        weight = received_at(self._prefill, source, self._sample, rows, heads)
        then = self._prefill.seen[source]
        if then is self._prefill.tokens:
            return weight[..., self._rows.to(weight.device)].to(self.index.device)
        # Tokens merged since then count with the token that carries them now.
        carrier = self._prefill.tokens.owner[self._sample][then.index[self._sample].clamp(min=0)]
        # A last place is for all that is no token of the view now; padding has no weight.
        place = torch.full((then.owner.shape[1] + 1,), len(self), device=carrier.device)
        place[self._columns] = torch.arange(len(self), device=carrier.device)
        total = weight.new_zeros(*weight.shape[:-1], len(self) + 1)
        total.index_add_(-1, place[carrier].to(weight.device), weight)
        return total[..., :-1].to(self.index.device)

    @property
    def keys(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.keys`."""
        self._require(self._needs.keys, "keys=True")
        if self.layer < 0:
            raise ReducerError(f"reducer '{self._name}' asks for keys before the first layer.")
        capture = self._prefill.probe.of(self.layer, self._prefill.layers[self.layer])
        rows = self._prefill.seen[self.layer].rows_of(self._sample, self._columns)
        where = rows.to(capture.key.device) + capture.past
        return capture.key[self._sample].index_select(1, where).transpose(0, 1)

    @property
    def hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.hidden`."""
        return self._hidden[self._sample].index_select(0, self._rows.to(self._hidden.device))

    @property
    def text_hidden(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_hidden`."""
        columns = self._prefill.text_columns(self._sample)
        where = self._prefill.tokens.rows_of(self._sample, columns)
        return self._hidden[self._sample].index_select(0, where.to(self._hidden.device))

    @property
    def text_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.text_embeddings`."""
        columns = self._prefill.text_columns(self._sample)
        embeddings = self._prefill.embeddings[self._sample]
        return embeddings.index_select(0, columns.to(embeddings.device))

    @property
    def visual_embeddings(self) -> Tensor:
        """See :attr:`tokenreduce.view.View.visual_embeddings`."""
        columns = (self._prefill.layout.role[self._sample] == int(Role.GRID)).nonzero().squeeze(1)
        embeddings = self._prefill.embeddings[self._sample]
        return embeddings.index_select(0, columns.to(embeddings.device))

    @property
    def generator(self) -> torch.Generator:
        """See :attr:`tokenreduce.view.View.generator`."""
        digest = hashlib.blake2b(self._prefill.token_ids[self._sample], digest_size=8)
        digest.update(f"{self._course.seed}/{self.layer}".encode())
        generator = torch.Generator()
        generator.manual_seed(int.from_bytes(digest.digest(), "little") >> 1)
        return generator

    def _require(self, declared: bool, what: str) -> None:
        if not declared:
            raise ReducerError(
                f"reducer '{self._name}' reads what it did not declare: return Needs({what}) from "
                "needs()."
            )
