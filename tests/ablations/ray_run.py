"""Run a fake grid on Ray, and print what came of it as JSON in the last line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.ablations.fake_worker import FakeWorkers, grid
from tokenreduce.engines import engine
from tokenreduce.records import Record


def main(notes: str, asked: str) -> None:
    """Run it as ``asked`` says, in JSON: arguments of `engine`, delay, deaths and runs."""
    options = json.loads(asked)
    told: dict[str, object] = {"before": dict(os.environ)}
    deaths = tuple(tuple(each) for each in options.pop("deaths", ()))
    make = FakeWorkers(Path(notes), options.pop("delay", 0.0), deaths)
    videos = options.pop("videos", 4)
    for number in range(options.pop("runs", 1)):
        records: list[Record] = []
        with engine("ray", device="cpu", **options) as workers:
            print("ready", flush=True)
            failures = workers.run(grid(videos=videos), make, records.append)
            told[f"about{number}"] = workers.about()
        told[f"records{number}"] = [asdict(each) for each in records]
        told[f"failures{number}"] = [each.reason for each in failures]
    told["after"] = dict(os.environ)
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
