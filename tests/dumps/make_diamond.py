"""make_diamond: what the PyTorch twin of DIAMOND says of tests/tiny_diamond.py, in float64, into dumps/diamond.npz.

python tests/dumps/make_diamond.py         # needs PyTorch
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "oracle")]

import diamond_twin as twin  # noqa: E402
from tiny_diamond import SMALL, inputs, made  # noqa: E402
from worldmodel.pretrained.diamond import state_of  # noqa: E402


def first(x):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(x, -1, -3))).double()


def last(x):
    return np.moveaxis(x.detach().numpy(), -3, -1).astype(np.float32)


if __name__ == "__main__":
    world, policy = made(**SMALL)
    w = twin.Weights({k: torch.tensor(v).double() for k, v in state_of(world, policy).items()})
    noisy, context, actions, _ = inputs((16, 16, 3))
    inner, act = w / "denoiser" / "inner_model", torch.tensor(actions)
    said = twin.ask(inner, first(noisy), torch.tensor([0.01, 3.0]).double(), first(context), act)
    frames = {
        f"order{o}": last(twin.sample(inner, first(noisy), first(context), act, 3, o, 0.0, (), False)) for o in (1, 2)
    }
    past = context.reshape(2, 16, 16, 4, 3).transpose(0, 3, 1, 2, 4)
    reward, end, _ = twin.reward_end(w / "rew_end_model", first(past), act[:, 1:])
    state = (torch.zeros(2, 48).double(), torch.zeros(2, 48).double())
    logits, value, _ = twin.actor_critic(w / "actor_critic", first(past[:, 0]), state, (1, 1, 0))
    numbers = {k: v.detach().numpy() for k, v in dict(reward=reward, end=end, logits=logits, value=value).items()}
    np.savez_compressed(HERE / "diamond.npz", said=last(said), **frames, **numbers)
