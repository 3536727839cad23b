"""The recipe diamond: its world learns, its actor-critic learns what pays, and both are saved."""

import numpy as np
import pytest
import worldmodel as wm
from tiny_run import make_replay
from worldmodel.cli import main
from worldmodel.models.diamond import RecurrentPolicy
from worldmodel.sampling import Sampler, Step
from worldmodel.tensor import Tensor
from worldmodel.train import TrainActorCritic, TrainPolicy, TrainWorld, train_actor_critic
from worldmodel.train.recipes import DIAMOND_WORLD, actor_critic_settings, fill_in
from worldmodel.train.reinforce import reinforce_loss

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
        Tensor(logits.astype(np.float32)), Tensor(values.astype(np.float32)), picks, returns, gain, TrainActorCritic()
    )
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -(np.exp(log) * log).sum(1).mean()
    assert entropy.item() == pytest.approx(wanted, rel=1e-5)
    actor = -(log[np.arange(6), picks] * gain).mean()
    assert loss.item() == pytest.approx(actor + ((values - returns) ** 2).mean() - 0.001 * wanted, rel=1e-5)


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
    assert main(["convert", "--source", world, "--out", keys, "--to", "torch-keys", "--policy", policy]) == 0
    assert main(["convert", "--source", keys, "--out", str(tmp_path / "w2"), "--replay", str(replay.path)]) == 0
    assert main(["convert", "--source", keys, "--out", str(tmp_path / "p2"), "--to", "policy"]) == 0
    assert len(wm.World.load(tmp_path / "w2").starts[0]) and wm.Policy.load(tmp_path / "p2").frame_shape == (16, 16, 3)
    assert main(["eval", "--policy", str(tmp_path / "p2"), "--world", str(tmp_path / "w2"), "--episodes", "2"]) == 0
    capsys.readouterr()
    assert main([*train, *common, "--objective", "edm", "--backbone", "dit"]) == 2
    assert "goes with --backbone unet" in capsys.readouterr().err
