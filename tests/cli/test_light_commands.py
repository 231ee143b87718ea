"""`--help`, `list`, `plugins` and `config` answer at once, and without torch."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tokenreduce.config import Classes, parse_config
from tokenreduce.plugins import BUILTINS, load_plugins

ROOT = Path(__file__).parent.parent.parent
Command = Callable[..., subprocess.CompletedProcess[str]]

LIGHT = [
    ("--help",),
    ("-h",),
    ("--version",),
    ("list", "reducers"),
    ("list", "reducers", "--settings"),
    ("list", "adapters"),
    ("list", "benchmarks"),
    ("plugins",),
    ("config",),
    ("config", "--schema"),
    ("config", "--grid"),
    ("ablate", "--help"),
    ("compare", "--help"),
    ("run", "--help"),
    ("bench", "--help"),
    ("export", "--help"),
    ("paper",),
    ("paper", "--help"),
    ("paper", "table1", "--show"),
    ("report", "--help"),
]

WATCH = """
import sys
from tokenreduce.cli import main
sys.argv = ["tokenreduce", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "av"} & set(sys.modules)
    sys.stderr.write(f"heavy: {sorted(heavy)}")
"""


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    sources = [ROOT, ROOT / "plugins", ROOT / "model_adapters"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "heavy: []")
    # Printed by `pytest -rP`; a busy machine makes a poor judge of half a second.
    print(f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.2f} s of CPU")


@pytest.mark.parametrize("kind", ["reducers", "adapters", "benchmarks"])
def test_list_names_every_builtin_with_its_summary(command: Command, kind: str) -> None:
    lines = command("list", kind).stdout.splitlines()
    names = [builtin.plugin for builtin in BUILTINS if builtin.kind == kind]
    assert [line.split()[0] for line in lines] == names
    assert all(line.rstrip().endswith((".", "]")) for line in lines)


def test_list_shows_settings_under_their_names_in_yaml(command: Command) -> None:
    lines = command("list", "reducers", "--settings").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("random "))
    assert lines[start + 1].startswith("    layers ([0.375, 0.625]): ")


def test_config_prints_a_file_that_works_and_hides_no_setting(command: Command) -> None:
    data = yaml.safe_load(command("config").stdout)
    registry = load_plugins(entry_points=[]).registry
    config = parse_config(data, Classes(registry.reducers, registry.benchmarks), "shipped")
    assert set(data) == set(config.to_dict())
    paper = "keep_all vas fastv vcc tome random spatial_average temporal_average"
    assert list(config.reducers) == paper.split()


def test_shipped_reducers_have_the_papers_settings(command: Command) -> None:
    reducers = yaml.safe_load(command("config").stdout)["reducers"]
    assert (reducers["vas"]["ratio"], reducers["vas"]["interval"]) == (0.3, 3)
    assert reducers["vas"]["start_layer"] == 9 / 32
    assert (reducers["fastv"]["layer"], reducers["fastv"]["ratio"]) == (1, 0.5)
    assert (reducers["vcc"]["layer"], reducers["vcc"]["stride"]) == (1, 2)
    assert reducers["tome"]["r"] == 48 / 2304
    assert reducers["tome"]["end_layer"] == 24 / 32
    for phased in ("random", "spatial_average", "temporal_average"):
        assert reducers[phased]["layers"] == [12 / 32, 20 / 32]
    assert reducers["random"]["ratios"] == 0.5


def test_schema_knows_every_reducer_and_its_settings(command: Command) -> None:
    schema = json.loads(command("config", "--schema").stdout)
    assert set(schema["properties"]["reducers"]["properties"]) == {
        builtin.plugin for builtin in BUILTINS if builtin.kind == "reducers"
    }
    vas = schema["$defs"]["reducer.vas"]
    assert vas["properties"]["use"]["const"] == "vas"
    assert "share" in vas["properties"]["ratio"]["description"]
    assert vas["additionalProperties"] is False
    references = set(_references(schema))
    assert references
    for reference in references:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


def test_list_adapters_says_which_model_types_they_are_for(command: Command) -> None:
    lines = command("list", "adapters").stdout.splitlines()
    (found,) = [line for line in lines if line.startswith("llava_onevision ")]
    assert found.endswith("[model_type: llava_onevision]")
    (found,) = [line for line in lines if line.startswith("generic ")]
    assert "model_type" not in found
