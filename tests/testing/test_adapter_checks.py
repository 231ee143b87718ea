"""Each check catches a broken adapter, and it alone does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.testing.cases import onevision_cases
from tokenreduce.adapter import Checkpoint
from tokenreduce.cost import DecoderShape
from tokenreduce.errors import AdapterError, ConformanceError, LayoutError
from tokenreduce.layout import Layout, Role, SampleLayout
from tokenreduce.testing import AdapterCase, check_adapter
from tokenreduce.testing.kit import ADAPTER_CHECKS, failures
from tokenreduce.testing.tiny import tiny_onevision
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision


class OtherType(LlavaOnevision):
    model_types = ("llava_next_video",)


class SharesCells(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        layout = super().layout(model, inputs)
        return dataclasses.replace(layout, column=layout.column.clamp(max=0))


class NewlinesAreGrid(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        layout = super().layout(model, inputs)
        newline = layout.role == int(Role.NEWLINE)
        fresh = newline.long().cumsum(1) + 100
        changed = {n: getattr(layout, n).where(~newline, fresh) for n in ("frame", "row", "column")}
        return dataclasses.replace(
            layout, role=layout.role.masked_fill(newline, int(Role.GRID)), **changed
        )


class Backwards(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        layout = super().layout(model, inputs)
        grid = layout.role == int(Role.GRID)
        return dataclasses.replace(layout, frame=(9 - layout.frame).where(grid, layout.frame))


class CountsPadding(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        layout = super().layout(model, inputs)
        grid = layout.role == int(Role.GRID)
        return dataclasses.replace(layout, row=(layout.row + layout.length).where(grid, layout.row))


class TakesCutVideos(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        try:
            return super().layout(model, inputs)
        except (AdapterError, LayoutError):
            batch, length = inputs["input_ids"].shape
            return Layout.build([SampleLayout()] * batch, length, inputs["attention_mask"])


class EncodesOtherwise(LlavaOnevision):
    def encode_video(self, model: Any, inputs: Any) -> dict[str, Any]:
        return {**inputs, "pixel_values_videos": inputs["pixel_values_videos"] * 2}


class OtherSizes(LlavaOnevision):
    def decoder_shape(self, model: Any) -> DecoderShape:
        return dataclasses.replace(super().decoder_shape(model), vocabulary=7)


class OtherWidths(LlavaOnevision):
    def decoder_shape(self, model: Any) -> DecoderShape:
        return dataclasses.replace(super().decoder_shape(model), gated=False)


class LeavesANote(LlavaOnevision):
    def layout(self, model: Any, inputs: Any) -> Layout:
        model.__dict__["seen"] = True
        return super().layout(model, inputs)


class LoadsAnything(LlavaOnevision):
    def load(self, directory: Path, *, dtype: str, device: str) -> Checkpoint:
        return Checkpoint(tiny_onevision(), None, "any")  # type: ignore[arg-type]


def case(adapter: LlavaOnevision) -> AdapterCase:
    return onevision_cases(adapter)[0]


def deepstack_case() -> AdapterCase:
    """A model that adds to fixed places after its first layers; the adapter does not say so."""
    plain = case(LlavaOnevision())

    def add(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if args[0].shape[1] == 1:
            return args
        hidden = args[0].clone()
        hidden[:, -3] += 1
        hidden[:, 16:20] += 1
        return (hidden, *args[1:])

    def model() -> Any:
        made = plain.model()
        made.get_decoder().layers[1].register_forward_pre_hook(add)
        return made

    return AdapterCase(plain.adapter, model, plain.inputs)


BROKEN = {
    "claims_its_model": case(OtherType()),
    "every_position_has_its_role": case(SharesCells()),
    "grid_tokens_are_where_the_pixels_go": case(NewlinesAreGrid()),
    "frames_are_in_order": case(Backwards()),
    "padding_shifts_the_layout": case(CountsPadding()),
    "cut_videos_are_refused": case(TakesCutVideos()),
    "encoding_once_gives_the_same_answer": case(EncodesOtherwise()),
    "decoder_shape_is_the_models": case(OtherSizes()),
    "dropping_and_merging_are_exact": deepstack_case(),
    "keeping_all_changes_nothing": case(LeavesANote()),
    "missing_weights_are_named": case(LoadsAnything()),
}


def test_every_check_has_its_broken_adapter() -> None:
    assert [check.name for check in ADAPTER_CHECKS] == list(BROKEN)


@pytest.mark.parametrize("check", BROKEN)
def test_each_check_alone_catches_its_broken_adapter(check: str) -> None:
    assert [failure.check for failure in failures(BROKEN[check])] == [check]


def test_sizes_that_make_other_weights_are_caught() -> None:
    (failure,) = failures(case(OtherWidths()))
    assert failure.check == "decoder_shape_is_the_models"
    # Queries, keys, values and output of 32 x 32 and 32 x 16; two or three matrices of 32 x 64.
    assert "makes 7168 weights of layer 0: there are 9216" in str(failure)


def test_check_adapter_lists_what_failed() -> None:
    broken = case(OtherType())
    with pytest.raises(ConformanceError, match="'llava_onevision' fails 1 of 11 checks") as caught:
        check_adapter(broken.adapter, model=broken.model, inputs=broken.inputs)
    assert "claims_its_model: model_type 'llava_onevision' is not one of" in str(caught.value)
