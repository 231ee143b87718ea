"""YAML files and `--set path=value`."""

from pathlib import Path

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.overrides import apply_overrides, read_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text)
    return path


def test_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "is no valid YAML at line 1, column"),
        ("a: 1\nb: {x: 1}\na: 2\n", "at line 3, column 1: the key 'a' is written twice"),
        ("a:\n  b: 1\n  b: 2\n", "at line 3, column 3: the key 'b' is written twice"),
        ("- vas\n", "holds ['vas']: a configuration is a mapping"),
        ("a: !!python/name:os.system\n", "is no valid YAML at line 1"),
        ("\x00", "is no valid YAML"),
    ],
)
def test_broken_file_is_named_with_place_and_reason(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(write(tmp_path, text))
    assert expected in str(caught.value)
    assert "my.yaml" in str(caught.value)


def test_missing_and_binary_files_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name, reason in [("no.yaml", "No such file"), ("binary.yaml", "UTF-8"), ("", "directory")]:
        with pytest.raises(ConfigError, match=reason):
            read_yaml(tmp_path / name)


def test_yaml_merge_keys_and_anchors_work(tmp_path: Path) -> None:
    text = "base: &b {ratio: 0.3, layer: 1}\nother: {<<: *b, ratio: 0.5}\n"
    assert read_yaml(write(tmp_path, text))["other"] == {"ratio": 0.5, "layer": 1}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("frames=8", {"frames": 8}),
        ("reducers.vas.ratio=0.5", {"reducers": {"vas": {"ratio": 0.5}}}),
        ("a.b=[1, x]", {"a": {"b": [1, "x"]}}),
        ("a.b={c: null}", {"a": {"b": {"c": None}}}),
        ("a=", {"a": None}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_value_is_yaml_at_a_dotted_path(override: str, expected: object) -> None:
    assert apply_overrides({}, [override]) == expected


def test_given_data_is_left_alone() -> None:
    data = {"reducers": {"vas": {"ratio": 0.3}}}
    apply_overrides(data, ["reducers.vas.ratio=0.5"])
    assert data == {"reducers": {"vas": {"ratio": 0.3}}}


def test_numbers_index_lists_and_labels_may_hold_dots() -> None:
    data = {"reducers": {"vas-0.3": [{"use": "fastv"}, {"use": "vas", "ratio": 0.3}]}}
    changed = apply_overrides(data, ["reducers.vas-0.3.1.ratio=0.4"])
    assert changed["reducers"]["vas-0.3"][1] == {"use": "vas", "ratio": 0.4}


@pytest.mark.parametrize("order", [1, -1])
def test_new_use_drops_the_old_ones_settings_in_either_order(order: int) -> None:
    data = {"reducers": {"vas": {"ratio": 0.3, "interval": 3}}}
    overrides = ["reducers.vas.use=fastv", "reducers.vas.layer=2"][::order]
    assert apply_overrides(data, overrides)["reducers"]["vas"] == {"use": "fastv", "layer": 2}


@pytest.mark.parametrize("before", [{"ratio": 0.3}, {"use": "vas", "ratio": 0.3}])
def test_the_same_use_again_keeps_the_settings(before: dict[str, object]) -> None:
    changed = apply_overrides({"reducers": {"vas": before}}, ["reducers.vas.use=vas"])
    assert changed["reducers"]["vas"]["ratio"] == 0.3


def test_short_form_grows_into_a_mapping() -> None:
    changed = apply_overrides({"benchmark": "embedded"}, ["benchmark.split=full"])
    assert changed == {"benchmark": {"use": "embedded", "split": "full"}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ratio", "is not of the form path=value"),
        ("=3", "is not of the form path=value"),
        ("a..b=3", "is not of the form path=value"),
        ("a=[1", "the value of the override 'a=[1' is no valid YAML"),
        ("list.5.ratio=1", "'5' must be an index from 0 to 0"),
        ("list.x=1", "'x' must be an index from 0 to 0"),
        ("frames.x=1", "leads into 8, which has no parts"),
    ],
)
def test_broken_override_is_named(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"frames": 8, "list": [{}]}, [override])
    assert expected in str(caught.value)
