"""Wrong requests: exit code 2, one message, no traceback, and nothing on stdout."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenreduce import runner
from tokenreduce.cli import app
from tokenreduce.errors import ReducerError

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["list", "reducer"], "did you mean 'reducers'?"),
        (["-p", "vas", "plugins"], "'vas' must be no:NAME"),
        (["compare", "none.yaml"], "cannot read the configuration file 'none.yaml'"),
        (["compare", "--set", "ratio"], "is not of the form path=value"),
        (["compare", "--set", "model=nowhere"], "'nowhere' is neither 'embedded' nor a folder"),
        (["compare", "--set", "benchmark=mvbench"], "no benchmark is called 'mvbench'"),
        (["compare", "--set", "frames={sweep: [8, 16]}"], "a sweep belongs to an ablation"),
        (["run", "clip.mp4"], "Missing option '--question'"),
        (["run", "clip.mp4", "-q", "?", "--set", "ratio=0.3"], "say which with --reducer"),
        (["run", "clip.mp4", "-q", "?", "--reducer", "vass"], "did you mean 'vas'?"),
        (["run", "clip.mp4", "-q", "?", "--dtype", "fp16"], "did you mean 'float16'?"),
        (["run", "clip.mp4", "-q", "?", "--frames", "0"], "--frames"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_request_is_one_message(
    command: Command, arguments: list[str], expected: str
) -> None:
    done = command(*arguments)
    assert expected in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_all_errors_of_a_file_and_its_overrides_at_once(command: Command, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("reducers: {vas: {ratoi: 0.3}, fastv: {ratio: 2}}\n")
    done = command("compare", "my.yaml", "--set", "reducers.vcc.stride=0", "--set", "dtype=fp16")
    assert done.returncode == 2
    head, *lines = done.stderr.splitlines()
    assert head == "tokenreduce: 4 errors in 'my.yaml':"
    assert [line.strip().partition(":")[0] for line in lines] == [
        "dtype",
        "reducers.vas.ratoi",
        "reducers.fastv.ratio",
        "reducers.vcc.stride",
    ]


def test_changing_use_drops_the_old_settings(command: Command) -> None:
    # FastV has no interval: had VAS's stayed, it would be an error of its own.
    done = command("compare", "--set", "reducers.vas.use=fastv", "--set", "reducers.vas.ratio=2")
    assert done.stderr.splitlines()[1:] == [
        "  reducers.vas.ratio: 2 is not valid: should be less than 1."
    ]


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "tokenreduce: interrupted.\n"),
        (ReducerError("reducer 'x' answered nonsense."), 1, "tokenreduce: reducer 'x' answered"),
    ],
)
def test_exit_codes_of_work_that_stops(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    said: str,
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(runner, "compare", stop)
    with pytest.raises(SystemExit) as caught:
        app(["compare"], prog_name="tokenreduce")
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
