"""What is asked for is checked before any weight is made."""

from pathlib import Path

import pytest

from tests.bench.conftest import request_for
from tokenreduce.bench.shapes import SHAPES, Grid
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.errors import ConfigError
from tokenreduce.paper.published import TIMED


def test_shapes_have_the_papers_tokens_and_depths() -> None:
    counts = {name: (shape.grid.tokens, shape.text.layers) for name, shape in SHAPES.items()}
    for name, expected in {
        "llama-7b": (2304, 32),
        "llama3-8b": (1568, 32),
        "qwen2-7b": (4608, 28),
        "yi-34b": (2048, 60),
    }.items():
        assert counts[name] == counts[f"{name}-tiny"] == expected


@pytest.mark.parametrize("name", ["llama-7b", "llama3-8b", "qwen2-7b", "yi-34b"])
def test_tiny_shapes_keep_what_the_schedule_depends_on(name: str) -> None:
    full, tiny = SHAPES[name], SHAPES[f"{name}-tiny"]
    assert tiny.text.heads / tiny.text.key_heads == full.text.heads / full.text.key_heads
    assert tiny.tower.layers == full.tower.layers
    assert tiny.text.hidden >= 1024
    assert tiny.settings == full.settings


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-7b", 6.7), ("llama3-8b", 8.0), ("qwen2-7b", 7.6), ("yi-34b", 34.4)],
)
def test_full_shapes_have_as_many_weights_as_their_names_say(name: str, billions: float) -> None:
    text = SHAPES[name].text
    heads = text.hidden * text.head_dim * (2 * text.heads + 2 * text.key_heads)
    layer = heads + 3 * text.hidden * text.intermediate
    total = text.layers * layer + 2 * text.vocabulary * text.hidden
    assert total / 1e9 == pytest.approx(billions, rel=0.01)


def test_the_papers_rows_are_the_default_with_its_settings() -> None:
    request = request_for("qwen2-7b-tiny")
    assert list(request.rows) == [
        "keep_all",
        *("vas", "fastv", "vcc", "tome", "random", "spatial_average", "temporal_average"),
    ]
    (tome,), (vas,) = request.rows["tome"], request.rows["vas"]
    assert (tome.r, tome.end_layer) == (120 / 4608, 23)  # type: ignore[attr-defined]
    assert (vas.start_layer, vas.ratio) == (5, 0.3)  # type: ignore[attr-defined]
    assert request.pattern == "published"
    assert set(request.published) == {"tome", "vcc", "fastv", "vas"}


def test_a_row_that_is_not_the_papers_is_not_compared_with_it() -> None:
    changed = request_for("llama-7b", "vas", "fastv", overrides=("reducers.vas.ratio=0.5",))
    assert set(changed.published) == {"fastv"}
    assert request_for("llama-7b", frames=8).published == {}
    same = request_for("llama-7b", overrides=("reducers.vas.ratio=0.3",))
    assert same.published["vas"].table == 1


def test_labels_of_the_paper_are_rows() -> None:
    request = request_for("llama3-8b", *(f"vas-{p}-4" for p in (20, 30, 40, 50)))
    settings = [(row[0].name, row[0].ratio, row[0].interval) for row in request.rows.values()]  # type: ignore[attr-defined]
    assert settings == [("vas", p / 100, 4) for p in (20, 30, 40, 50)]
    assert request.published["vas-20-4"].ttft_speedup == 1.57


@pytest.mark.parametrize("model", TIMED)
def test_all_rows_of_the_paper_can_be_run(model: str) -> None:
    name = next(shape.name for shape in SHAPES.values() if shape.model == model)
    assert set(request_for(name, *TIMED[model]).published) == set(TIMED[model])


def test_growth_runs_all_shipped_reducers() -> None:
    assert len(request_for("growth").rows) == 8


def test_grid_and_frames(mini: object) -> None:
    assert request_for("mini", "fastv", frames=7, grid="5x6").grid == Grid(7, 5, 6)
    assert request_for("mini", "fastv", grid="1x1").grid == Grid(4, 1, 1)
    assert list(request_for("mini", "fastv").rows) == ["fastv"]


def test_a_checkpoint_sees_its_own_attention() -> None:
    request = request_for(str(MODEL_DIR), "fastv", frames=4)
    assert (request.shape, request.grid) == (None, None)
    assert (request.pattern, request.frames) == ("model", 4)


@pytest.mark.parametrize(
    ("options", "labels", "overrides", "message"),
    [
        ({"model": "llama-7b-tini"}, (), (), "did you mean 'llama-7b-tiny'"),
        (
            {"model": "mini", "grid": "12"},
            ("fastv",),
            (),
            "grid: '12' is not valid: write ROWS",
        ),
        ({"model": "mini", "frames": 0, "text": 0}, ("fastv",), (), "2 errors"),
        ({"model": "mini", "without": ["egar"]}, ("fastv",), (), "without.*'eager'"),
        ({"model": "mini", "attention": "flex"}, ("fastv",), (), "attention: 'flex'"),
        ({"model": "mini", "device": "tpu"}, ("fastv",), (), "device: 'tpu'"),
        ({"model": "mini", "pattern": "rising"}, ("fastv",), (), "pattern: 'rising'"),
        ({"model": "mini"}, ("fastw",), (), "did you mean 'fastv'"),
        ({"model": "mini"}, ("fastv",), ("frames=3",), "--set frames=...: `bench` changes"),
        ({"model": "mini"}, ("fastv",), ("reducers.fastv.ratio=2",), "reducers.fastv.ratio: 2"),
        (
            {"model": "growth"},
            ("vas",),
            ("reducers.vas.end_layer=null",),
            "no range from 0",
        ),
        ({"model": str(MODEL_DIR), "grid": "3x3"}, ("fastv",), (), "grid 3x3: the checkpoint"),
    ],
)
def test_wrong_requests_say_what_is_wrong(
    mini: object,
    options: dict[str, object],
    labels: tuple[str, ...],
    overrides: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        request_for(str(options["model"]), *labels, overrides=overrides, **_rest(options))


def _rest(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "model"}


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a named shape nor the folder of a checkpoint"):
        request_for(str(tmp_path / "missing"))
