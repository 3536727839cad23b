"""Open-Oasis as a world, and the class-conditional DiT: against a dump of PyTorch; windows, reuse, storage, actions."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from tiny_transformers import DIT, VAE, imagenet_dit, normal, oasis
from worldmodel import Tensor, World
from worldmodel.models.imagenet_dit import alpha_bar, ancestral, spaced
from worldmodel.models.oasis import NAMES, action_space
from worldmodel.models.oasis.dynamics import levels_of
from worldmodel.spaces import SlotTable
from worldmodel.world import WorldConfig

cuda_too = True  # conftest: what PyTorch said is asked of emulated CUDA as well
DUMP = np.load(Path(__file__).parent.parent / "dumps" / "transformers.npz")


def near(got, want, tolerance=3e-5):
    assert got.size == want.size
    assert np.abs(got.ravel() - want.ravel()).max() <= tolerance * np.abs(want).max()


def test_what_pytorch_said(kernels):
    world = oasis()
    d = world.dynamics
    got = world.sampler(1).denoised(
        [0], Tensor(normal(1, 1, 4, 6, 8, seed=3)), normal(1, 3, 4, 6, 8), normal(1, 4, 25, seed=4)
    )
    near(got, DUMP["frame"])
    near(d.vae.encode(Tensor(np.tanh(normal(1, 16, 24, 3)))).numpy(), DUMP["encoded"])
    near(d.vae.decode(Tensor(normal(1, 4, 6, 8))).numpy(), DUMP["decoded"])
    near(imagenet_dit().sample([3, 7], normal(2, 8, 8, 4), steps=10, guidance=4.0), DUMP["sampled"])


# ---- the window ----


def moves(world, n, seed=0):
    space = action_space()
    space.seed(seed)
    return world.features([space.sample() for _ in range(n)])


def pictures(n, T=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, T, 16, 24, 3)).astype(np.uint8)


@pytest.mark.parametrize("context", ["labelled", "scaled", "noised"])
def test_reuse_changes_nothing_while_the_window_fills_and_slides(context):
    """Eight frames in a window of five."""
    world = oasis(context=context)
    runs = []
    for reuse in (True, False):
        sampler = world.sampler(1, steps=3, reuse=reuse)
        sampler.reset(pictures(1), seeds=[3])
        runs.append([sampler.step(m[None]) for m in moves(world, 8)])
        assert int(sampler.state["frames"].numpy()[0]) == 5
        latents = sampler.state["latents"].numpy().copy()
        runs[-1].append(latents)
    near(runs[0][-1], runs[1][-1], 1e-5)
    for a, b in zip(runs[0][:-1], runs[1][:-1], strict=True):
        assert np.abs(a.frames.astype(int) - b.frames).max() <= 1


def test_schedules_and_ancestral_steps_differ_and_repeat():
    frames = []
    for options in ({}, {"schedule": "cosine"}, {"eta": 1.0}, {"eta": 1.0}):
        sampler = oasis(**options).sampler(1, steps=3)
        sampler.reset(pictures(1), seeds=[3])
        frames.append(sampler.step(np.zeros((1, 48), np.float32)).frames)
    assert not any(np.array_equal(frames[0], f) for f in frames[1:]) and np.array_equal(frames[2], frames[3])
    with pytest.raises(ValueError, match="eta of 0 to 1"):
        oasis(eta=2.0)


def test_policies_for_the_frames_before_differ():
    frames = []
    for context in ("labelled", "scaled", "noised"):
        sampler = oasis(context=context).sampler(1, steps=3)
        sampler.reset(pictures(1), seeds=[3])
        frames.append(sampler.step(np.zeros((1, 48), np.float32)).frames)
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])


def test_a_batch_is_its_lanes_and_a_snapshot_goes_on():
    world = oasis()
    frames, steps = pictures(2, 3), [moves(world, 2, seed=i) for i in range(4)]
    many = world.sampler(2, steps=2)
    many.reset(frames, seeds=[5, 6])
    seen = [many.step(m) for m in steps[:2]]
    snapshot = many.snapshot()
    seen += [many.step(m) for m in steps[2:]]
    for lane in range(2):
        alone = world.sampler(1, steps=2)
        alone.reset(frames[lane : lane + 1], seeds=[5 + lane])
        for m, step in zip(steps, seen, strict=True):
            assert np.array_equal(alone.step(m[lane : lane + 1]).frames[0], step.frames[lane])
    many.restore(snapshot)
    for m, step in zip(steps[2:], seen[2:], strict=True):
        assert np.array_equal(many.step(m).frames, step.frames)
    many.restore(snapshot)
    many.fork(0, [1])
    twice = many.step(np.repeat(steps[2][:1], 2, 0))
    assert np.array_equal(twice.frames[0], twice.frames[1]) and np.array_equal(twice.frames[0], seen[2].frames[0])


@pytest.mark.parametrize("context", ["labelled", "noised"])
def test_ragged_lanes_go_together_and_are_what_they_are_alone(context, monkeypatch):
    """Different histories, a lane that begins anew, one that rests, a fork; through a full window of five."""
    world = oasis(context=context)
    calls, dit = [], type(world.dynamics.dit)
    forward = dit.forward
    monkeypatch.setattr(dit, "forward", lambda self, x, *a, **k: calls.append(x.shape[0]) or forward(self, x, *a, **k))
    frames, acts = pictures(4, 3), [moves(world, 4, seed=i) for i in range(7)]
    many, alone = world.sampler(4, steps=2, together=3), [world.sampler(1, steps=2) for _ in range(4)]
    for k in range(4):
        keep = 1 + (k == 3)
        many.reset(frames[k : k + 1, :keep], seeds=[k], rows=[k])
        alone[k].reset(frames[k : k + 1, :keep], seeds=[k])
    for t, a in enumerate(acts):
        if t == 2:
            many.reset(frames[1:2], seeds=[9], rows=[1]), alone[1].reset(frames[1:2], seeds=[9])
        if t == 4:
            many.fork(0, [2], seeds=[7])
            alone[2].restore(alone[0].snapshot()), alone[2].fork(0, [0], seeds=[7])
        rests = np.array([True, True, True, t != 3])
        seen = many.step(a, rests)
        for k in np.flatnonzero(rests):
            assert np.array_equal(alone[k].step(a[k : k + 1]).frames[0], seen.frames[k]), (t, k)
    assert max(calls) == 3
    with pytest.raises(ValueError, match="together"):
        world.sampler(1, together=0)


def test_it_steps_in_imagined():
    env = gym.make("worldmodel/Imagined-v0", world=oasis(), steps=2)
    frame, _ = env.reset(seed=0, options={"frames": pictures(1, 2)[0]})
    action = {name: 0 for name in NAMES if not name.startswith("camera")} | {
        "camera": np.float32([0.1, -0.5]),
        "jump": 1,
    }
    frame, reward, terminated, _, _ = env.step(action)
    assert frame.shape == (16, 24, 3) and reward == 0 and not terminated
    env.close()


# ---- actions ----


def test_the_25_numbers_of_an_action():
    world = oasis()
    none = {name: 0 for name in NAMES if not name.startswith("camera")}
    rows = [{**none, "camera": np.zeros(2, np.float32)}]
    rows += [
        {**none, name: 1, "camera": np.float32([0.25, -0.75])} for name in ("inventory", "hotbar.9", "jump", "drop")
    ]
    got = world.dynamics.vectors(world.features(rows))
    assert got.shape == (5, 25) and not got[0].any()
    for row, name in zip(got[1:], ("inventory", "hotbar.9", "jump", "drop"), strict=True):
        want = np.zeros(25, np.float32)
        want[[NAMES.index(name), 15, 16]] = 1, 0.25, -0.75
        assert np.array_equal(row, want)
    assert NAMES[15] == "cameraX" and len(NAMES) == 25
    assert not world.dynamics.vectors(np.zeros((1, SlotTable.of(action_space()).feature_size), np.float32)).any()


# ---- storage ----


@pytest.mark.parametrize("int8, low, high", [(False, 1e-4, 0.02), (True, 0.005, 0.06)])
def test_smaller_storage_says_nearly_the_same(int8, low, high, tmp_path):
    whole = oasis()
    small = World(WorldConfig(**{**vars(whole.config), "options": {**whole.config.options, "storage": "bfloat16"}}))
    small.load_state_dict(whole.state_dict())
    if int8:
        assert len(small.dynamics.int8_layers()) == 2 * 8 + 3 * 4
        small.quantize(layers=small.dynamics.int8_layers())
    weight = small.dynamics.dit.blocks[0].s_mlp.fc1.weight
    assert weight.dtype == "bfloat16" and not weight.needs_grad
    x, t, a = normal(1, 3, 4, 6, 8), np.full((1, 3), 200, np.float32), normal(1, 3, 25, seed=2)
    want, got = (w.dynamics.dit(Tensor(x), Tensor(t), Tensor(a))[0].numpy() for w in (whole, small))
    assert low < np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < high
    small.save(tmp_path / "w.safetensors")
    back = World.load(tmp_path / "w.safetensors")
    assert np.array_equal(back.dynamics.dit(Tensor(x), Tensor(t), Tensor(a))[0].numpy(), got)
    assert (tmp_path / "w.safetensors").stat().st_size < 2.3 * sum(t.size for _, t in whole.named_tensors())


# ---- wrong use ----


@pytest.mark.parametrize(
    "options, words",
    [
        ({"storage": "float16"}, "storage float32"),
        ({"context": "clean"}, "context labelled"),
        ({"steps": 0}, "steps >= 1"),
        ({"vae": dict(VAE, latent=4)}, "do not fit"),
        ({"dit": dict(DIT, heads=3)}, "3 heads"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        oasis(**options)


def test_the_space_is_its_own():
    from gymnasium.spaces import Discrete
    from worldmodel.spaces import space_to_json

    with pytest.raises(ValueError, match="48 features, got 3"):
        World(WorldConfig("oasis", "500M", (16, 24, 3), space_to_json(Discrete(3)), options={"dit": DIT, "vae": VAE}))


def test_levels():
    assert levels_of(10) == [-1, 99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert spaced(3) == [0, 500, 999] and spaced(1) == [0] and len(set(spaced(250))) == 250


@pytest.mark.parametrize("steps, i", [(1000, 700), (250, 100), (250, 1), (10, 9)])
def test_an_ancestral_step_is_bayes(steps, i):
    """x_before given x and x0: precisions add up; the learned variance lies between that and beta."""
    times = spaced(steps)
    now, then = alpha_bar(times[i]), alpha_bar(times[i - 1])
    a, beta = now / then, 1 - now / then
    x0, eps, e = (normal(1, 4, 4, 4, seed=k).astype(np.float64) for k in (1, 2, 3))
    x = now**0.5 * x0 + (1 - now) ** 0.5 * eps
    given = [Tensor(v.astype(np.float32)) for v in (x, eps)]
    least = 1 / (a / beta + 1 / (1 - then))
    mean = least * (a**0.5 / beta * x + then**0.5 / (1 - then) * x0)
    for u, variance in ((0.0, least), (1.0, beta), (0.5, (least * beta) ** 0.5), (None, beta)):
        said = None if u is None else Tensor(np.full(x.shape, 2 * u - 1, np.float32))
        got = ancestral(*given, said, now, then, Tensor(e.astype(np.float32)))
        near(got.numpy(), mean + variance**0.5 * e)


def test_samples_with_noise_of_their_own():
    """Each sample's noise is a stream's: a batch is its samples; another seed differs, and so does DDIM."""
    model, x = imagenet_dit(), normal(2, 8, 8, 4)
    both = model.sample([3, 7], x, steps=6, method="ddpm", seed=4)
    assert np.array_equal(model.sample([7], x[1:], steps=6, method="ddpm", seed=5)[0], both[1])
    assert not np.array_equal(model.sample([3, 7], x, steps=6, method="ddpm"), both)
    assert not np.array_equal(model.sample([3, 7], x, steps=6), both)
    with pytest.raises(ValueError, match='method must be "ddim" or "ddpm"'):
        model.sample([3, 7], x, method="euler")


def test_samples_of_the_class_conditional_dit_are_checked():
    model = imagenet_dit()
    for labels, noise, steps in (
        ([3], normal(2, 8, 8, 4), 10),
        ([11], normal(1, 8, 8, 4), 10),
        ([3], normal(1, 8, 8, 4), 0),
    ):
        with pytest.raises(ValueError, match="sample: wanted"):
            model.sample(labels, noise, steps=steps)
