"""Writes a benchmark as a task of lmms-eval: questions, a YAML file and the functions it names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tokenreduce.config import written
from tokenreduce.errors import ConfigError
from tokenreduce.lmms.exported import doc_of

if TYPE_CHECKING:
    from tokenreduce.benchmark import Benchmark, Sample

FUNCTIONS = ("doc_to_messages", "doc_to_visual", "doc_to_text", "doc_to_target", "process_results")

_MODULE = '''"""Functions of the task '{name}', written by `tokenreduce export-lmms`."""

from tokenreduce.lmms.exported import ExportedTask

task = ExportedTask({benchmark!r})
{functions}
'''


def export_task(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    folder: Path,
    *,
    name: str,
    max_new_tokens: int = 16,
) -> list[Path]:
    """Write a task; ``lmms-eval eval --include_path FOLDER --tasks NAME`` runs it offline.

    Videos stay where they are: the questions hold their absolute paths.

    Parameters
    ----------
    benchmark
        Says when an answer is right.
    samples
        Its questions.
    folder
        Made if need be; files of a task of the same name in it are written anew.
    name
        Of the task, its YAML file and its questions.
    max_new_tokens
        Longest answer.

    Returns
    -------
    list
        The files.

    Raises
    ------
    ConfigError
        If the name is none, there is no question, or the folder cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"task name '{name}': write letters, digits, '_' and '-' only.")
    if not samples:
        raise ConfigError(f"the benchmark '{benchmark.name}' has no question to export.")
    questions = folder.resolve() / f"{name}.jsonl"
    lines = [json.dumps(doc_of(sample), ensure_ascii=False) + "\n" for sample in samples]
    module = f"{name.replace('-', '_')}_utils"
    text = {
        questions: "".join(lines),
        folder / f"{name}.yaml": _yaml(name, module, questions, max_new_tokens),
        folder / f"{module}.py": _MODULE.format(
            name=name,
            benchmark=written(benchmark),
            functions="\n".join(f"{each} = task.{each}" for each in FUNCTIONS),
        ),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in text.items():
            file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the task cannot be written to '{folder}' ({error.strerror}): give another folder."
        ) from error
    return list(text)


def _yaml(name: str, module: str, questions: Path, max_new_tokens: int) -> str:
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "output_type": "generate_until",
        "generation_kwargs": {"max_new_tokens": max_new_tokens, "do_sample": False, "until": []},
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": [{"version": 1}],
    }
    # What names a function is no plain YAML: lmms-eval reads the tag.
    named = "".join(f"{each}: !function {module}.{each}\n" for each in FUNCTIONS)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) + named
