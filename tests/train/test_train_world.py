"""Training a world: it learns, and whatever happens to it, nothing is lost and no bit changes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import worldmodel as wm
from worldmodel.checkpoint import read_metadata
from worldmodel.models.dynamics import Window
from worldmodel.train.loop import Budget, Diverged, Run
from worldmodel.train.rare import RareSteps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    world, result = tiny_run.train(folder)
    return folder, world.state_dict(), result


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def rows(folder):
    return [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]


# ---- killed and resumed ----


def killed(folder, number, line):
    """Run the program, send it a signal once its log has so many lines; returns what it printed."""
    process = subprocess.Popen([sys.executable, tiny_run.__file__, str(folder)], stdout=subprocess.PIPE, text=True)
    saved = Path(folder) / "run" / "state.safetensors"
    until = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        try:
            if saved.exists() and read_metadata(saved)["run"]["step"] >= line:
                break
        except ValueError:
            pass
        time.sleep(0.01)
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=300)
    return out.strip()


@pytest.mark.parametrize("step", [4, 8])
def test_killed_outright_it_goes_on_bit_for_bit(undisturbed, tmp_path, step):
    assert killed(tmp_path, signal.SIGKILL, step) == ""
    world, result = tiny_run.train(tmp_path)
    assert same(world.state_dict(), undisturbed[1]) and result["psnr"] == undisturbed[2]["psnr"]
    assert rows(tmp_path) == rows(undisturbed[0]), "the log has every line once"


def test_interrupted_it_saves_says_so_and_goes_on_bit_for_bit(undisturbed, tmp_path):
    assert killed(tmp_path, signal.SIGINT, 4) == "stopped"
    assert 4 <= read_metadata(tmp_path / "run" / "state.safetensors")["run"]["step"] < tiny_run.STEPS
    assert wm.World.load(tmp_path / "world.safetensors").parameter_count() > 0
    world, result = tiny_run.train(tmp_path)
    assert same(world.state_dict(), undisturbed[1]) and not result["stopped"]


def test_a_finished_run_changes_no_more(undisturbed):
    folder, weights, result = undisturbed
    world, again = tiny_run.train(folder)
    assert same(world.state_dict(), weights) and again["steps"] == tiny_run.STEPS and again["psnr"] == result["psnr"]


def test_another_world_or_replay_in_the_same_folder_is_refused(undisturbed, tmp_path):
    folder = undisturbed[0]
    replay = wm.Replay.open(folder / "replay")
    other = wm.World.create(replay, backbone="unet", size="T", widths=(8, 24), depths=(1, 1), cond=16)
    with pytest.raises(ValueError, match="not the state of this world"):
        wm.train_world(other, replay, **tiny_run.SETTINGS, run=str(folder / "run"))
    longer = tiny_run.make_replay(tmp_path / "longer", episodes=7)
    with pytest.raises(ValueError, match="the state is of"):
        wm.train_world(tiny_run.make_world(longer), longer, **tiny_run.SETTINGS, run=str(folder / "run"))


def test_a_truncated_state_is_refused(undisturbed, tmp_path):
    (tmp_path / "run").mkdir()
    whole = (undisturbed[0] / "run" / "state.safetensors").read_bytes()
    (tmp_path / "run" / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="state.safetensors: not a whole"):
        tiny_run.train(tmp_path)


# ---- what a run leaves ----


def test_a_run_logs_and_keeps_the_best_by_roll_outs(undisturbed):
    folder, weights, result = undisturbed
    assert result["steps"] == tiny_run.STEPS and len(result["psnr"]) == 2
    log = rows(folder)
    assert {"frames", "reward", "termination", "lr", "grad_norm_frames"} <= log[1].keys() and log[1]["step"] == 10
    scores = {r["step"]: np.mean([r["psnr_1"], r["psnr_2"]]) for r in log if "psnr_1" in r}
    assert list(scores) == [5, 10, 12] and scores[result["best_step"]] == max(scores.values())
    best = wm.World.load(folder / "run" / "best.safetensors")
    assert same(best.state_dict(), weights)
    assert json.loads((folder / "run" / "settings.json").read_text())["batch"] == 2


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    pytest.importorskip("tensorboardX", reason='pip install "worldmodel[tensorboard]"')
    run = Run(tmp_path, {})
    run.log(1, frames=0.5)
    run.close()
    events = b"".join(f.read_bytes() for f in tmp_path.glob("events.out.tfevents*"))
    assert b"frames" in events


def test_the_best_is_not_the_last_when_roll_outs_get_worse(tmp_path, monkeypatch):
    curves = iter([[20.0, 20.0], [30.0, 30.0], [25.0, 25.0]])
    monkeypatch.setattr("worldmodel.train.world.rollout_psnr", lambda *a, **k: next(curves))
    world, result = tiny_run.train(tmp_path)
    assert result["best_step"] == 10 and result["psnr"] == [25.0, 25.0]
    assert read_metadata(tmp_path / "run" / "best.safetensors")["worldmodel"]["step"] == 10
    assert same(world.state_dict(), wm.World.load(tmp_path / "run" / "best.safetensors").state_dict())


def test_without_a_folder_it_writes_nothing(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replay = wm.Replay.open(undisturbed[0] / "replay")
    world = tiny_run.make_world(replay)
    wm.train_world(world, replay, **tiny_run.SETTINGS)
    assert not list(tmp_path.iterdir()) and same(world.state_dict(), undisturbed[1])


# ---- NaN ----


def test_nan_stops_it_with_the_best_weights_kept(tmp_path, monkeypatch):
    losses = wm.World.losses
    calls = iter(range(100))

    def poisoned(self, window, stream):
        out = losses(self, window, stream)
        return {k: v * float("nan") for k, v in out.items()} if next(calls) == 7 else out

    monkeypatch.setattr(wm.World, "losses", poisoned)
    replay = tiny_run.make_replay(tmp_path / "replay")
    world = tiny_run.make_world(replay)
    with pytest.raises(Diverged, match="step 7.*not finite.*kept"):
        wm.train_world(world, replay, **tiny_run.SETTINGS, run=str(tmp_path / "run"))
    best = wm.World.load(tmp_path / "run" / "best.safetensors")
    assert same(world.state_dict(), best.state_dict())
    assert all(np.isfinite(v).all() for v in world.state_dict().values())
    assert read_metadata(tmp_path / "run" / "state.safetensors")["run"]["step"] == 6


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    run = Run(tmp_path, {})
    run.log(1, frames=0.5)
    with pytest.raises(Diverged, match="step 2: frames is not finite"):
        run.log(2, frames=float("inf"), reward=1.0)
    run.close()
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[1]) == {
        "step": 2,
        "frames": None,
        "reward": 1.0,
    }


# ---- how long ----


def test_a_budget_of_minutes_ends_in_time_and_pauses_do_not_count():
    budget = Budget(None, 0.5 / 60, "test", quiet=True)
    began, turns = time.monotonic(), 0
    for _ in budget:
        turns += 1
        time.sleep(0.05)
        with budget.pause():
            time.sleep(0.05)
    assert 0.5 <= budget.seconds < 2 and turns > 1 and time.monotonic() - began > 0.5 + 0.04 * turns
    assert budget.fraction == 1.0


def test_a_budget_needs_an_end():
    for steps, minutes in ((None, None), (-1, None), (None, float("nan"))):
        with pytest.raises(ValueError, match="steps"):
            Budget(steps, minutes, "test")
    assert list(Budget(0, None, "test", quiet=True)) == [] and list(Budget(3, 60, "test", quiet=True)) == [
        0,
        1,
        2,
    ]


def test_a_budget_of_minutes_trains(tmp_path):
    _, result = tiny_run.train(tmp_path, steps=None, minutes=0.02)
    assert result["steps"] >= 1 and result["seconds"] >= 1.2 and not result["stopped"]


# ---- rare events ----


def test_rare_windows_end_in_rare_steps_and_weights_undo_the_bias(tmp_path):
    replay = tiny_run.make_replay(tmp_path / "replay")
    rare = RareSteps(replay, 3)
    rng = np.random.default_rng(0)
    window = Window.of(b := rare.draw(rng, 64), replay.features(b))
    rewards, ends = window.rewards.numpy()[:, -1], window.terminated.numpy()[:, -1]
    counts = {}
    for e in replay:
        for r, t in list(zip(e.rewards, e.terminated, strict=True))[1:]:
            counts[(float(r), bool(t))] = counts.get((float(r), bool(t)), 0) + 1
    common = max(counts, key=counts.get)
    drawn = {(float(r), bool(t)) for r, t in zip(rewards, ends, strict=True)}
    assert drawn == set(counts) - {common} and len(rare) == sum(n for k, n in counts.items() if k != common)
    assert window.frame_weight.numpy()[:, -1].all() and window.step_weight.numpy()[:, -1].all()


# ---- it learns ----


def test_it_learns_where_the_square_goes(tmp_path):
    replay = tiny_run.make_replay(tmp_path / "replay", episodes=12)
    world = tiny_run.make_world(replay)
    result = wm.train_world(
        world,
        replay,
        steps=150,
        batch=8,
        rare=0,
        lr=4e-3,
        warmup=20,
        evaluate_every=0,
        held_out=0,
        horizon=1,
        rollouts=16,
        quiet=True,
    )
    from worldmodel.train.world import rollout_psnr

    still = rollout_psnr(tiny_run.make_world(replay), replay, 16, 1)[0]  # untrained, it copies the last frame
    assert result["psnr"][0] > still + 3
    assert result["psnr"][0] > rollout_psnr(world, replay, 16, 1, shuffled=True)[0] + 1
