"""Worlds of other projects step on emulated CUDA as on the processor: DIAMOND's EDM sampler, Oasis' DDIM.

(What PyTorch says of the same networks is asked of CUDA in tests/models/test_diamond.py and test_oasis.py.)
"""

import emulated
import numpy as np
import pytest
import tiny_diamond
import tiny_transformers
from worldmodel import machine

HERE, WHY_NOT = emulated.possible()
pytestmark = [pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}"), pytest.mark.usefixtures("cuda")]


def frames(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def diamond(device, **options):  # a step: the emulator takes seconds for its convolutions
    machine.set_device(device)
    world, _ = tiny_diamond.made()
    sampler, rng = world.sampler(1, **options), np.random.default_rng(1)
    acts = np.eye(tiny_diamond.ACTIONS, dtype=np.float32)
    sampler.reset(frames(1, 4, 16, 16, 3), acts[rng.integers(0, 5, (1, 4))], [5])
    return [sampler.step(acts[rng.integers(0, 5, 1)])]


def oasis(device, reuse=True):
    machine.set_device(device)
    world = tiny_transformers.oasis()
    sampler = world.sampler(2, steps=3, reuse=reuse)
    sampler.reset(frames(2, 2, 16, 24, 3), seeds=[3, 4])
    moves = np.random.default_rng(1).uniform(0, 1, (2, 2, world.dynamics._action_features)).astype(np.float32)
    return [sampler.step(m) for m in moves], sampler


def alike(here, there):
    for a, b in zip(here, there, strict=True):
        apart = np.abs(a.frames.astype(int) - b.frames.astype(int))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.02  # a byte at the edge of the next one
        assert a.frames.std() > 1
        assert np.abs(a.rewards - b.rewards).max() <= 1e-4 and np.abs(a.termination - b.termination).max() <= 1e-4


@pytest.mark.parametrize("options", [{}, {"order": 2, "churn": 3.0}])
def test_diamonds_environment_steps_on_cuda(options):
    alike(diamond("cpu", **options), diamond("cuda", **options))


@pytest.mark.parametrize("reuse", [True, False])
def test_oasis_environment_steps_on_cuda(reuse):
    (here, one), (there, other) = oasis("cpu", reuse), oasis("cuda", reuse)
    alike(here, there)
    a, b = one.state["latents"].numpy(), other.state["latents"].numpy()
    assert other.state["latents"].device == "cuda" and np.abs(a - b).max() <= 1e-4 * np.abs(a).max()
