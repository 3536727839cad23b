"""The imagined environments over the DiT: its cache, snapshots and forks keep the same promises."""

import copy

import numpy as np
import pytest
import worldmodel as wm
from gymnasium.utils.env_checker import check_env
from worldmodel.envs import Imagined, ImaginedVector

N = 3
OPTIONS = {
    "width": 32,
    "layers": 2,
    "head_width": 16,
    "patch": 4,
    "window": 6,
    "context": 2,
    "slots": 6,
    "features": 16,
}


@pytest.fixture(scope="module")
def world(replay):
    world = wm.World.create(replay, backbone="dit", size="T", **OPTIONS)
    rng = np.random.default_rng(0)
    for p in world.parameters():
        if not p.numpy().any():
            p.numpy()[...] = rng.normal(size=p.shape) * 0.05
    world.config.max_episode_steps = 9
    return world


def test_passes_check_env(world):
    check_env(Imagined(world), skip_render_check=True, skip_close_check=True)


def test_lanes_equal_single_environments_past_the_ring(world):
    envs, singles = ImaginedVector(world, N, autoreset_mode="SameStep"), [Imagined(world) for _ in range(N)]
    frames, _ = envs.reset(seed=5)
    for k, env in enumerate(singles):
        assert np.array_equal(env.reset(seed=5 + k)[0], frames[k])
    for t in range(14):
        actions = np.array([t % 3 - 1, 0, 1])
        frames, rewards, terminated, truncated, _ = envs.step(actions)
        for k, env in enumerate(singles):
            frame, reward, *over, _ = env.step(actions[k])
            assert over == [terminated[k], truncated[k]] and reward == rewards[k]
            assert np.array_equal(env.reset()[0] if any(over) else frame, frames[k])


def test_states_copies_and_forks_continue_alike(world):
    envs = ImaginedVector(world, N)
    envs.reset(seed=1)
    for t in range(4):
        envs.step(np.full(N, t % 3 - 1))
    state, clone = envs.get_state(), copy.deepcopy(envs)
    wanted = [envs.step(np.full(N, t % 3 - 1)) for t in range(7)]
    envs.set_state(state)
    for e in (envs, clone):
        for t, row in enumerate(wanted):
            got = e.step(np.full(N, t % 3 - 1))
            assert all(np.array_equal(x, y) for x, y in zip(row[:4], got[:4], strict=True))
    envs.fork(0, 2)
    frames = envs.step(np.zeros(N, int))[0]
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])
