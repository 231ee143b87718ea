"""`tokenreduce ablate`: what it refuses, what it prints, and that it goes on where it was."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

GRID = """
limit: 3
timing: false
reducers:
  fastv: {ratio: {sweep: [0.3, 0.5]}}
"""


def written(folder: Path, text: str = GRID) -> str:
    file = folder / "grid.yaml"
    file.write_text(text)
    return str(file)


def test_a_dry_run_prints_the_cells_and_their_cost(command: Command, tmp_path: Path) -> None:
    done = command("ablate", written(tmp_path), "--dry-run")
    document = json.loads(done.stdout.splitlines()[-1])
    assert [cell["label"] for cell in document["setups"][0]["cells"]] == [
        "keep_all",
        "fastv ratio=0.3",
        "fastv ratio=0.5",
    ]
    assert document["answers"] == 9


def test_a_grid_runs_and_is_resumed(command: Command, tmp_path: Path) -> None:
    grid, out = written(tmp_path), str(tmp_path / "results")
    done = command("ablate", grid, "--out", out, "--workers", "0")
    (table,) = json.loads(done.stdout.splitlines()[-1])["tables"]
    assert [row["label"] for row in table["rows"]] == [
        "keep_all",
        "fastv ratio=0.3",
        "fastv ratio=0.5",
    ]
    more = ["--set", "reducers.random={}", "--workers", "0"]
    again = command("ablate", grid, "--out", out, *more)
    (table,) = json.loads(again.stdout.splitlines()[-1])["tables"]
    assert [row["label"] for row in table["rows"]][-1] == "random"


def test_errors_name_the_file_and_the_path(command: Command, tmp_path: Path) -> None:
    grid = written(tmp_path, GRID.replace("0.5", "1.5"))
    done = command("ablate", grid, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert f"1 error in '{grid}'" in done.stderr
    assert "reducers.fastv.ratio: 1.5 is not valid" in done.stderr
    assert not (tmp_path / "out").exists()


def test_results_need_a_place(command: Command, tmp_path: Path) -> None:
    done = command("ablate", written(tmp_path))
    assert done.returncode == 2
    assert "--out DIR" in done.stderr


def test_schema_of_a_grid_lets_values_be_swept(command: Command) -> None:
    schema = json.loads(command("config", "--grid").stdout)
    sweep = {"$ref": "#/$defs/sweep"}
    assert sweep in schema["properties"]["frames"]["anyOf"]
    assert sweep in schema["$defs"]["reducer.vas"]["properties"]["ratio"]["anyOf"]
    assert sweep in schema["properties"]["budget"]["properties"]["flops"]["anyOf"]
    assert "anyOf" not in schema["properties"]["seeds"]
    assert {"zip", "only", "except", "timing", "pictures", "baselines"} <= set(schema["properties"])
