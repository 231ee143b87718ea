"""The generic adapter: a grid that the caller gives, on a model that no adapter claims."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tokenreduce
from tests.adapters.family import padded
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Role
from tokenreduce.testing.adapter_checks import EverySecond, Pairs
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.testing.tiny import IMAGE, VIDEO, single, tiny_onevision
from tokenreduce_model_adapters.generic import Generic

ROW = [1, 2, *[VIDEO] * 12, 3, *[IMAGE] * 6, *[VIDEO] * 6, 4, 5]


def unclaimed():
    model = tiny_onevision()
    model.config.model_type = "of_another_kind"
    return model


def test_runs_are_frames_of_the_grid_by_hand():
    layout = Generic(rows=2, columns=3).layout(tiny_onevision(), padded([ROW, [7, 8]]))
    assert layout.role[0].tolist() == [0, 0] + [1] * 12 + [0] + [1] * 12 + [0, 0]
    assert layout.item[0].tolist() == [-1] * 2 + [0] * 12 + [-1] + [1] * 6 + [2] * 6 + [-1] * 2
    assert layout.frame[0].tolist()[2:14] == [0] * 6 + [1] * 6
    assert layout.row[0].tolist()[2:8] == [0, 0, 0, 1, 1, 1]
    assert layout.column[0].tolist()[2:8] == [0, 1, 2, 0, 1, 2]
    assert layout.role[1].tolist() == [int(Role.PAD)] * 27 + [0, 0]


@pytest.mark.parametrize("reducer", [EverySecond(layers=(1, 3)), Pairs(layers=(2,))])
def test_dropping_and_merging_equal_the_oracle(reducer):
    # 6 frames of 2 x 2 and a newline, which the grid of one row takes for cells like the others.
    run = check_against_oracle(
        unclaimed(), [reducer], single(), new=8, adapter=Generic(rows=1, columns=25)
    )
    assert run.trace.visual_tokens == (25,)
    assert "1 x 25" in run.trace.layout_note


def test_it_is_passed_to_reduce_and_named_where_no_adapter_is_found():
    model = unclaimed()
    with pytest.raises(AdapterError, match=r"of_another_kind.*adapter=Generic\(rows, columns\)"):
        tokenreduce.reduce(model, "fastv").__enter__()
    adapter = Generic(rows=1, columns=25)
    with torch.no_grad(), tokenreduce.reduce(model, "fastv", adapter=adapter) as run:
        model(**single())
    assert "generic adapter" in run.trace.layout_note


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Generic(), r"grid of 0 x 0 .*Generic\(rows=14, columns=14\)"),
        (
            Generic(rows=5, columns=5),
            r"12 placeholders at position 2 are not whole frames of 5 x 5",
        ),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(adapter, message):
    with pytest.raises(AdapterError, match=message):
        adapter.layout(tiny_onevision(), padded([ROW]))


def test_a_model_without_placeholders_is_refused():
    model = tiny_onevision().get_decoder()
    with pytest.raises(AdapterError, match="neither image_token_id nor video_token_id"):
        Generic(rows=2, columns=2).layout(model, padded([ROW]))


def test_it_loads_nothing():
    with pytest.raises(AdapterError, match="loads no checkpoint"):
        Generic().load(Path("folder"), dtype="float32", device="cpu")
