"""The scoring of the tasks that the paper reports, by lmms-eval's own functions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lmms.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Their data cannot be had without a network: questions are made up, in the published columns.
SCRIPT = """
import importlib, json
from pathlib import Path
from tokenreduce.benchmark import Sample
from tokenreduce.lmms.tasks import Task

class Stand:
    OUTPUT_TYPE = "generate_until"
    def __init__(self, module, process, mean, metric, docs):
        utils = importlib.import_module(f"lmms_eval.tasks.{module}.utils")
        self.process_results = getattr(utils, process)
        self._means = {"submission": None, metric: getattr(utils, mean)}
        self.docs = docs
    def aggregation(self): return self._means
    def get_config(self, key): return None
    def has_test_docs(self): return True
    def test_docs(self): return self.docs

videomme = {"question_id": "1", "duration": "short", "domain": "Knowledge", "videoID": "v",
            "sub_category": "Astronomy", "task_type": "Counting Problem", "answer": "B"}
mvbench = {"candidates": ["a cup", "a ball"], "answer": "a ball"}
mlvu = {"task_type": "count", "question": "how many?", "answer": "B"}
long = {"id": "1", "duration_group": 15, "question_category": "S2E", "correct_choice": 1,
        **{f"option{n}": f"thing {n}" for n in range(5)}}
ego = {"video_idx": "v", "answer": "1", "option": [f"{c}. does {c}" for c in "ABCDE"]}
TASKS = {
    "videomme": ("videomme", "videomme_process_results", "videomme_aggregate_results",
                 "videomme_perception_score", videomme),
    "mvbench": ("mvbench", "mvbench_process_results", "mvbench_aggregate_results",
                "mvbench_accuracy", mvbench),
    "mlvu_dev": ("mlvu", "mlvu_process_results", "mlvu_aggregate_results_dev",
                 "mlvu_percetion_score", mlvu),
    "longvideobench": ("longvideobench", "longvideobench_process_results",
                       "longvideobench_aggregate_results", "lvb_acc", long),
    "egoschema": ("egoschema", "egoschema_process_results_generation", "egoschema_aggregate_score",
                  "score", ego),
}
for name, (module, process, mean, metric, doc) in TASKS.items():
    task = Task(name, Stand(module, process, mean, metric, [doc]), None, "auto")
    sample = Sample("1", Path("v.mp4"), "q?", "B", name)
    said = ["B", "(B)", "B. a ball", "A", "C"]
    print(json.dumps([name, [task.right(0, sample, each) for each in said]]))
"""


def test_letters_are_right_and_wrong(lmms_run: Run) -> None:
    done = lmms_run("python", "-c", SCRIPT)
    lines: list[Any] = [json.loads(line) for line in done.stdout.splitlines() if line[:2] == '["']
    found = dict(lines)
    assert found == {
        name: [True, True, True, False, False]
        for name in ("videomme", "mvbench", "mlvu_dev", "longvideobench", "egoschema")
    }
