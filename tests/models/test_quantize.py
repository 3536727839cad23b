"""World.quantize: what it promises about error, bits, files and errors."""

import gymnasium as gym
import numpy as np
import pytest
import worldmodel as wm
from worldmodel.quantize import layers_for, set_products

TINY = dict(
    width=64, layers=2, head_width=32, time_every=2, patch=4, stem=4, window=4, context=2, features=8, slots=4
)


@pytest.fixture
def replay(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        {
            "frames": rng.integers(0, 256, (9, 16, 16, 3), np.uint8),
            "actions": rng.integers(0, 2, 8),
            "rewards": np.zeros(8),
            "terminated": True,
            "truncated": False,
        }
        for _ in range(4)
    ]
    return wm.Replay.from_arrays(tmp_path / "replay", gym.spaces.Discrete(2), episodes)


@pytest.fixture
def world(replay):
    """Every branch awake: weights that begin at 0 would hide an error."""
    world = wm.World.create(replay, backbone="dit", size="T", starts=4, **TINY)
    rng = np.random.default_rng(1)
    for name, t in world.dynamics.named_parameters():
        spread = 0.3 if len(t.shape) == 1 else 1.0 / np.sqrt(t.size / t.shape[0])
        if not name.endswith("_scale"):
            t.copy_((rng.standard_normal(t.shape) * spread).astype(np.float32))
    return world


def imagined(world, n=1, seed=0, steps=5):
    frames, actions = world.starts
    sampler = world.sampler(n)
    sampler.reset(frames[:n], actions[:n], seeds=np.arange(n) + seed)
    return np.stack([sampler.step(world.features(np.full(n, t % 2))).frames for t in range(steps)], 1)


@pytest.mark.parametrize("numbers", ["int8", "bf16"])
def test_within_the_budget_and_close_to_float32(world, replay, numbers):
    plain = imagined(world)
    choice = world.quantize(replay, loss_db=0.5, numbers=numbers)
    assert set(choice.layers) == set(layers_for(world.dynamics, numbers)) == set(choice.errors)
    count = len(choice.layers)
    assert 0 < choice.loss_db <= 0.5 and choice.share == 1.0 and f"{numbers}: {count} of {count}" in str(choice)
    whole = imagined(world)
    assert not np.array_equal(plain, whole)
    assert np.abs(plain[:, 0].astype(int) - whole[:, 0]).mean() < 2  # later ones feed on them


def test_a_tight_budget_leaves_layers_out(world, replay):
    errors = world.quantize(replay, loss_db=10).errors
    least, total = min(errors.values()), sum(errors.values())
    choice = world.quantize(replay, loss_db=0.4 * total)
    assert 0 < len(choice.layers) < len(errors) and choice.loss_db <= 0.4 * total
    assert world.quantize(replay, loss_db=0.4 * least).layers == ()
    assert np.isclose(choice.share, _share(world, choice.layers))


def _share(world, layers):
    sizes = dict(world.dynamics.named_parameters())
    return sum(sizes[n].size for n in layers) / sum(sizes[n].size for n in world.dynamics.int8_layers())


@pytest.mark.parametrize("numbers", ["int8", "bf16"])
def test_back_to_float32_bit_for_bit(world, replay, numbers):
    plain = imagined(world)
    world.quantize(replay, numbers=numbers)
    assert world.quantize(layers=[]).layers == ()
    assert np.array_equal(plain, imagined(world))


def test_bf16_is_nearer_than_int8(world, replay):
    assert world.quantize(replay, loss_db=10, numbers="bf16").loss_db < world.quantize(replay, loss_db=10).loss_db
    assert world.config.int8 and not world.config.bf16


@pytest.mark.parametrize("numbers", ["int8", "bf16"])
def test_a_row_of_a_batch_is_that_row_alone(world, replay, numbers):
    world.quantize(replay, loss_db=10, numbers=numbers)
    many = imagined(world, n=3)
    frames, actions = world.starts
    sampler = world.sampler(1)
    sampler.reset(frames[2:3], actions[2:3], seeds=[2])
    alone = np.stack([sampler.step(world.features([t % 2])).frames[0] for t in range(5)])
    assert np.array_equal(many[2], alone)


@pytest.mark.parametrize("numbers", ["int8", "bf16"])
def test_the_choice_is_saved_with_the_world(world, replay, tmp_path, numbers):
    choice = world.quantize(replay, loss_db=10, numbers=numbers)
    world.save(tmp_path / "world.safetensors")
    again = wm.World.load(tmp_path / "world.safetensors")
    assert tuple(getattr(again.config, numbers)) == choice.layers
    assert np.array_equal(imagined(world), imagined(again))


def test_choosing_is_reproducible_and_one_layer_alone_can_be_had(world, replay):
    assert world.quantize(replay, seed=3) == world.quantize(replay, seed=3)
    plain = imagined(world)
    name = world.dynamics.int8_layers()[3]
    assert world.quantize(layers=[name]).layers == (name,) and str(world.quantize(layers=[name])) == "int8: 1 layers"
    assert not np.array_equal(plain, imagined(world))


def test_what_cannot_be_is_said(world, replay):
    with pytest.raises(ValueError, match="no layers that can run in int8: blocks.9.up"):
        world.quantize(layers=["blocks.9.up"])
    with pytest.raises(ValueError, match="wanted a replay to measure with, or layers"):
        world.quantize()
    with pytest.raises(ValueError, match="loss_db >= 0"):
        world.quantize(replay, loss_db=-1)
    world.quantize(layers=world.dynamics.int8_layers()[:1])
    with pytest.raises(ValueError, match="computes in int8"):
        wm.train_world(world, replay, steps=1)
    world.quantize(layers=world.dynamics.bf16_layers()[:1], numbers="bf16")
    with pytest.raises(ValueError, match="computes in bf16"):
        wm.train_world(world, replay, steps=1)
    with pytest.raises(ValueError, match="numbers must be 'int8' or 'bf16', got 'int4'"):
        world.quantize(replay, numbers="int4")
    unet = wm.World.create(replay, backbone="unet", size="T", context=2, patch=2, widths=(8, 8), depths=(1, 1))
    with pytest.raises(ValueError, match="unet backbone has no products that run in int8"):
        unet.quantize(replay)
    with pytest.raises(ValueError, match="no layers that can run in int8: x"):
        set_products(unet.dynamics, ["x"])
