"""What a policy is worth: real episodes, an interval, a baseline; and a report that says so."""

import json

import numpy as np
import pytest
import tiny_run
import worldmodel as wm
from gymnasium import spaces
from worldmodel.data import RandomPolicy, collect
from worldmodel.train import evaluate
from worldmodel.train.evaluate import play_episodes
from worldmodel.train.report import state_probe, world_report, write_report

pytest.importorskip("pygame", reason='pip install "worldmodel[classic]" for CartPole')
RECIPE = {"env_id": "CartPole-v1", "pixels": "render", "frames": (32, 48)}


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    path = tmp_path_factory.mktemp("cartpole") / "replay"
    return collect("CartPole-v1", 60, (32, 48), path=path, pixels="render", progress=False)


@pytest.fixture(scope="module")
def world(replay):
    return wm.World.create(replay, backbone="unet", size="T", widths=(8, 16), depths=(1, 1), cond=16)


class Always:
    """One action for ever."""

    def __init__(self, action):
        self.action, self.seen = action, []

    def __call__(self, frames, first, state=None):
        self.seen.append((frames.shape, bool(first[0]), state))
        return [self.action] * len(frames), (state or 0) + 1


def test_real_episodes_with_interval_and_random_baseline():
    policy = Always(1)
    e = evaluate(policy, RECIPE, episodes=3, random_episodes=2, seed=5)
    assert e.returns.shape == (3,) and np.array_equal(e.returns, e.lengths), "CartPole pays 1 a step"
    assert (e.returns < 15).all() and e.mean.n == 3 and e.mean.low <= e.returns.mean() <= e.mean.high
    assert e.random.n == 2 and e.random.mean > 0
    assert "95 %, n = 3" in str(e) and "random" in str(e)
    firsts = [first for _, first, _ in policy.seen]
    assert sum(firsts) == 3 and policy.seen[0] == ((1, 32, 48, 3), True, None)
    assert [state for *_, state in policy.seen] == [None, *range(1, len(firsts))], "its memory is its own"
    again = evaluate(Always(1), RECIPE, episodes=3, random_episodes=2, seed=5)
    assert np.array_equal(again.returns, e.returns) and again.random == e.random


def test_a_policy_knows_its_environment(world, tmp_path):
    policy = wm.Policy.for_world(world, width=4, features=16)
    policy.save(tmp_path / "p.safetensors")
    policy = wm.Policy.load(tmp_path / "p.safetensors")
    assert policy.environment["env_id"] == "CartPole-v1" and policy.environment["frames"] == [32, 48]
    for env_id in (None, "CartPole-v1", world.config.environment):
        assert evaluate(policy, env_id, episodes=2).mean.n == 2


def test_an_environment_of_ones_own_is_shown_at_the_policy_s_size(world):
    import gymnasium as gym

    policy = wm.Policy.for_world(world, width=4, features=16)
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    assert evaluate(policy, env, episodes=2, pixels="render").mean.n == 2


def test_in_the_imagined_world(world, tmp_path):
    policy = wm.Policy.for_world(world, width=4, features=16)
    a = evaluate(policy, world=world, episodes=2, longest=7)
    assert (a.lengths <= 7).all()
    world.save(tmp_path / "w.safetensors")
    b = evaluate(policy, world=str(tmp_path / "w.safetensors"), episodes=2, longest=7)
    assert np.array_equal(a.returns, b.returns)


def test_wrong_use_is_one_clear_error(world):
    policy = wm.Policy.for_world(world, width=4, features=16)
    with pytest.raises(ValueError, match="at least 2"):
        evaluate(policy, episodes=1)
    with pytest.raises(ValueError, match="unknown environment 'CartPol-v1', did you mean CartPole-v1"):
        evaluate(policy, "CartPol-v1", episodes=2)
    with pytest.raises(ValueError, match=r"sees frames \(32, 48, 3\)"):
        evaluate(policy, RECIPE | {"frames": (16, 16)}, episodes=2)
    with pytest.raises(ValueError, match="acts in Discrete"):
        evaluate(policy, RECIPE | {"env_id": "MountainCar-v0"}, episodes=2)
    with pytest.raises(ValueError, match="say in which environment"):
        evaluate(Always(0), episodes=2)


