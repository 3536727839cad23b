"""Learning a policy in imagination: each formula against brute force, and the optimum where it is known."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_policy
import tiny_run
import worldmodel as wm
from gymnasium import spaces
from worldmodel import ops
from worldmodel.checkpoint import read_metadata
from worldmodel.sampling import Sampler, Step
from worldmodel.spaces import SlotTable, space_to_json
from worldmodel.tensor import Tensor
from worldmodel.train.imagination import Imagination, lambda_returns
from worldmodel.train.lived import Lived
from worldmodel.train.loop import Diverged
from worldmodel.train.policy import PolicyLearner, TrainPolicy, among_siblings, normalised
from worldmodel.train.scale import typical_scale

# ---- formulas ----


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_lambda_returns_are_the_mixture_of_n_step_returns(lam):
    """(1 - l) sum_n l^(n-1) G_n, the rest of the weight on the longest; G_n = sum of discounted rewards +
    bootstrap.
    """
    rng, H, N, gamma = np.random.default_rng(0), 6, 3, 0.9
    rewards, values = rng.normal(size=(H, N)), rng.normal(size=(H + 1, N))
    continues = rng.choice([0.0, 0.3, 1.0], size=(H, N), p=[0.2, 0.2, 0.6])

    def n_step(t, n, lane):
        total, weight = 0.0, 1.0
        for k in range(t, t + n):
            total += weight * rewards[k, lane]
            weight *= gamma * continues[k, lane]
        return total + weight * values[t + n, lane]

    for lane in range(N):
        for t in range(H):
            longest = H - t
            wanted = sum((1 - lam) * lam ** (n - 1) * n_step(t, n, lane) for n in range(1, longest))
            wanted += lam ** (longest - 1) * n_step(t, longest, lane)
            got = lambda_returns(rewards, continues, values, gamma, lam)[t, lane]
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_lambda_returns_by_hand():
    rewards, values = np.array([[1.0], [2.0], [4.0]]), np.array([[10.0], [20.0], [30.0], [40.0]])
    ones = np.ones((3, 1))
    np.testing.assert_allclose(lambda_returns(rewards, ones, values, 0.5, 0.0), [[11.0], [17.0], [24.0]])
    np.testing.assert_allclose(lambda_returns(rewards, ones, values, 0.5, 1.0), [[8.0], [14.0], [24.0]])
    ended = np.array([[1.0], [0.0], [1.0]])
    np.testing.assert_allclose(lambda_returns(rewards, ended, values, 0.5, 1.0), [[2.0], [2.0], [24.0]])


def test_real_returns_bootstrap_where_an_episode_was_cut_short_and_end_where_it_ended(tmp_path):
    """Lived against the definition, sum over n of (1 - lam) lam^(n-1) G_n, episode by episode."""
    replay, gamma, lam, scale = tiny_run.make_replay(tmp_path), 0.9, 0.8, 0.5
    world = tiny_run.make_world(replay)
    policy = wm.Policy.for_world(world)
    policy.critic.weight.numpy()[...] = np.random.default_rng(0).standard_normal(policy.critic.weight.shape)
    lived = Lived(replay, policy._frames)
    lived.refresh(policy, gamma, lam, scale, size=7)
    assert len(lived) == replay.num_steps
    at = 0
    for i in reversed(range(len(replay))):
        e, T = replay.episode(i), len(replay.episode(i))
        frames = np.asarray(e.frames)
        past = np.stack([frames[np.maximum(np.arange(T) + k, 0)] for k in range(1 - policy._frames, 1)], 1)
        seen, last = lived.look(np.arange(at, at + T))
        assert (seen == past).all() and (last[0] == 0).all()
        v = policy.value(policy.forward(Tensor(past), Tensor(last))[1]).numpy().astype(np.float64)
        cut = bool(e.truncated[-1] or not e.terminated[-1])
        v = np.append(v, v[-1] if cut else 0.0)  # the last picture is not acted on: the one before stands for it
        for t in range(T):

            def n_step(n, t=t, v=v, e=e):
                return sum(gamma**k * e.rewards[t + k] * scale for k in range(n)) + gamma**n * v[t + n]

            longest = T - t
            wanted = sum((1 - lam) * lam ** (n - 1) * n_step(n) for n in range(1, longest))
            wanted += lam ** (longest - 1) * n_step(longest)
            assert abs(lived.returns[at + t] - wanted) < 1e-4 * max(1, abs(wanted))
        at += T


def test_copies_are_what_the_world_makes_of_recorded_actions(tmp_path):
    replay = tiny_run.make_replay(tmp_path)
    world = tiny_run.make_world(replay)
    policy = wm.Policy.for_world(world)
    lived = Lived(replay, policy._frames)
    lived.returns[:] = np.arange(len(lived))
    sampler, n = world.sampler(5), world.context
    told, begun = [], []
    begin, step = sampler.reset, sampler.step
    sampler.reset = lambda frames, led, seeds: (begun.append((frames, led)), begin(frames, led, seeds))
    sampler.step = lambda actions: told.append((actions, step(actions))) or told[-1][1]
    frames, last, returns = lived.copies(np.random.default_rng(0), sampler, n, 2)
    assert frames.shape[:2] == (10, policy._frames) and (returns[5:] == returns[:5] + 1).all()
    for lane in range(5):
        row = int(returns[lane]) - 1  # the real step that the copies follow
        real, before = lived.look(np.array([row]))
        assert (begun[0][0][lane, -1] == real[0, -1]).all() and (begun[0][1][lane, -1] == before[0]).all()
        for k in (0, 1):
            _, acted = lived.look(np.array([row + k + 1]))
            assert (told[k][0][lane] == acted[0]).all() and (last[5 * k + lane] == acted[0]).all()
            assert (frames[5 * k + lane, -1] == told[k][1].frames[lane]).all()
    assert lived.copies(np.random.default_rng(0), sampler, n, 99) is None, "no episode is as long"
    drawn = lived.draw(np.random.default_rng(0), 8, (frames, last, returns))
    assert len(drawn[2]) == 8 and set(drawn[2][4:]) <= set(returns)


def test_siblings_are_compared_with_each_other():
    g = np.array([1.0, 3.0, 5.0, 0.0, 0.0, 6.0])
    np.testing.assert_allclose(among_siblings(g, 3, None), [-3.0, 0.0, 3.0, -3.0, -3.0, 6.0])
    chance = np.array([0.5, 0.5, 0.0, 0.25, 0.25, 0.5])
    np.testing.assert_allclose(among_siblings(g, 3, chance), [-1.0, 1.0, 3.0, -3.0, -3.0, 3.0])
    p = chance.reshape(2, 3)
    assert np.allclose((p * among_siblings(g, 3, chance).reshape(2, 3)).sum(1), 0), "no advantage on average"


def test_siblings_begin_alike_and_try_every_action(tmp_path):
    space = spaces.Discrete(3)
    world = Known(space, lambda bright, a: (a[:, 2] * 2.0 - a[:, 0], nothing(bright)))
    policy = wm.Policy.for_world(world, width=4, features=32)
    imagination = Imagination(world, replay_of(tmp_path / "replay", space), 12, seed=0, siblings=3)
    played = imagination.play(policy, 2)
    groups = played.frames[0].reshape(4, 3, -1)
    assert (groups == groups[:, :1]).all() and (played.picks[0].reshape(4, 3) == np.arange(3)).all()
    assert (imagination.sampler.state["stream"].numpy().reshape(4, 3, 4)[:, :1] == played_streams(imagination)).all()
    np.testing.assert_allclose(played.rewards[0].reshape(4, 3), np.tile([-1.0, 0.0, 2.0], (4, 1)))
    with pytest.raises(ValueError, match="divisor of lanes"):
        Imagination(world, replay_of(tmp_path / "other", space), 10, seed=0, siblings=3)


def played_streams(imagination):
    return imagination.sampler.state["stream"].numpy().reshape(4, 3, 4)


def test_normalised_advantages_have_mean_0_and_variance_1_under_the_weights():
    rng = np.random.default_rng(0)
    a, w = rng.normal(3, 5, (4, 7)), rng.random((4, 7))
    n = normalised(a, w)
    p = w / w.sum()
    assert abs((p * n).sum()) < 1e-9 and abs((p * n**2).sum() - 1) < 1e-9
    assert np.isfinite(normalised(np.zeros((2, 2)), np.ones((2, 2)))).all()


@pytest.mark.parametrize("value", [-300.0, -1.5, 0.0, 0.3, 1.0, 42.0, 400.0])
def test_two_hot_values_are_read_back(value):
    """The two bins around a value share its weight so that their mean is the value."""
    bins = ops.two_hot_bins(count=127, high=6.0)
    centres = bins.numpy()
    k = int(np.clip(np.searchsorted(centres, value) - 1, 0, len(centres) - 2))
    share = (value - centres[k]) / (centres[k + 1] - centres[k])
    logits = np.full((1, 127), -1e4, np.float32)
    logits[0, k], logits[0, k + 1] = np.log(max(1 - share, 1e-30)), np.log(max(share, 1e-30))
    got = ops.two_hot_mean(Tensor(logits), bins).numpy()[0]
    np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4)
    loss = ops.two_hot_loss(Tensor(logits), Tensor(np.array([value], np.float32)), bins).item()
    entropy = -sum(p * np.log(p) for p in (share, 1 - share) if p > 0)
    np.testing.assert_allclose(loss, entropy, atol=2e-3)


# ---- worlds whose best policy is known ----


@dataclasses.dataclass
class Config:
    frame_shape: tuple
    action_space: dict
    environment: dict | None = None


class Known:
    """A world of still frames: reward(frame brightness 0 or 1, action features) -> (rewards, termination)."""

    context, dynamics = 2, None

    def __init__(self, space, reward):
        self.table, self.reward = SlotTable.of(space), reward
        self.config = Config((8, 8, 1), space_to_json(space))

    def sampler(self, n):
        return KnownSampler(self, n)


class KnownSampler(Sampler):
    def __init__(self, world, n):
        super().__init__(n, world.table.feature_size)
        self.world = world
        self.state["frames"] = Tensor(np.zeros((n, 8, 8, 1), np.uint8), copy=True)

    def begin(self, rows, frames, actions):
        self.state["frames"].numpy()[rows] = frames[:, -1]

    def advance(self, actions):
        frames = self.state["frames"].numpy().copy()
        bright = frames.reshape(self.n, -1).mean(1) > 127
        rewards, termination = self.world.reward(bright, actions)
        ended = np.asarray(termination, np.float32)
        return Step(frames, np.asarray(rewards, np.float32), ended > 0.5, ended, np.zeros((self.n, 1), np.float32))


def replay_of(path, space):
    """Dark and bright episodes of 6 steps."""
    space.seed(0)

    def episode(i):
        frames = np.full((7, 8, 8, 1), 250 * (i % 2), np.uint8)
        return {"frames": frames, "actions": [space.sample() for _ in range(6)], "terminated": False}

    return wm.Replay.from_arrays(path, space, (episode(i) for i in range(8)))


SETTINGS = {
    "lanes": 16,
    "horizon": 4,
    "epochs": 4,
    "minibatch": 32,
    "lr": 1e-2,
    "rare_starts": 0.0,
    "slow": 0.0,  # a few hundred updates are too few for it
    "lived": 0.0,  # the replay's rewards are not this world's
    "quiet": True,
    "entropy": 0.01,
}


def learn(path, space, reward, steps=25, **fields):
    wm.seed(1)
    world = Known(space, reward)
    replay = replay_of(path / "replay", space)
    policy = wm.Policy.for_world(world, width=4, features=32)
    return wm.train_policy(world, replay, policy=policy, steps=steps, **{**SETTINGS, **fields}), replay


def acts(policy, brightness, greedy=True, count=16):
    """What it does on frames of a brightness, `count` lanes."""
    frames = np.full((count, 8, 8, 1), 250 * brightness, np.uint8)
    return policy(frames, np.ones(count, bool), greedy=greedy)[0]


def nothing(bright):
    return np.zeros(len(bright))


def test_it_finds_the_button(tmp_path):
    policy, _ = learn(tmp_path, spaces.Discrete(3, start=-1), lambda bright, a: (a[:, 2], nothing(bright)), steps=40)
    assert all(a == 1 for a in acts(policy, 0))
    assert np.mean([a == 1 for a in acts(policy, 1, greedy=False, count=64)]) > 0.8


def test_it_finds_the_button_that_the_frame_calls_for(tmp_path):
    policy, _ = learn(
        tmp_path,
        spaces.Discrete(2),
        lambda bright, a: (a[np.arange(len(a)), bright.astype(int)], nothing(bright)),
        steps=40,
        lr=3e-3,
    )
    assert all(a == 0 for a in acts(policy, 0)) and all(a == 1 for a in acts(policy, 1))


def test_it_prefers_to_live(tmp_path):
    """A step of life is worth 1; action 1 pays 1.5 at once but ends it."""
    policy, _ = learn(tmp_path, spaces.Discrete(2), lambda bright, a: (1 + 0.5 * a[:, 1], a[:, 1]), steps=40, gamma=0.9)
    assert all(a == 0 for a in acts(policy, 0))


def test_it_finds_a_number(tmp_path):
    """Reward -(a - 0.4)^2 of a scaled to [-1, 1]."""
    policy, _ = learn(
        tmp_path,
        spaces.Box(-2.0, 6.0, (1,), np.float32),
        lambda bright, a: (-((a[:, 0] - 0.4) ** 2), nothing(bright)),
        steps=120,
        entropy=0.0,
    )
    got = (np.array(acts(policy, 0)) - 2.0) / 4.0
    assert np.abs(got - 0.4).max() < 0.1


def test_it_finds_a_button_and_a_number_together(tmp_path):
    space = spaces.Dict({"aim": spaces.Box(-1.0, 1.0, (1,), np.float32), "fire": spaces.Discrete(2)})
    table = SlotTable.of(space)
    first = {s.path.split(".")[-1]: i for i, s in enumerate(table.slots)}
    assert len(first) == 2 and table.feature_size == 3

    def reward(bright, a):
        return a[:, 2] - (a[:, 0] + 0.5) ** 2, nothing(bright)

    policy, _ = learn(tmp_path, space, reward, steps=120, entropy=0.0, gamma=0.0)
    for action in acts(policy, 1):
        assert action in space and action["fire"] == 1 and abs(action["aim"][0] + 0.5) < 0.3


# ---- actions that are held ----


class Timed(Known):
    """Rewards 1, 2, 3 ... by step of the roll-out, and a chance of 0.1 to end in each."""

    def __init__(self, space):
        self.steps = 0
        super().__init__(space, self.count)

    def count(self, bright, actions):
        self.steps += 1
        return np.full(len(bright), float(self.steps)), np.full(len(bright), 0.1)


def test_a_decision_pays_what_its_steps_pay(tmp_path):
    """Rewards until the next decision, discounted and while alive; the world sees the same action all along."""
    space = spaces.Discrete(3)
    world = Timed(space)
    policy = wm.Policy.for_world(world, width=4, features=16, repeat=3)
    imagination = Imagination(world, replay_of(tmp_path / "replay", space), 4, seed=0)
    told, advance = [], imagination.sampler.advance
    imagination.sampler.advance = lambda actions: told.append(actions.copy()) or advance(actions)
    played = imagination.play(policy, 2, gamma=0.5)
    by_hand = [sum(0.5**j * 0.9**j * (3 * k + j + 1) for j in range(3)) for k in (0, 1)]
    np.testing.assert_allclose(played.rewards, np.repeat([by_hand], 4, 0).T, rtol=1e-5)
    np.testing.assert_allclose(played.continues, 0.9**3, rtol=1e-5)
    assert len(told) == 6 and all((told[3 * (j // 3)] == told[j]).all() for j in range(6))


def test_a_policy_holds_its_actions_and_begins_anew_with_an_episode():
    policy = wm.Policy((8, 8, 1), space_to_json(spaces.Discrete(3)), width=4, features=16, repeat=3)
    rng, state, did = np.random.default_rng(0), None, []
    for t in range(12):
        first = np.array([t == 0, t in (0, 4)])
        actions, state = policy(rng.integers(0, 255, (2, 8, 8, 1), np.uint8), first, state, seed=1)
        did.append(actions)
        assert (state["last"].argmax(1) == actions).all()
    a, b = np.array(did).T
    assert (a.reshape(4, 3) == a[::3, None]).all() and len(set(a)) > 1
    assert (b[4:10].reshape(2, 3) == b[[4, 7], None]).all(), "the count begins anew with the episode"
    with pytest.raises(ValueError, match="repeat"):
        wm.Policy((8, 8, 1), space_to_json(spaces.Discrete(3)), repeat=0)


def test_the_critic_learns_first(tmp_path):
    """It knows what real states are worth before the policy moves, and the policy has not moved."""
    space = spaces.Discrete(2)

    def episode(i):
        frames = np.full((7, 8, 8, 1), 250 * (i % 2), np.uint8)
        return {"frames": frames, "actions": [0] * 6, "rewards": [float(i % 2)] * 6, "terminated": False}

    replay = wm.Replay.from_arrays(tmp_path / "replay", space, (episode(i) for i in range(8)))
    world = Known(space, lambda bright, a: (bright * 1.0, nothing(bright)))
    wm.seed(1)
    policy = wm.Policy.for_world(world, width=4, features=32)
    fields = SETTINGS | {"lived": 0.75, "critic_first": 300, "gamma": 0.5, "lanes": 8, "horizon": 1}
    fields |= {"reward_scale": 1.0}
    learner = PolicyLearner(world, policy, TrainPolicy(**fields))
    rounds = []
    learner.round = lambda *_: rounds.append(1) or {"imagined_return": 0.0, "ended": 0.0, "entropy": 0.0}
    before, real = policy.actor.out.weight.numpy().copy(), learner.learn_lived

    def interrupted(lived, i, count):
        os.kill(os.getpid(), signal.SIGINT) if i == 7 else None
        return real(lived, i, count)

    learner.learn_lived = interrupted
    assert learner.learn(replay, steps=1) == {} and learner.stopped and not rounds
    learner.learn_lived = real
    learner.learn(replay, steps=1)
    assert not learner.stopped and len(rounds) == 1
    seen = Tensor(np.stack([np.full((2, 8, 8, 1), v, np.uint8) for v in (0, 250)]))
    values = policy.value(policy.forward(seen, Tensor(np.zeros((2, 2), np.float32)))[1]).numpy()
    assert abs(values[0]) < 0.2 and abs(values[1] - 2.0) < 0.4, values
    assert np.abs(policy.actor.out.weight.numpy() - before).max() < 1e-3


# ---- conventions ----


def test_it_is_repeatable_and_may_go_on(tmp_path):
    space = spaces.Discrete(2)
    a, replay = learn(tmp_path / "a", space, lambda bright, a: (a[:, 1], nothing(bright)), steps=3)
    b, _ = learn(tmp_path / "b", space, lambda bright, a: (a[:, 1], nothing(bright)), steps=3)
    c, _ = learn(tmp_path / "c", space, lambda bright, a: (a[:, 1], nothing(bright)), steps=3, seed=1)
    weights = [p.state_dict() for p in (a, b, c)]
    assert all(np.array_equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(np.array_equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_a_learner_put_back_continues_bit_for_bit(tmp_path):
    space = spaces.Discrete(2)
    world, replay = (
        Known(space, lambda bright, a: (a[:, 1], nothing(bright))),
        replay_of(tmp_path / "replay", space),
    )

    def learner(run):
        wm.seed(2)
        return PolicyLearner(
            world, wm.Policy.for_world(world, width=4, features=16), TrainPolicy(**SETTINGS, run=str(run))
        )

    whole, first, second = learner(tmp_path / "a"), learner(tmp_path / "b"), learner(tmp_path / "b")
    whole.learn(replay, steps=2), whole.learn(replay, steps=2)
    assert not second.restore()
    first.learn(replay, steps=2)
    assert second.restore()
    second.learn(replay, steps=2)
    x, y = whole.policy.state_dict(), second.policy.state_dict()
    assert all(np.array_equal(x[k], y[k]) for k in x) and whole.range == second.range


def test_imagination_starts_from_frames_that_are_acted_on(tmp_path):
    space = spaces.Discrete(2)
    imagination = Imagination(Known(space, None), replay_of(tmp_path / "replay", space), 16, seed=0)
    frames, last = imagination.begin()
    assert frames.shape == (16, 2, 8, 8, 1) and last.shape == (16, 2)
    assert len(np.unique(frames)) == 2 and ((last == 0).all(1) | (last.sum(1) == 1)).all()


def test_a_given_policy_goes_on_with_its_own_eyes(tmp_path):
    replay = tiny_run.make_replay(tmp_path / "replay")
    world = tiny_run.make_world(replay)
    learner = PolicyLearner(world, wm.Policy.for_world(world, width=32, features=128), TrainPolicy())
    before = learner.policy.encoder.state_dict()
    learner.borrow()
    lent, eyes = learner.policy.encoder.state_dict(), world.dynamics.outcome.frames.state_dict()
    assert all(np.array_equal(lent[k], eyes[k]) for k in eyes)
    assert not all(np.array_equal(lent[k], before[k]) for k in before)
    learner.policy.encoder.load_state_dict(before)
    learner.policy.critic.weight.numpy()[0, 0] = 1  # it has learned something
    learner.borrow()
    after = learner.policy.encoder.state_dict()
    assert all(np.array_equal(after[k], before[k]) for k in before)


def test_few_samples_are_one_small_batch(tmp_path):
    policy, _ = learn(
        tmp_path,
        spaces.Discrete(2),
        lambda bright, a: (a[:, 1], nothing(bright)),
        steps=1,
        lanes=2,
        horizon=2,
    )
    assert all(np.isfinite(v).all() for v in policy.state_dict().values())


def test_nan_rewards_stop_it(tmp_path):
    with pytest.raises(Diverged, match="not finite"):
        learn(tmp_path, spaces.Discrete(2), lambda bright, a: (a[:, 1] * np.nan, nothing(bright)), steps=2)


def test_a_run_leaves_a_log_and_the_policy(tmp_path):
    run = tmp_path / "run"
    policy, _ = learn(tmp_path, spaces.Discrete(2), lambda bright, a: (a[:, 1], nothing(bright)), steps=2, run=str(run))
    assert len((run / "log.jsonl").read_text().splitlines()) == 3  # the scale of rewards, and two rounds
    again = wm.Policy.load(run / "policy.safetensors")
    assert acts(again, 0) == acts(policy, 0)


@pytest.mark.parametrize("damage", ["missing", "truncated", "a world", "no safetensors"])
def test_a_policy_file_that_is_none_says_so(tmp_path, damage):
    path = tmp_path / "policy.safetensors"
    policy = wm.Policy.for_world(Known(spaces.Discrete(2), None), width=4, features=16)
    if damage != "missing":
        policy.save(path)
        whole = path.read_bytes()
        path.write_bytes(
            {
                "truncated": whole[:-100],
                "a world": whole.replace(b"policy", b"potato"),
                "no safetensors": b"PK",
            }[damage]
        )
    with pytest.raises((FileNotFoundError, ValueError), match="policy.safetensors"):
        wm.Policy.load(path)


# ---- the scale of rewards ----


def rewarded(path, rewards, **more):
    """A replay of these rewards by episode."""
    def episode(r):
        return {"frames": np.zeros((len(r) + 1, 8, 8, 1), np.uint8), "actions": [0] * len(r), "rewards": r, **more}

    return wm.Replay.from_arrays(path, spaces.Discrete(2), (episode(np.asarray(r, float)) for r in rewards))


def test_the_scale_makes_returns_about_one(tmp_path):
    g, dense = 0.9, np.full(200, -4.0)
    returns = np.array([-4 * (1 - g ** (200 - t)) / (1 - g) for t in range(200)])
    scale = typical_scale(rewarded(tmp_path / "a", [dense, dense]), g)
    np.testing.assert_allclose(scale, np.abs(returns).mean() / (returns**2).mean(), rtol=1e-12)
    assert 0.9 < scale * np.sqrt((returns**2).mean()) < 1.1
    rare = np.zeros(5000)
    rare[4000] = 100.0  # one event: it counts as its own size, not by how rare it is
    assert 0.004 < typical_scale(rewarded(tmp_path / "b", [rare]), g) * 0.5 < 0.02
    assert typical_scale(rewarded(tmp_path / "c", [np.zeros(9)]), g) == 1.0
    assert typical_scale(rewarded(tmp_path / "d", [[2.0], [-2.0]]), g) == 0.5


def test_the_scale_is_chosen_kept_and_remembered(tmp_path):
    space = spaces.Discrete(2)
    world = Known(space, lambda bright, a: (250 * a[:, 1], nothing(bright)))
    replay = rewarded(tmp_path / "replay", np.random.default_rng(0).integers(0, 2, (6, 10)) * 250.0)
    settings = {**SETTINGS, "steps": 2, "run": str(tmp_path / "run")}
    chosen = typical_scale(replay, TrainPolicy(**settings).gamma)
    policy = wm.train_policy(world, replay, policy=wm.Policy.for_world(world, width=4, features=16), **settings)
    assert policy.reward_scale == chosen and 0.0005 < chosen < 0.01
    first, *rest = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert first == {"step": 0, "reward_scale": chosen} and all("imagined_return" in r for r in rest)
    back = wm.Policy.load(tmp_path / "run" / "policy.safetensors")
    assert back.reward_scale == chosen
    other = rewarded(tmp_path / "other", [np.ones(20)])
    assert wm.train_policy(world, other, policy=back, **SETTINGS, steps=1).reward_scale == chosen
    assert wm.train_policy(world, other, policy=back, **SETTINGS, steps=1, reward_scale=0.5).reward_scale == 0.5


# ---- killed and resumed ----


def killed(folder, number, rounds):
    """Run the program, send it a signal once its state has so many rounds; returns what it printed."""
    process = subprocess.Popen([sys.executable, tiny_policy.__file__, str(folder)], stdout=subprocess.PIPE, text=True)
    saved, until = folder / "run" / "state.safetensors", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until:
        if saved.exists() and read_metadata(saved)["run"]["done"] >= rounds:
            break
        time.sleep(0.005)
    os.kill(process.pid, number)
    return process.communicate(timeout=300)[0].strip()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny_policy.train(folder).state_dict()


def log_of(folder):
    return (folder / "run" / "log.jsonl").read_text()


@pytest.mark.parametrize("number, rounds", [(signal.SIGKILL, 3), (signal.SIGKILL, 12), (signal.SIGINT, 6)])
def test_killed_it_goes_on_bit_for_bit(undisturbed, tmp_path, number, rounds):
    """Through the refreshment of real returns at round 10; interrupted, at a round not of save_every."""
    assert killed(tmp_path, number, rounds) == ("" if number == signal.SIGKILL else "finished")
    done = read_metadata(tmp_path / "run" / "state.safetensors")["run"]["done"]
    assert rounds <= done < tiny_policy.ROUNDS
    weights = tiny_policy.train(tmp_path).state_dict()
    assert all(np.array_equal(weights[k], v) for k, v in undisturbed[1].items())
    assert log_of(tmp_path) == log_of(undisturbed[0]), "the log has every line once"
    again = tiny_policy.train(tmp_path).state_dict()  # a finished run changes no more
    assert all(np.array_equal(again[k], v) for k, v in undisturbed[1].items())


def test_another_policy_replay_or_settings_in_the_same_folder_are_refused(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="state.safetensors: not the state of this policy"):
        tiny_policy.train(tmp_path / "copy", features=24)
    with pytest.raises(ValueError, match="the state is of other settings"):
        tiny_policy.train(tmp_path / "copy", lanes=4, steps=20)
    shutil.rmtree(tmp_path / "copy" / "replay")
    tiny_run.make_replay(tmp_path / "copy" / "replay", episodes=7)
    with pytest.raises(ValueError, match=r"the state is of another replay, of \[6, 75\]"):
        tiny_policy.train(tmp_path / "copy")
