"""The recipe diamond: its world learns, its actor-critic learns what pays, and both are saved."""

import json
import shutil

import numpy as np
import pytest
import test_train_policy
import worldmodel as wm
from gymnasium import spaces
from tiny_run import make_replay
from worldmodel.cli import main
from worldmodel.models.acting import ActionHead
from worldmodel.models.diamond import RecurrentPolicy
from worldmodel.sampling import Sampler, Step
from worldmodel.spaces import SlotTable
from worldmodel.tensor import Tensor
from worldmodel.train import TrainActorCritic, TrainPolicy, TrainWorld, train_actor_critic
from worldmodel.train.recipes import DIAMOND_WORLD, actor_critic_settings, fill_in
from worldmodel.train.reinforce import Reinforce, reinforce_loss

TINY = dict(channels=(16, 16), outcome_channels=(8, 8), lstm=16, horizon=4)


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    return make_replay(tmp_path_factory.mktemp("squares") / "replay")


def test_a_world_learns(replay, tmp_path):
    wm.seed(0)
    world = wm.World.create(replay, backbone="edm", size="T", **TINY)
    window = world.window(replay, replay.sample(np.random.default_rng(0), 16, world.dynamics.window))
    stream = Tensor(np.arange(64, dtype=np.int32).reshape(16, 4))

    def losses():
        parts = world.losses(window, stream) | world.dynamics.outcome_losses(window)
        return {k: v.item() for k, v in parts.items()}

    before = losses()
    settings = fill_in(
        TrainWorld(steps=60, lr=2e-3, batch=8, outcome_batch=8, warmup=5, rollouts=2, quiet=True), DIAMOND_WORLD
    )
    assert (settings.lr, settings.batch, settings.ema, settings.floor) == (2e-3, 8, 0.0, 1.0)
    wm.train_world(world, replay, settings)
    after = losses()
    assert after["frames"] < 0.7 * before["frames"] and after["reward"] < before["reward"], (before, after)
    world.save(tmp_path / "w.safetensors")
    assert wm.World.load(tmp_path / "w.safetensors").parameter_count() == world.parameter_count()


def test_rollouts_of_several_steps_go_on_from_their_own_frames(replay):
    world = wm.World.create(replay, backbone="edm", size="T", rollout=2, **TINY)
    window = world.window(replay, replay.sample(np.random.default_rng(0), 4, world.dynamics.window))
    stream = Tensor(np.arange(16, dtype=np.int32).reshape(4, 4))
    assert np.isfinite(world.losses(window, stream)["frames"].item())
    short = world.window(replay, replay.sample(np.random.default_rng(0), 4, 5))
    with pytest.raises(ValueError, match="6 frames or more"):
        world.losses(short, stream)


class Bandit(Sampler):
    """Action 1 pays, action 0 costs; every third step ends the episode."""

    def __init__(self, n):
        super().__init__(n, 2)
        self.count = 0

    def begin(self, rows, frames, actions):
        pass

    def advance(self, actions):
        self.count += 1
        ended = np.full(self.n, self.count % 3 == 0)
        frames = np.full((self.n, 16, 16, 3), 100, np.uint8)
        return Step(frames, 2 * actions[:, 1] - 1, ended, ended.astype(np.float32), np.zeros((self.n, 1), np.float32))


def test_an_actor_critic_learns_what_pays(replay, monkeypatch, tmp_path):
    wm.seed(1)
    world = wm.World.create(replay, backbone="edm", size="T", **TINY)
    monkeypatch.setattr(world, "sampler", lambda n, **_: Bandit(n))
    policy = RecurrentPolicy.for_world(world, channels=(8, 8), down=(1, 1), lstm=16)
    run = str(tmp_path / "run")
    train_actor_critic(
        world, replay, policy=policy, steps=30, lanes=8, horizon=5, lr=5e-3, warmup=1, quiet=True, run=run
    )
    actions, _ = policy(np.full((64, 16, 16, 3), 100, np.uint8), np.ones(64, bool))
    assert np.mean(actions) > 0.9
    assert (tmp_path / "run" / "policy.safetensors").exists()


