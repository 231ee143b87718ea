"""The Ray engine on a real Ray: results equal to local, whoever is lost; and who can listen in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ablations.fake_run import ROOT, command, contents
from tests.ablations.fake_worker import answer, grid, noted
from tests.ablations.killing import kill_at_random
from tokenreduce.records import SampleRecord

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-this-test-and-of-nothing-else"
POISON = ("model0-row1", "v1q1")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return an environment without anybody's Ray settings."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return own | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def with_token(environment: dict[str, str]) -> dict[str, str]:
    return environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def nodes(with_token: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a cluster of two nodes of two cores, as `ray start` does; its first line is
    its address."""
    pipe = subprocess.PIPE
    words = [sys.executable, "-m", "tests.ablations.ray_nodes", "2"]
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=with_token) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def short() -> Iterator[Path]:
    """Return a temporary folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def is_worker(process: psutil.Process) -> bool:
    return process.name().startswith("ray::RayWorker")


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start(notes: Path, environment: dict[str, str], **asked: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.ablations.ray_run", str(notes), json.dumps(asked)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    return document


def records(document: dict[str, Any], number: int = 0) -> list[SampleRecord]:
    found = [SampleRecord(**each) for each in document[f"records{number}"]]
    for each in found:
        object.__setattr__(each, "tokens_per_layer", tuple(each.tokens_per_layer))  # JSON has lists
    return sorted(found, key=lambda each: (each.cell, each.sample))


def expected(videos: int = 4) -> list[SampleRecord]:
    units = grid(videos=videos)
    found = [answer(key, s) for unit in units for s in unit.samples for key, _ in unit.cells]
    return sorted(found, key=lambda each: (each.cell, each.sample))


def test_on_two_nodes_a_lost_worker_changes_nothing(
    tmp_path: Path, nodes: subprocess.Popen[str], with_token: dict[str, str]
) -> None:
    address = line(nodes)
    deaths = [[*POISON, "kill", 1]]  # one in the middle of a unit, and one by our hand
    with start(
        tmp_path, with_token, address=address, workers=3, cpus=1, delay=0.1, deaths=deaths
    ) as process:
        assert line(process) == "ready"
        until = time.monotonic() + 30
        while not (loaded := noted(tmp_path, "load")) or not noted(tmp_path, "answer"):
            assert time.monotonic() < until
            time.sleep(0.05)
        psutil.Process(loaded[0][0]).kill()
        document = told(process)
    assert records(document) == expected()
    assert document["failures0"] == []
    assert len({pid for pid, _ in noted(tmp_path, "start")}) == 5  # three, and one for each lost
    about = document["about0"]
    assert about[0].startswith(f"Ray at {address}, authentication: token; nodes: 2 (2 cores")
    assert about[1] == "3 workers with 1 cores and 0 GPUs each"


def test_a_lost_node_changes_nothing_and_strangers_are_shut_out(
    tmp_path: Path, nodes: subprocess.Popen[str], with_token: dict[str, str]
) -> None:
    address = line(nodes)
    with start(tmp_path, with_token, address=address, workers=4, cpus=1, delay=0.2) as process:
        assert line(process) == "ready"
        until = time.monotonic() + 30
        while len(noted(tmp_path, "load")) < 4:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert nodes.stdin is not None
        print("lose a node", file=nodes.stdin, flush=True)
        document = told(process)
    assert line(nodes) == "lost"
    assert records(document) == expected()
    stranger = with_token | {"RAY_AUTH_TOKEN": "another-token-altogether-of-the-same-kind"}
    stranger["RAY_NUM_REDIS_GET_RETRIES"] = "2"  # a second each; Ray's default are twenty
    pipe = subprocess.PIPE
    words = [sys.executable, "-m", "tests.ablations.ray_run", str(tmp_path)]
    words.append(json.dumps({"address": address}))
    refused = subprocess.run(words, stdout=pipe, stderr=pipe, text=True, env=stranger)
    assert refused.returncode == 1
    assert f"WorkerError: Ray at {address} cannot be reached" in refused.stderr


def test_one_of_our_own_is_private_and_leaves_nothing(
    tmp_path: Path, short: Path, environment: dict[str, str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    notes = tmp_path / "notes"
    notes.mkdir()
    own = environment | {"HOME": str(home), "TMPDIR": str(short)}
    deaths = [[*POISON, "kill", 99]]
    with start(notes, own, workers=2, cpus=1, runs=2, deaths=deaths) as process:
        assert line(process) == "ready"
        document = told(process)
    for number in range(2):
        about = document[f"about{number}"]
        assert about[0].startswith("Ray started on this machine, authentication: token; nodes: 1")
        addresses = {line.split(": ")[0] for line in about[2:]}
        assert addresses == {"listening at 127.0.0.1"}
        failed = [each for each in records(document, number) if each.error is not None]
        assert [(each.cell, each.sample) for each in failed] == [POISON, ("model0-row2", "v1q1")]
        assert all("its worker process has died" in str(each.error) for each in failed)
        good = [each for each in records(document, number) if each.error is None]
        assert good == [each for each in expected() if each.sample != "v1q1" or each in good]
        assert len(good) == 46
    assert list(home.iterdir()) == []
    assert list(short.iterdir()) == []
    settings = {name for name in document["after"] if name not in document["before"]}
    # The one that stays is of Ray's own making, when it is imported.
    assert {name for name in settings if name.startswith("RAY_")} <= {"RAY_CLIENT_MODE"}


def test_five_kills_of_a_ray_driver_change_nothing(
    tmp_path: Path, short: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(short))
    outcome = kill_at_random(
        lambda folder: command(folder, "--engine", "ray", "--delay", "0.15"),
        tmp_path,
        kills=5,
        longest=7.0,
        seed=7,
        grace=5.0,
        counts=is_worker,  # Ray's own agents take up to about a minute
    )
    assert len(outcome.moments) == 5
    assert outcome.orphans == []
    for folder in outcome.folders:
        found = [each for some in contents(folder).values() for each in some]
        assert sorted(found, key=lambda each: (each.cell, each.sample)) == expected()  # type: ignore[attr-defined]