def test_returns_are_sums_of_rewards_of_whole_episodes():
    class Scripted:
        action_space = spaces.Discrete(2)

        def reset(self, seed=None):
            self.n, self.length = 0, seed
            return np.zeros((1, 1, 1), np.uint8), {}

        def step(self, action):
            self.n += 1
            return np.zeros((1, 1, 1), np.uint8), 0.5 * self.n, self.n == self.length, False, {}

    returns, lengths = play_episodes(Always(0), Scripted(), 3, seed=1)
    assert lengths.tolist() == [1, 2, 3] and returns.tolist() == [0.5, 1.5, 3.0]
    assert play_episodes(RandomPolicy(Scripted.action_space, seed=0), Scripted(), 1, seed=9, longest=4)[1].tolist() == [
        4
    ]


def test_the_probe_reads_the_real_state(tmp_path):
    """Where a square stands is in the picture, so a linear map of the features finds it; a constant is NaN."""
    rng = np.random.default_rng(0)

    def episode():
        actions = rng.integers(0, 2, 12)
        x = np.clip(np.cumsum([rng.integers(2, 11), *(2 * actions - 1)]), 0, 12)
        frames = np.zeros((13, 16, 16, 3), np.uint8)
        for t, at in enumerate(x):
            frames[t, 6:10, at : at + 4] = 250
        state = np.stack([x, np.ones(13)], 1).astype(np.float32)
        return {"frames": frames, "actions": [int(a) for a in actions], "terminated": False, "proprio": state}

    replay = wm.Replay.from_arrays(tmp_path / "r", spaces.Discrete(2), (episode() for _ in range(40)))
    found = state_probe(tiny_run.make_world(replay), replay)
    assert found["names"] == ["proprio 0", "proprio 1"]
    assert found["real"]["1"][0] > 0.95 and found["features"]["1"][0] > 0.8
    for kind in ("real", "imagined", "features"):
        assert found[kind].keys() == {"1", "4"} and np.isnan(found[kind]["4"][1])
    assert found["real"]["4"][0] > 0.95 > found["imagined"]["4"][0]  # a world that has not learned forgets it
    assert state_probe(tiny_run.make_world(replay), tiny_run.make_replay(tmp_path / "none")) is None


def test_reports_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason='pip install "worldmodel[plots]"')
    replay = tiny_run.make_replay(tmp_path / "replay", episodes=8, steps=12)
    world = tiny_run.make_world(replay)
    about = world_report(world, replay, tmp_path, count=4, drift=5)
    assert {"1", "2", "3", "4"} <= set(about["psnr"]) == set(about["copy_last"]) and about["rollouts_4"] >= 2
    assert about["psnr"]["1"] == about["copy_last"]["1"], "an untrained UNet copies the last frame"
    assert about["action_shuffle_ratio"] == 1.0
    about |= {
        "env": "Squares",
        "command": "test",
        "machine": "any",
        "seconds": {},
        "seconds_total": 1.0,
        "real_return_mean": 1.0,
        "real_return_ci95": [0.0, 2.0],
        "real_returns": [0.0, 2.0],
        "real_episodes": 2,
        "real_length_mean": 5.0,
        "real_steps": 100,
        "random_return_mean": 0.0,
        "random_return_ci95": [0.0, 0.0],
        "random_episodes": 2,
        "stages": {},
    }
    write_report(tmp_path, about)
    assert json.loads((tmp_path / "report.json").read_text())["psnr"] == about["psnr"]
    text = (tmp_path / "report.md").read_text()
    assert "Real return **1.0**" in text and "| 1 |" in text and "nan" not in text.split("| 1 |")[1].split("\n")[0]
    for name in ("real-against-imagined.png", "curves.png", "drift.png", "returns.png"):
        assert (tmp_path / name).stat().st_size > 500, name
