"""The DiT as a world: made from a replay, trained by the loop, saved, loaded, stepped as a Gymnasium
environment."""

import gymnasium as gym
import numpy as np
import pytest
import worldmodel as wm
from worldmodel.train import train_world

TINY = dict(
    width=32, layers=2, head_width=16, time_every=2, patch=4, stem=4, window=4, context=2, features=8, slots=4
)


def ball(n, rng):
    """A bright square that an action moves left or right."""
    x, frames, actions = 6, [], rng.integers(0, 2, n)
    for t in range(n + 1):
        f = np.full((16, 16, 3), 30, np.uint8)
        f[6:10, x : x + 4] = 220
        frames.append(f)
        if t < n:
            x = int(np.clip(x + (2 if actions[t] else -2), 0, 12))
    return {
        "frames": np.stack(frames),
        "actions": actions,
        "rewards": actions.astype(float),
        "terminated": True,
        "truncated": False,
    }


@pytest.fixture
def replay(tmp_path):
    rng = np.random.default_rng(0)
    space = gym.spaces.Discrete(2)
    return wm.Replay.from_arrays(tmp_path / "replay", space, [ball(12, rng) for _ in range(6)])


@pytest.fixture
def one_thread():
    before = wm.threads()
    wm.set_threads(1)
    yield
    wm.set_threads(before)


def test_a_dit_world_from_replay_to_environment(replay, tmp_path):
    world = wm.World.create(replay, backbone="dit", size="T", starts=4, **TINY)
    train_world(world, replay, steps=6, batch=8, evaluate_every=3, rollouts=2, horizon=2, quiet=True)
    world.save(tmp_path / "world.safetensors")
    again = wm.World.load(tmp_path / "world.safetensors")
    frames = [np.stack(list(play(w, 3))) for w in (world, again)]
    assert np.array_equal(*frames) and frames[0].shape == (4, 16, 16, 3)


def play(world, n):
    env = gym.make("worldmodel/Imagined-v0", world=world)
    frame, _ = env.reset(seed=3)
    yield frame
    for t in range(n):
        frame, reward, terminated, truncated, _ = env.step(t % 2)
        assert np.isfinite(reward)
        yield frame
        if terminated or truncated:
            frame, _ = env.reset(seed=4)
    env.close()


def test_it_learns_which_way_an_action_moves(replay, one_thread):
    """After a minute at most: what it imagines under the true actions is far nearer to what happened than
    under others."""
    wm.seed(0)
    world = wm.World.create(replay, backbone="dit", size="T", starts=1, **{**TINY, "layers": 3, "width": 48})
    train_world(
        world,
        replay,
        steps=300,
        batch=12,
        lr=3e-3,
        evaluate_every=0,
        rollouts=2,
        horizon=2,
        held_out=0,
        outcome_batch=4,
        ema=0.98,
        quiet=True,
    )
    rng, truth, guess, other = np.random.default_rng(7), [], [], []
    for seed in range(8):
        e = ball(10, rng)
        led = np.concatenate([[0], e["actions"]])
        features = world.features(led)
        s = world.sampler(2, steps=1)
        past = np.repeat(e["frames"][None, 4:6], 2, 0)
        s.reset(past, np.repeat(features[None, 4:6], 2, 0), seeds=[seed, seed])
        flipped = world.features(1 - led)
        step = s.step(np.stack([features[6], flipped[6]]))
        truth.append(e["frames"][6].astype(float))
        guess.append(step.frames[0])
        other.append(step.frames[1])
    error = np.square(np.stack(guess) - np.stack(truth)).mean()
    wrong = np.square(np.stack(other) - np.stack(truth)).mean()
    assert error < 0.4 * wrong, (error, wrong)
