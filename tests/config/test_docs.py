"""The configuration page is true: its table has every setting, its example parses."""

import re
from pathlib import Path

import yaml

from tokenreduce.config import Classes, CommonSettings, parse_config
from tokenreduce.plugins import load_plugins

PAGE = (Path(__file__).parent.parent.parent / "docs" / "configuration.md").read_text()


def test_table_has_every_setting() -> None:
    documented = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))
    fields = {*CommonSettings.model_fields, "benchmark", "reducers"} - {"plugins"}
    assert documented == fields | {"plugins.block", "plugins.strict"}


def test_example_is_a_configuration() -> None:
    example = re.search(r"```yaml\n(model:.*?)```", PAGE, re.DOTALL)
    assert example is not None
    registry = load_plugins(entry_points=[]).registry
    classes = Classes(registry.reducers, registry.benchmarks)
    config = parse_config(yaml.safe_load(example[1]), classes, "the example")
    assert list(config.reducers) == ["keep_all", "vas", "gentle", "both"]
    assert [len(row) for row in config.reducers.values()] == [1, 1, 1, 2]
