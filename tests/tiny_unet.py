"""tiny_unet: a UNet small enough for every test, with no weight left at 0; windows are tiny_dit's."""

import numpy as np
import tiny_dit
from worldmodel import machine, ops
from worldmodel.models.unet import UNet
from worldmodel.tensor import Tensor

SHAPE = (8, 16, 3)
SMALL = dict(
    context=2, rollout=2, patch=2, at_noise=0.5, forget=0.0, widths=(16, 32), depths=(1, 1), cond=16, reward_bins=5
)
PARTS = ("frames", "imagined_reward", "imagined_termination", "reward", "termination")


def make(seed=0, **options):
    machine.seed(seed)
    model = UNet(SHAPE, tiny_dit.FEATURES, **{**SMALL, **options})
    rng = np.random.default_rng(seed)
    for name, t in model.named_parameters():
        if not t.numpy().any():
            t.numpy()[...] = rng.standard_normal(t.shape) * (0.3 if "modulation" in name else 0.1)
    return model


def window_of(seed, B=4, T=4):
    return tiny_dit.window_of(np.random.default_rng(seed), B, T, SHAPE)


def losses(model, window, stream):
    """All that a world minimises."""
    return model.losses(window, stream) | model.outcome_losses(window)


def draws(model, window, stream):
    """The random numbers of UNet.losses as arrays: tau (R,B), eps (R,B,C,H,W), fed (B,)."""
    B, R = window.shape[0], model._rollout
    spread, share = (Tensor(np.full(B, v, np.float32)) for v in (1 - model._at_noise, model._self_fed))
    tau, eps = [], []
    for t in range(R):
        level = ops.mul(
            ops.uniform(stream, salt=10 * t + 1, shape=(B,)), ops.bernoulli(spread, stream, salt=10 * t + 2)
        )
        none = Tensor(np.zeros((B, *SHAPE), np.float32))
        noise = ops.noise(none, stream, level, salt=10 * t + 3, with_eps=True)[1]
        eps.append(noise.numpy().transpose(0, 3, 1, 2).copy())
        tau.append(level.numpy().copy())
    return {"tau": np.stack(tau), "eps": np.stack(eps), "fed": ops.bernoulli(share, stream, salt=9).numpy().copy()}