def test_the_loss_is_that_of_the_head():
    rng = np.random.default_rng(0)
    logits, values = rng.standard_normal((6, 3)), rng.standard_normal(6)
    picks, returns, gain = rng.integers(0, 3, 6), rng.standard_normal(6), rng.standard_normal(6)
    loss, entropy = reinforce_loss(
        ActionHead(SlotTable.of(spaces.Discrete(3))),
        Tensor(logits.astype(np.float32)),
        Tensor(values.astype(np.float32)),
        picks[:, None],
        None,
        returns,
        gain,
        TrainActorCritic(),
    )
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -(np.exp(log) * log).sum(1).mean()
    assert entropy.item() == pytest.approx(wanted, rel=1e-5)
    actor = -(log[np.arange(6), picks] * gain).mean()
    assert loss.item() == pytest.approx(actor + ((values - returns) ** 2).mean() - 0.001 * wanted, rel=1e-5)


# ---- train_policy(recurrent=True) ----

SMALL = {"channels": (8, 8), "down": (1, 1), "lstm": 16}
QUICK = {"lanes": 16, "horizon": 4, "lr": 5e-3, "entropy": 0.01, "gamma": 0.5, "quiet": True}


class Cue(Sampler):
    """The start is bright or dark, all that follows is grey: what pays is action 1 after bright, 0 after dark."""

    def __init__(self, n, features):
        super().__init__(n, features)
        self.bright = np.zeros(n, bool)

    def begin(self, rows, frames, actions):
        self.bright[rows] = frames[:, -1].reshape(len(rows), -1).mean(1) > 127

    def advance(self, actions):
        right = np.where(self.bright, actions[:, -1] > actions[:, 0], actions[:, -1] < actions[:, 0])
        none = np.zeros(self.n, np.float32)
        frames = np.full((self.n, 8, 8, 1), 100, np.uint8)
        return Step(frames, 50 * right.astype(np.float32), none > 0, none, none[:, None])


class CueWorld(test_train_policy.Known):
    def sampler(self, n, **_):
        return Cue(n, self.table.feature_size)


@pytest.fixture
def cue(tmp_path, monkeypatch):
    world = CueWorld(spaces.Discrete(2), None)
    world.dynamics = type("Dynamics", (), {"draws_rewards": False})
    replay = test_train_policy.replay_of(tmp_path / "replay", spaces.Discrete(2))
    return world, replay


def follow(policy, brightness, steps=3):
    """What it does on grey frames after a start of a brightness."""
    first, state, done = np.ones(1, bool), None, []
    for t in range(steps):
        frame = np.full((1, 8, 8, 1), 100 if t else 250 * brightness, np.uint8)
        actions, state = policy(frame, first, state, greedy=True)
        first, done = np.zeros(1, bool), [*done, actions[0]]
    return done


def test_it_remembers_what_is_out_of_sight(cue):
    world, replay = cue
    wm.seed(0)
    policy = wm.Policy.for_world(world, recurrent=True, **SMALL)
    assert isinstance(policy, RecurrentPolicy)
    policy.reward_scale = 0.02
    assert wm.train_policy(world, replay, policy=policy, steps=120, **QUICK) is policy
    assert follow(policy, 1) == [1, 1, 1] and follow(policy, 0) == [0, 0, 0]


@pytest.mark.parametrize(
    "space, wanted",
    [
        (spaces.Box(-2.0, 6.0, (1,), np.float32), lambda a: abs((a[0] - 2) / 4 - 0.4) < 0.2),
        (spaces.MultiDiscrete([2, 3]), lambda a: a[1] == 2),
    ],
    ids=["number", "buttons"],
)
def test_it_acts_in_any_space(tmp_path, space, wanted):
    """Reward of the last number: -(u - 0.4)^2, or as large as it is."""
    world = test_train_policy.Known(
        space,
        lambda bright, a: (-((a[:, -1] - 0.4) ** 2) if isinstance(space, spaces.Box) else a[:, -1], np.zeros(len(a))),
    )
    world.dynamics = type("Dynamics", (), {"draws_rewards": False})
    replay = test_train_policy.replay_of(tmp_path / "replay", space)
    wm.seed(0)
    policy = wm.Policy.for_world(world, recurrent=True, **SMALL)
    policy = wm.train_policy(world, replay, policy=policy, steps=80, reward_scale=2.0, **QUICK | {"lr": 1e-2})
    actions, _ = policy(np.full((8, 8, 8, 1), 0, np.uint8), np.ones(8, bool), greedy=True)
    assert all(a in space and wanted(a) for a in actions), actions
    policy.save(tmp_path / "p.safetensors")
    back = wm.Policy.load(tmp_path / "p.safetensors")
    assert back.reward_scale == 2.0
    assert np.array_equal(back(np.full((8, 8, 8, 1), 0, np.uint8), np.ones(8, bool), greedy=True)[0], actions)


