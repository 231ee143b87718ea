"""Settings: the paper's defaults, documented fields, and nonsense that is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from tokenreduce.errors import ConfigError
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc
from tokenreduce_plugins.vtw import Vtw

ALL = [KeepAll, Vas, FastV, Vcc, ToMe, Random, SpatialAverage, TemporalAverage]
ALL += [PyramidDrop, SparseVLM, FrameFusion, Evs, DivPrune, Vtw]
ROOT = Path(__file__).parents[2]
each = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.name)

DEFAULTS = {
    KeepAll: {},
    Vas: {
        "ratio": 0.3,
        "interval": 3,
        "start_layer": 9 / 32,
        "end_layer": None,
        "axis": "auto",
        "trigger_share": None,
        "coefficients": [1, -1, 1],
        "levels": "relative",
        "drop_all_at_end": False,
    },
    FastV: {"layer": 1, "ratio": 0.5, "queries": "last"},
    Vcc: {"layer": 1, "stride": 2, "within": "sequence"},
    ToMe: {
        "r": 48 / 2304,
        "start_layer": 0,
        "end_layer": 0.75,
        "proportional_attention": False,
    },
    Random: {"layers": [12 / 32, 20 / 32], "ratios": 0.5},
    SpatialAverage: {"layers": [12 / 32, 20 / 32], "axis": "auto"},
    TemporalAverage: {"layers": [12 / 32, 20 / 32]},
    PyramidDrop: {"layers": [8 / 32, 16 / 32, 24 / 32], "ratios": 0.5},
    SparseVLM: {
        "layers": [3 / 32, 7 / 32, 16 / 32],
        "shares": [300 / 576, 200 / 576, 110 / 576],
        "scale": 1,
        "heads": 14 / 32,
    },
    FrameFusion: {"cost": 0.3, "threshold": 0.6, "least_share": 0.1, "start_layer": -1},
    Evs: {"ratio": 0.7, "layer": -1},
    DivPrune: {"ratio": 0.902, "layer": -1},
    Vtw: {"layer": 0.5},
}


@each
def test_defaults_are_the_papers_and_survive_json(cls):
    written = json.loads(cls().model_dump_json())
    assert written == DEFAULTS[cls]
    assert cls(**written) == cls()
    assert hash(cls()) == hash(cls(**written))


@each
def test_every_field_says_what_it_means_and_has_a_default(cls):
    schema = cls.model_json_schema()
    assert schema.get("properties", {}).keys() == DEFAULTS[cls].keys()
    for name, field in cls.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
        assert name in cls.__doc__, f"{name} is not in the docstring"


@each
def test_name_is_the_file_and_has_a_page(cls):
    assert cls.__module__ == f"tokenreduce_plugins.{cls.name}"
    assert import_module(cls.__module__).__file__.endswith(f"/{cls.name}.py")
    page = (ROOT / "docs" / "reducers" / f"{cls.name}.md").read_text()
    for name in DEFAULTS[cls]:
        assert f"`{name}`" in page


@each
def test_budget_fields_are_settings_with_bounds_that_are_accepted(cls):
    for name, (low, high) in cls.budget_fields.items():
        assert name in DEFAULTS[cls]
        for bound in (low, high):
            assert cls(**{name: bound}).acts_after(32) == cls().acts_after(32)


@each
def test_unknown_settings_are_refused(cls):
    with pytest.raises(ValidationError, match="rato"):
        cls(rato=0.5)


@pytest.mark.parametrize(
    ("cls", "setting", "message"),
    [
        (Vas, {"ratio": 1}, "less than 1"),
        (Vas, {"ratio": -0.1}, "greater than or equal to 0"),
        (Vas, {"interval": 0}, "interval"),
        (Vas, {"axis": "rows"}, "'auto', 'frames', 'positions' or 'tokens'"),
        (Vas, {"coefficients": (1, 2)}, "coefficients"),
        (Vas, {"trigger_share": 1.5}, "trigger_share"),
        (Vas, {"start_layer": -2}, "start_layer"),
        (FastV, {"ratio": float("nan")}, "ratio"),
        (FastV, {"queries": "first"}, "'text', 'last' or 'all'"),
        (FastV, {"layer": None}, "layer"),
        (Vcc, {"stride": 0}, "stride"),
        (Vcc, {"stride": 1.5}, "stride"),
        (Vcc, {"within": "rows"}, "within"),
        (ToMe, {"r": -1}, "greater than or equal to 0"),
        (ToMe, {"r": 1.5}, "tome: r 1.5 is neither a count of tokens nor a share"),
        (ToMe, {"r": (1, 2.5)}, "r 2.5"),
        (ToMe, {"proportional_attention": True}, "would change the attention logits"),
        (Random, {"layers": ()}, "layers"),
        (Random, {"layers": (1, 2), "ratios": (0.5,)}, "1 ratios for 2 layers"),
        (Random, {"ratios": (0.5, 0.5, 0.5)}, "3 ratios for 2 layers"),
        (Random, {"ratios": (0.5, 1)}, "less than 1"),
        (SpatialAverage, {"layers": (-2,)}, "layers"),
        (SpatialAverage, {"axis": "frames"}, "axis"),
        (TemporalAverage, {"layers": ()}, "layers"),
        (PyramidDrop, {"ratios": (0.5, 0.5)}, "2 ratios for 3 layers"),
        (PyramidDrop, {"ratios": 1}, "less than 1"),
        (PyramidDrop, {"layers": ()}, "layers"),
        (SparseVLM, {"shares": (0.5, 0.4)}, "2 shares for 3 layers"),
        (SparseVLM, {"shares": (0.2, 0.4, 0.1)}, r"shares \[0.2, 0.4, 0.1\] rise"),
        (SparseVLM, {"shares": (0.5, 0.4, 0)}, "greater than 0"),
        (SparseVLM, {"scale": 0}, "scale"),
        (SparseVLM, {"heads": 1.5}, "heads"),
        (FrameFusion, {"cost": 0}, "greater than 0"),
        (FrameFusion, {"cost": 1.1}, "less than or equal to 1"),
        (FrameFusion, {"threshold": 2}, "threshold"),
        (FrameFusion, {"least_share": 0}, "least_share"),
        (Evs, {"ratio": 1}, "less than 1"),
        (Evs, {"layer": -2}, "layer"),
        (DivPrune, {"ratio": -0.1}, "greater than or equal to 0"),
        (Vtw, {"layer": None}, "layer"),
    ],
)
def test_nonsense_is_refused_when_written(cls, setting, message):
    with pytest.raises(ValidationError, match=message):
        cls(**setting)


@pytest.mark.parametrize(
    ("reducer", "num_layers", "message"),
    [
        (Vas(start_layer=8, end_layer=7), 32, r"start_layer 8 \(index 8\) to end_layer 7"),
        (Vas(start_layer=-1), 32, "no range from 0 upwards"),
        (Vas(), 4, r"end_layer None \(index -1\)"),
        (Vas(start_layer=28), 32, r"end_layer None \(index 27\)"),
        (Vas(end_layer=32), 32, "layer 32 does not exist"),
        (FastV(layer=-1), 32, "fastv: layer -1 is before the first"),
        (FastV(layer=32), 32, "layer 32 does not exist"),
        (FastV(layer=1.5), 32, "neither an index nor a fraction"),
        (Vcc(layer=99), 28, "layer 99 does not exist"),
        (ToMe(start_layer=20, end_layer=10), 32, r"start_layer 20 \(index 20\) to end_layer 10"),
        (ToMe(start_layer=-1), 32, "no keys"),
        (ToMe(r=(1, 2, 3)), 32, "lists 3 counts for the 24 layers 0 to 23 of 32"),
        (Random(layers=(19, 11)), 32, r"layers \[19, 11\] .* out of order"),
        (Random(layers=(11, 11)), 32, "two reductions meet on one layer"),
        (Random(), 2, "two reductions meet on one layer"),
        (SpatialAverage(layers=(0.9, 0.1)), 32, "out of order"),
        (TemporalAverage(layers=(5, 4)), 32, "out of order"),
        (TemporalAverage(layers=(4, 40)), 32, "layer 40 does not exist"),
        (PyramidDrop(layers=(5, 31)), 32, "layer 31 is the last of 32 .* use at most 30"),
        (PyramidDrop(layers=(9, 5)), 32, "out of order"),
        (SparseVLM(layers=(-1, 3, 5)), 32, "sparse_vlm: layer -1 is before the first"),
        (SparseVLM(), 6, "two reductions meet on one layer"),
        (FrameFusion(start_layer=31), 32, r"start_layer 31 \(index 31\) is the last of 32"),
        (FrameFusion(start_layer=40), 32, "layer 40 does not exist"),
        (Evs(layer=32), 32, "layer 32 does not exist"),
        (DivPrune(layer=1.5), 32, "neither an index nor a fraction"),
        (Vtw(layer=99), 28, "layer 99 does not exist"),
    ],
    ids=str,
)
def test_layers_that_do_not_fit_the_model_are_refused(reducer, num_layers, message):
    with pytest.raises(ConfigError, match=message):
        reducer.acts_after(num_layers)


@pytest.mark.parametrize(
    "reducer",
    [
        Vcc(layer=-1),
        Random(layers=(-1, 3)),
        TemporalAverage(layers=(-1,)),
        PyramidDrop(layers=(-1,)),
        FrameFusion(),
        Evs(),
        DivPrune(),
        Vtw(layer=-1),
    ],
)
def test_what_needs_no_attention_may_act_before_the_first_layer(reducer):
    assert reducer.acts_after(32)[0] == -1


def test_a_published_schedule_can_be_written_down():
    reducer = Random(layers=(7, 15, 23), ratios=(0.5, 0.5, 0.5))
    assert reducer.acts_after(32) == (7, 15, 23)
    assert ToMe(r=(40, 30, 20, 10), start_layer=2, end_layer=5).acts_after(12) == (2, 3, 4, 5)


def test_importing_the_reducers_does_not_import_torch():
    names = ", ".join(f"tokenreduce_plugins.{cls.name}" for cls in ALL)
    code = f"import {names}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
