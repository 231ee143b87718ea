"""The plugin guide is true: its table is the hook specifications, its example a working plugin."""

import inspect
import re
import sys
import textwrap
import types
from pathlib import Path

from tokenreduce import hookspecs
from tokenreduce.plugins import PluginManager
from tokenreduce.registry import Owner

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "plugins.md").read_text()
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith(hookspecs.PREFIX)
}


def test_table_has_every_hook_with_its_arguments_and_its_sentence() -> None:
    rows = re.findall(r"^\| `(tokenreduce_\w+)` \| (.*?) ?\| (.*) \|$", GUIDE, re.MULTILINE)
    documented = {name: (re.findall(r"`(\w+)`", arguments), text) for name, arguments, text in rows}
    specified = {
        name: (list(inspect.signature(function).parameters), inspect.getdoc(function))
        for name, function in HOOKS.items()
    }
    assert documented == specified


def test_each_hook_is_described_in_one_sentence() -> None:
    for function in HOOKS.values():
        text = inspect.getdoc(function) or ""
        assert text.count(".") == 1
        assert text.endswith(".")


def test_the_example_is_a_working_plugin() -> None:
    code = re.search(r"```python\n(# tokenreduce_every_other\.py.*?)```", GUIDE, re.DOTALL)
    assert code is not None
    module = types.ModuleType("tokenreduce_every_other")
    sys.modules[module.__name__] = module  # pydantic looks the annotations up there
    try:
        exec(textwrap.dedent(code[1]), module.__dict__)
        failures: list[str] = []
        manager = PluginManager(failures.append)
        manager.add(Owner("every_other", "tokenreduce-every-other", "1.0"), lambda: module)
    finally:
        del sys.modules[module.__name__]
    assert failures == []
    reducer = manager.registry.reducer("every_other")(layer=2)
    assert reducer.acts_after(14) == (2,)
    assert reducer.plan(range(5)).slot.tolist() == [0, -1, 1, -1, 2]