def test_it_goes_on_bit_for_bit(replay, tmp_path, monkeypatch):
    """Killed between two saves, and after the last one; another policy in the folder is refused."""

    def run(folder, lstm=16, **more):
        wm.seed(1)
        world = wm.World.create(replay, backbone="edm", size="T", **TINY)
        policy = RecurrentPolicy.for_world(world, **{**SMALL, "lstm": lstm})
        settings = {"lanes": 4, "horizon": 2, "save_every": 2, "quiet": True, "run": str(tmp_path / folder), **more}
        return wm.train_policy(world, replay, policy=policy, **settings).state_dict()

    whole = run("a", steps=5)
    update, count = Reinforce.update, []

    def dies(self, step):
        count.append(step)
        if len(count) == 4:
            raise RuntimeError("killed")
        return update(self, step)

    monkeypatch.setattr(Reinforce, "update", dies)
    with pytest.raises(RuntimeError):
        run("b", steps=5)
    assert count == [0, 1, 2, 3]
    got = run("b", steps=5)
    assert count[4:] == [2, 3, 4] and all(np.array_equal(got[k], v) for k, v in whole.items())
    logs = [(tmp_path / k / "log.jsonl").read_text() for k in "ab"]
    assert logs[0] == logs[1] and "reward_scale" in json.loads(logs[0].splitlines()[0])
    again = run("b", steps=5)
    assert len(count) == 7 and all(np.array_equal(again[k], v) for k, v in whole.items())
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    with pytest.raises(ValueError, match="not the state of this policy"):
        run("c", lstm=24, steps=6)
    with pytest.raises(ValueError, match="the state is of 4 lanes, not 6"):
        run("c", lanes=6, steps=6)


def test_recipes_yield_to_what_is_said():
    s = actor_critic_settings(TrainPolicy(lanes=4, gamma=0.9))
    assert (s.lanes, s.gamma, s.horizon, s.lam, s.clip) == (4, 0.9, 15, 0.95, 100.0)
    with pytest.raises(ValueError, match="epochs"):
        actor_critic_settings(TrainPolicy(epochs=3))


def test_the_verbs(replay, tmp_path, capsys):
    world, policy, keys = (str(tmp_path / n) for n in ("w.safetensors", "p.safetensors", "k.safetensors"))
    common = ["--replay", str(replay.path), "--quiet", "--steps", "1"]
    train = ["train", "--recipe", "diamond", "--size", "T", "--out", world, "--batch", "2", "--outcome-batch", "2"]
    assert main([*train, *common, "--rollouts", "2", "--horizon", "2"]) == 0
    learn = ["learn", "--recipe", "diamond", "--world", world, "--out", policy, "--lanes", "2", "--horizon", "2"]
    assert main([*learn, *common]) == 0
    assert main(["learn", "--recurrent", *learn[3:], *common]) == 0 and wm.Policy.load(policy).reward_scale
    assert main(["convert", "--source", world, "--out", keys, "--to", "torch-keys", "--policy", policy]) == 0
    assert main(["convert", "--source", keys, "--out", str(tmp_path / "w2"), "--replay", str(replay.path)]) == 0
    assert main(["convert", "--source", keys, "--out", str(tmp_path / "p2"), "--to", "policy"]) == 0
    assert len(wm.World.load(tmp_path / "w2").starts[0]) and wm.Policy.load(tmp_path / "p2").frame_shape == (16, 16, 3)
    assert main(["eval", "--policy", str(tmp_path / "p2"), "--world", str(tmp_path / "w2"), "--episodes", "2"]) == 0
    capsys.readouterr()
    assert main([*train, *common, "--objective", "edm", "--backbone", "dit"]) == 2
    assert "goes with --backbone unet" in capsys.readouterr().err
