"""Learners written for other environments train on an imagined one unchanged."""

import gymnasium as gym
import numpy as np
import pytest
import tiny
from worldmodel.envs import ID, Imagined


@pytest.fixture(scope="module")
def buttons(tmp_path_factory):
    """A world whose reward depends on the last actions alone: `frames` do not reach its outcome."""
    path = tmp_path_factory.mktemp("buttons") / "replay"
    world = tiny.make_world(tiny.make_replay(path, gym.spaces.Discrete(3)), termination=-3.0)
    mix = world.dynamics.outcome.mix.weight.numpy()
    mix[:, : world.dynamics.outcome.frames.out.weight.shape[0]] = 0
    world.dynamics.outcome.actions.weight.numpy()[:] *= 4
    world.config.max_episode_steps = 10
    return world


def mean_rewards(world, action, steps=20):
    envs = gym.make_vec(ID, num_envs=4, vectorization_mode="vector_entry_point", world=world)
    envs.reset(seed=0)
    return float(np.mean([envs.step(np.full(4, action))[1] for _ in range(steps)]))


def test_a_plain_policy_gradient_loop_on_the_vector_env(buttons):
    """CleanRL's shape of loop, in NumPy: a softmax over actions, REINFORCE, the steps after an end masked."""
    n, horizon, lr = 8, 8, 0.5
    envs = gym.make_vec(ID, num_envs=n, vectorization_mode="vector_entry_point", world=buttons)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    space = envs.single_action_space
    rng, logits = np.random.default_rng(0), np.zeros(space.n)
    obs, _ = envs.reset(seed=0)
    over, history, finished = np.zeros(n, bool), [], 0
    for _ in range(40):
        gradient, rewards = np.zeros_like(logits), []
        probabilities = np.exp(logits) / np.exp(logits).sum()
        for _ in range(horizon):
            picks = rng.choice(space.n, size=n, p=probabilities)
            obs, reward, terminated, truncated, infos = envs.step(picks)
            real, over = ~over, terminated | truncated
            finished += infos.get("_episode", np.zeros(n, bool)).sum()
            advantage = np.where(real, reward - (np.mean(history[-1]) if history else 0), 0)
            gradient += ((np.eye(space.n)[picks] - probabilities) * advantage[:, None]).sum(0) / n
            rewards.append(reward[real].mean())
        history.append(np.mean(rewards))
        logits += lr * gradient / max(1e-6, np.abs(gradient).max())
    assert obs.shape == (n, 16, 16, 3) and finished > n
    by_action = [mean_rewards(buttons, k) for k in range(space.n)]
    assert max(by_action) - min(by_action) > 0.1, "the world tells its actions apart"
    assert np.argmax(logits) == np.argmax(by_action) and np.mean(history[-5:]) > history[0]


def test_stable_baselines_accepts_and_trains(buttons):
    pytest.importorskip("stable_baselines3", reason='pip install "worldmodel[sb3]"')
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env
    from stable_baselines3.common.env_util import make_vec_env

    check_env(Imagined(buttons))
    envs = make_vec_env(lambda: gym.make(ID, world=buttons), n_envs=2, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [p.detach().numpy().copy() for p in model.policy.parameters()]
    model.learn(128)
    after = [p.detach().numpy() for p in model.policy.parameters()]
    assert model.num_timesteps >= 128 and all(np.isfinite(p).all() for p in after)
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(model.ep_info_buffer) and all(e["l"] <= 10 for e in model.ep_info_buffer)
