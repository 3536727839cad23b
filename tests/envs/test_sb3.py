"""sb3: imagined environments as Stable-Baselines3's VecEnv, beside its own DummyVecEnv of single ones."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import tiny
from worldmodel.envs import ID


def test_without_it_the_pip_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env", None)
    monkeypatch.delitem(sys.modules, "worldmodel.envs.sb3", raising=False)
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[sb3\]"'):
        import worldmodel.envs.sb3  # noqa: F401


@pytest.fixture
def sb3():
    return pytest.importorskip("stable_baselines3", reason='pip install "worldmodel[sb3]"')


@pytest.fixture
def VecEnv(sb3):
    from worldmodel.envs.sb3 import VecEnv

    return VecEnv


def test_it_is_the_dummy_of_single_environments_bit_for_bit(sb3, VecEnv, world):
    from stable_baselines3.common.vec_env import DummyVecEnv

    ours = VecEnv(world, 3, max_episode_steps=5)
    theirs = DummyVecEnv([lambda: gym.make(ID, world=world, max_episode_steps=5)] * 3)
    assert ours.seed(7) == theirs.seed(7)
    assert np.array_equal(ours.reset(), theirs.reset())
    rng, ends, limits = np.random.default_rng(0), 0, 0
    for _ in range(40):
        picks = rng.integers(0, 3, 3)
        a, b = ours.step(picks), theirs.step(picks - 1)  # tiny's actions start at -1; ours count from 0
        for x, y in zip(a[:3], b[:3], strict=True):
            assert x.dtype == y.dtype and np.array_equal(x, y)
        for k in range(3):
            assert a[3][k]["TimeLimit.truncated"] == b[3][k]["TimeLimit.truncated"]
            assert ("terminal_observation" in a[3][k]) == bool(a[2][k])
            if a[2][k]:
                assert np.array_equal(a[3][k]["terminal_observation"], b[3][k]["terminal_observation"])
                assert not np.array_equal(a[3][k]["terminal_observation"], a[0][k])
                ends, limits = ends + 1, limits + a[3][k]["TimeLimit.truncated"]
    assert ends > limits > 0 and ours.action_space == gym.spaces.Discrete(3)
    assert ours.observation_space == theirs.observation_space


def test_seeds_and_options_count_once(sb3, VecEnv, world):
    envs = VecEnv(world, 2)
    envs.seed(3)
    first = envs.reset()
    assert not np.array_equal(envs.reset(), first) or not np.array_equal(envs.reset(), first)
    envs.seed(3)
    assert np.array_equal(envs.reset(), first)
    starts = world.starts[0][:, -1]
    envs.set_options({"start": 1})
    assert np.array_equal(envs.reset(), starts[[1, 1]])
    envs.set_options([{"start": 0}, {"start": 2, "horizon": 1}])
    assert np.array_equal(envs.reset(), starts[[0, 2]])
    _, _, done, infos = envs.step(np.zeros(2, int))
    assert done[1] and "terminal_observation" in infos[1]


def test_attributes_and_methods_of_each(sb3, VecEnv, world):
    from stable_baselines3.common.monitor import Monitor

    envs = VecEnv(world, 3, render_mode="rgb_array")
    envs.seed(0)
    frames = envs.reset()
    assert envs.env_is_wrapped(Monitor) == [False] * 3 and envs.get_attr("world", [1]) == [world]
    assert [f.shape for f in envs.get_attr("features")] == [(world.dynamics.feature_size,)] * 3
    assert envs.has_attr("np_random") and not envs.has_attr("nothing")
    envs.set_attr("label", 5, indices=[0, 2])
    assert envs.get_attr("label", [0, 2]) == [5, 5] and envs.get_attr("render_mode") == ["rgb_array"] * 3
    with pytest.raises(AttributeError):
        envs.get_attr("label", 1)
    assert np.array_equal(envs.env_method("render", indices=1)[0], frames[1])
    assert np.array_equal(envs.get_images(), frames) and envs.render().shape == (32, 32, 3)
    again, _ = envs.env_method("reset", seed=1, indices=2)[0]
    assert np.array_equal(again, frames[1])  # seed 0 gave environment 1 the seed 1
    assert np.array_equal(envs.get_images()[0], frames[0])
    with pytest.raises(AttributeError, match="of all environments at once"):
        envs.env_method("step", 0)


def test_its_wrappers_and_ppo_take_it(sb3, VecEnv, replay):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor

    world = tiny.make_world(replay, termination=-1.0)
    envs = VecFrameStack(VecMonitor(VecEnv(world, 4, max_episode_steps=6)), 2)
    model = PPO("MlpPolicy", envs, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().numpy().copy() for p in model.policy.parameters()]
    model.learn(128)
    after = [p.detach().numpy() for p in model.policy.parameters()]
    assert all(np.isfinite(p).all() for p in after)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(model.ep_info_buffer) > 4 and all(1 <= e["l"] <= 6 for e in model.ep_info_buffer)
    envs.close()
