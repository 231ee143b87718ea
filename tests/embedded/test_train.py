"""Training: the loss falls, a stopped run goes on as if it had not been, and ends in a model."""

import json

import pytest
import torch

from tokenreduce.embedded import benchmark, lean, recipe, train
from tokenreduce.embedded.benchmark import Group
from tokenreduce.embedded.evaluate import load_weights
from tokenreduce.embedded.questions import VOCABULARY
from tokenreduce.embedded.recipe import Stage

TINY = (
    Stage("vision", 2, {1: (1.0, 4)}, 1e-3, 1e-4, see=(1.0, 1.0), vision_only=True, warmup=2),
    Stage("single", 2, {1: (1.0, 2)}, 1e-3, 1e-3, blind=1.0, see=(0.3, 0.3), tell=(0.3, 0.3)),
    Stage("video", 2, {4: (1.0, 2)}, 1e-3, 1e-4, blind=0.5, see=(0.3, 0), tell=(0.3, 0)),
)


def run(out, *more):
    train.main(["--out", str(out), "--processes", "1", *more])
    return torch.load(out / train.CHECKPOINT, weights_only=True)


def test_twenty_steps_lower_the_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOG_EVERY", 5)
    curve = run(tmp_path, "--stop-after", "20")["progress"]["curve"]
    losses = [row["loss"] for row in curve]
    assert len(losses) == 4
    assert losses[-1] < 0.75 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STAGES", TINY)
    monkeypatch.setattr(train, "finish", lambda args: None)
    whole = run(tmp_path / "whole")
    pieces = run(tmp_path / "pieces", "--stop-after", "3")
    assert (pieces["progress"]["stage"], pieces["progress"]["step"]) == (1, 1)
    pieces = run(tmp_path / "pieces")
    assert pieces["progress"]["stage"] == len(TINY)
    for name in ("master", "first", "second"):
        assert torch.equal(whole[name], pieces[name])


def test_a_checkpoint_of_another_seed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STAGES", TINY)
    run(tmp_path, "--stop-after", "1")
    with pytest.raises(SystemExit, match="another --out"):
        run(tmp_path, "--seed", "1")


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    one = run(tmp_path / "one", "--stop-after", "3")
    train.main(["--out", str(tmp_path / "two"), "--processes", "2", "--stop-after", "3"])
    two = torch.load(tmp_path / "two" / train.CHECKPOINT, weights_only=True)
    assert torch.equal(one["master"], two["master"])


def test_a_batch_is_a_function_of_its_place_in_the_schedule():
    stage = TINY[2]
    same = [recipe.make_batch(stage, 2, 1, shard, 2, 0) for shard in (0, 0, 1)]
    assert (same[0].clips.pixels == same[1].clips.pixels).all()
    assert same[0].clips.frames == same[2].clips.frames  # shards share the length
    assert (same[0].clips.shape != same[2].clips.shape).any()


def test_every_loss_reaches_every_weight_it_should():
    weights = train.Weights(recipe.initial_weights(0), torch.float32)
    batch = recipe.make_batch(TINY[2], 2, 0, 0, 2, 0)
    loss, hits = recipe.loss_and_hits(weights.live, TINY[2], batch, 0.5, torch.float32)
    loss.backward()
    still = [n for n, t in weights.live.items() if not t.grad.abs().sum() > 0]
    assert all("post_layernorm" in n for n in still), still
    assert {"order", "hop", "see_motion", "see_ordinal"} <= set(hits)


def test_the_schedule_warms_up_and_falls():
    stage = train.STAGES[-1]
    rates = [recipe.learning_rate(stage, s, stage.steps) for s in range(stage.steps)]
    assert rates[0] < 0.1 * stage.peak
    assert max(rates) <= stage.peak
    assert rates[-1] == pytest.approx(stage.end, rel=0.01)


def test_a_finished_run_writes_a_model_with_measured_card(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(benchmark, "SPLITS", {"full": (Group(8, 2, 11),)})
    monkeypatch.setattr(train, "STAGES", TINY)
    run(tmp_path, "--scale", "0.5")
    model = tmp_path / "model"
    measured = json.loads((model / "measured.json").read_text())
    asked = {s["all"]["all"][1] for s in measured.values()}
    assert len(asked) == 1
    card = (model / "README.md").read_text()
    right, total = measured["none"]["all"]["all"]
    assert f"| all | {right / total:.3f} | {right / total:.3f} | {total} |" in card
    assert "{" not in card
    for stage in TINY:
        assert f"| {stage.name} | {max(1, round(stage.steps / 2))} |" in card
    assert (model / "curve.csv").read_text().startswith("stage,step,seconds,loss,rate")
    loaded = load_weights(model)
    trained = torch.load(tmp_path / train.CHECKPOINT, weights_only=True)["master"]
    embedding = loaded[lean.EMBEDDING]
    assert embedding.shape == (len(VOCABULARY), 128)
    assert any(torch.equal(piece, embedding) for piece in windows(trained, embedding))


def windows(flat, like):
    """Pieces of the flat weights, rounded as in the file, where the first value of `like` is."""
    rounded = flat.bfloat16().float()
    for start in (rounded == like.flatten()[0]).nonzero().flatten().tolist():
        piece = rounded[start : start + like.numel()]
        if piece.numel() == like.numel():
            yield piece.view(like.shape)
