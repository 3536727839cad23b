"""One loss of our DiT and of its PyTorch twin, on the same windows, noise and levels; what the dump and the
live test share."""

import numpy as np
import torch
from dit_twin import Twin, shortcut_target
from worldmodel import diffusion, ops
from worldmodel.diffusion import carried, draw_levels, level_features
from worldmodel.tensor import Tensor


def twin_of(model, dtype):
    """A twin with copies of the model's weights that need gradients."""
    weights = {
        n: torch.tensor(t.numpy(), dtype=dtype, requires_grad=t.needs_grad) for n, t in model.named_tensors()
    }
    patch = model.patches.cut.weight.shape[1] << (model.config.levels if model.config.stem else 0)
    return Twin(weights, model.config, model.frame_shape, model.patches.grid, patch)


def twin_losses(twin, model, window, stream, dtype):
    """What model.losses says, computed by the twin.  Noise and levels are drawn by ours: they are data."""

    def of(a):
        return torch.tensor(np.asarray(a), dtype=dtype)

    B, T = window.shape
    lv = draw_levels(model.objective, stream, T)
    noisy, clean = (
        of(t.numpy())
        for t in ops.noise_frames(window.frames, stream, Tensor(lv.tau), salt=diffusion.SALT_NOISE)
    )
    u = ops.uniform(stream, salt=diffusion.SALT_DROPOUT, shape=(B, T)).numpy()
    known = window.known.numpy() * (u >= model.config.action_dropout)
    z = twin.vector(of(window.actions.numpy()), of(known))

    def say(x, tau, size, z):
        before = np.concatenate([np.zeros_like(tau[:, :1]), tau[:, :-1]], 1)
        waves, one = level_features(tau, size, before, model.objective.sizes)
        part = of(carried(before))[..., None, None, None]
        carry = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) * part if model.config.change else None
        mix = of(diffusion.mix(tau, before, model.config.change))[..., None, None, None]
        return twin.say(x, carry, mix, of(waves), of(one), z)

    n, target = lv.rows, clean
    if n:
        with torch.no_grad():
            small = np.where(lv.context[:n], lv.size[:n], lv.half)
            twice = shortcut_target(
                noisy[:n],
                (of(lv.tau[:n]), of(lv.half)),
                lambda x, tau: say(x, tau.numpy().astype(np.float32), small, z[:n])[0],
            )
            keep = torch.tensor(lv.context[:n])[..., None, None, None]
            target = torch.cat([torch.where(keep, clean[:n], twice), clean[n:]])
    frames, features = say(noisy, lv.tau, lv.size, z)
    seen = window.frame_weight.numpy()
    weight = of(diffusion.frame_weight(model.objective, lv) * seen / max(float(seen.sum()), 1.0))
    error = (frames - target).square().mean((2, 3, 4))
    read = of(window.step_weight.numpy() * (lv.tau == 0))
    reward, end = twin.head_losses(features, of(window.rewards.numpy()), of(window.terminated.numpy()), read)
    config = model.config
    return {
        "frame": (error * weight).sum(),
        "reward": reward * config.reward_weight,
        "termination": end * config.termination_weight,
    }
