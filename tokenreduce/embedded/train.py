"""Train the embedded model from a seed: `python -m tokenreduce.embedded.train --out DIR`.

Takes about an hour on 2 CPU cores with bf16 instructions, then measures the model for some minutes
and writes its card. Two processes with one thread each share every batch (one process with two
threads is several times slower). The result depends on the seed only: not on the number of
processes, and not on whether the run was stopped and started again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from tokenreduce.embedded import recipe
from tokenreduce.embedded.losses import TIME_HEAD
from tokenreduce.embedded.optimiser import Progress, Row, Weights, load, save
from tokenreduce.embedded.recipe import STAGES, Stage

SHARDS = 2  # halves of every batch, whatever the number of processes
LOG_EVERY = 25  # steps
SAVE_EVERY = 200  # steps
CHECKPOINT = "checkpoint.pt"
# Fresh large blocks cost page faults at every step; glibc keeps them with these settings.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}

Hits = dict[str, tuple[float, float]]


@dataclass
class _Window:
    """Sums since the last line of the log."""

    losses: list[float] = field(default_factory=list)
    hits: Hits = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)

    def add(self, loss: float, hits: Hits) -> None:
        self.losses.append(loss)
        _sum_into(self.hits, hits)

    def row(self, stage: str, step: int, seconds: float, rate: float) -> Row:
        loss = round(sum(self.losses) / len(self.losses), 4)
        row: Row = {"stage": stage, "step": step, "seconds": round(seconds, 1), "loss": loss}
        row["rate"] = rate
        return row | {k: round(right / n, 3) for k, (right, n) in self.hits.items() if n}

    def line(self, row: Row, steps: int) -> str:
        pace = (time.monotonic() - self.begin) / len(self.losses)
        left = pace * (steps - int(row["step"])) / 60
        scores = " ".join(f"{name}={row[name]:.2f}" for name in self.hits if name in row)
        return (
            f"[{time.strftime('%H:%M:%S')}] {row['stage']} {row['step']}/{steps} "
            f"loss {row['loss']:.3f} {pace:.2f} s/step, stage ends in {left:.1f} min | {scores}"
        )


def _sum_into(total: Hits, more: Hits) -> None:
    for name, (right, asked) in more.items():
        old = total.get(name, (0.0, 0.0))
        total[name] = (old[0] + right, old[1] + asked)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def one_step(
    weights: Weights, stage: Stage, index: int, step: int, steps: int, seed: int, shards: range
) -> tuple[Tensor, float, Hits]:
    """Return the summed gradient, the mean loss and the hits of the given shards."""
    total = torch.zeros_like(weights.master)
    loss_sum, hits_sum = 0.0, Hits()
    for shard in shards:
        weights.slope.zero_()
        batch = recipe.make_batch(stage, index, step, shard, SHARDS, seed)
        loss, hits = recipe.loss_and_hits(weights.live, stage, batch, step / steps, weights.dtype)
        loss.backward()  # type: ignore[no-untyped-call]
        total += weights.slope.float()
        loss_sum += float(loss.detach())
        _sum_into(hits_sum, hits)
    return total, loss_sum / len(shards), hits_sum


class _Worker:
    """One process of a run; the first of them writes log and checkpoints."""

    def __init__(self, rank: int, processes: int, args: argparse.Namespace, parent: int) -> None:
        self.chief, self.processes, self.args, self.parent = rank == 0, processes, args, parent
        self.shards = range(rank, rank + 1) if processes == SHARDS else range(SHARDS)
        self.settings = settings(args)
        dtype = torch.float32 if args.float32 else torch.bfloat16
        self.weights = Weights(recipe.initial_weights(args.seed), dtype)
        self.path: Path = args.out / CHECKPOINT
        resumed = self.path.exists()
        self.at = load(self.path, self.weights, self.settings) if resumed else Progress()
        self.begin = time.monotonic() - self.at.seconds
        self.taken = 0

    def keep(self, path: Path) -> None:
        """Save the state, if this process is the one that does."""
        self.at.seconds = time.monotonic() - self.begin
        if self.chief:
            save(path, self.weights, self.at, self.settings)

    def stopped(self) -> bool:
        """Return whether to stop: as asked, or because the parent process was killed."""
        if self.args.stop_after is not None and self.taken >= self.args.stop_after:
            self.keep(self.path)
            return True
        return self.processes > 1 and os.getppid() != self.parent

    def step(self, stage: Stage, steps: int) -> tuple[float, float, Hits]:
        """Take one step; return loss, learning rate and hits."""
        at, seed = self.at, self.args.seed
        gradient, loss, hits = one_step(
            self.weights, stage, at.stage, at.step, steps, seed, self.shards
        )
        if self.processes > 1:
            dist.all_reduce(gradient)
        gradient /= SHARDS
        at.updates += 1
        rate = recipe.learning_rate(stage, at.step, steps)
        self.weights.update(gradient, rate, at.updates, stage.vision_only)
        at.step += 1
        self.taken += 1
        return loss, rate, hits

    def run_stage(self, stage: Stage) -> bool:
        """Go through the rest of a stage; False: stopped before its end."""
        at, steps = self.at, max(1, round(stage.steps * self.args.scale))
        window = _Window()
        while at.step < steps:
            if self.stopped():
                return False
            loss, rate, hits = self.step(stage, steps)
            window.add(loss, hits)
            if at.step % LOG_EVERY == 0 or at.step == steps:
                at.seconds = time.monotonic() - self.begin
                row = window.row(stage.name, at.step, at.seconds, rate)
                at.curve.append(row)
                if self.chief:
                    _say(window.line(row, steps))
                window = _Window()
            if at.step % SAVE_EVERY == 0:
                self.keep(self.path)
        at.stage, at.step = at.stage + 1, 0
        if stage.vision_only:  # the decoder starts with clean moments
            at.updates = 0
            self.weights.forget()
        self.keep(self.path)
        return True


def work(rank: int, processes: int, args: argparse.Namespace, port: int, parent: int) -> None:
    """Train as process `rank` of `processes`, children of `parent`."""
    torch.set_num_threads(1)
    if processes > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", address, rank=rank, world_size=processes)
    worker = _Worker(rank, processes, args, parent)
    while worker.at.stage < len(STAGES):
        if not worker.run_stage(STAGES[worker.at.stage]):
            return
        if worker.chief:
            write_curve(args.out / "curve.csv", worker.at.curve)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def write_curve(path: Path, curve: list[Row]) -> None:
    """Write the training curve as csv, one row per logging interval."""
    columns = list(dict.fromkeys(name for row in curve for name in row))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)


def settings(args: argparse.Namespace) -> dict[str, float | bool]:
    """Return what a run must not change when it is resumed."""
    return {"seed": args.seed, "scale": args.scale, "float32": args.float32}


def finish(args: argparse.Namespace) -> None:
    """Write the model directory, measure it on the benchmark, and write its card."""
    from tokenreduce.embedded.benchmark import EmbeddedBenchmark
    from tokenreduce.embedded.card import model_card
    from tokenreduce.embedded.evaluate import evaluate
    from tokenreduce.embedded.export import export

    def progress(done: int, total: int, what: str) -> None:
        if done % 20 == 0 or done == total:
            _say(f"{what}: {done}/{total}")

    weights = Weights(recipe.initial_weights(args.seed), torch.float32)
    at = load(args.out / CHECKPOINT, weights, settings(args))
    model = args.out / "model"
    export(weights.tensors(), model)
    write_curve(model / "curve.csv", at.curve)
    samples = EmbeddedBenchmark(split="full").samples(progress)
    measured = evaluate(model, samples, progress=progress)
    (model / "measured.json").write_text(json.dumps(measured, indent=1) + "\n")
    sizes = {name: t.numel() for name, t in weights.tensors().items()}
    card = model_card(
        measured=measured,
        curve=at.curve,
        clips={stage.name: stage.described() for stage in STAGES},
        seed=args.seed,
        parameters=sum(sizes.values()) - sizes[TIME_HEAD],
        bytes_on_disk=(model / "model.safetensors").stat().st_size,
    )
    (model / "README.md").write_text(card)
    _say(f"model and card: {model}")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tokenreduce.embedded.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("embedded-run"), help="checkpoints and model go here")
    add("--seed", type=int, default=0)
    add("--scale", type=float, default=1.0, help="factor on the steps of every stage")
    add("--processes", type=int, choices=(1, 2), default=2)
    add("--stop-after", type=int, help="stop after this many steps; run again to go on")
    add("--float32", action="store_true", help="train in float32 (slower)")
    add("--restart", action="store_true", help="ignore an existing checkpoint")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, going on from the checkpoint in the output folder if there is one."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.restart:
        (args.out / CHECKPOINT).unlink(missing_ok=True)
    if args.processes == 1:
        work(0, 1, args, 0, 0)
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        os.environ.update(ALLOCATOR)
        setup = (args.processes, args, port, os.getpid())
        spawn(  # type: ignore[no-untyped-call]
            work, args=setup, nprocs=args.processes
        )
    stored = torch.load(args.out / CHECKPOINT, weights_only=True)
    if stored["progress"]["stage"] == len(STAGES):
        finish(args)


if __name__ == "__main__":
    main()
