"""Writes conv.npz: ten AdamW steps of tests/conv_net.py by PyTorch (needs the oracle extra).

python tests/dumps/make_conv.py
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conv_net import ADAMW, STEPS, ConvNet, data  # noqa: E402


def forward(w, x, c):
    """conv_net.ConvNet in PyTorch, channels first."""

    def conv(name, x, **options):
        return F.conv2d(x, w[name + ".weight"].permute(0, 3, 1, 2), w[name + ".bias"], padding=1, **options)

    skip = F.silu(conv("first", x.permute(0, 3, 1, 2)))
    h = conv("down", skip, stride=2)
    scale, shift = F.linear(c, w["condition.weight"], w["condition.bias"])[:, :, None, None].chunk(2, 1)
    h = h + conv("middle", F.silu(F.group_norm(h, 4) * (1 + scale) + shift))
    h = skip + conv("up", F.interpolate(h, scale_factor=2, mode="nearest"))
    h = F.silu(F.group_norm(h, 4, w["norm.weight"], w["norm.bias"]))
    return conv("last", h).permute(0, 2, 3, 1)


def trained(weights, batch, dtype=torch.float32):
    """As conv_net.trained, by PyTorch's AdamW; weight decay where a tensor has two axes or more."""
    w = {n: torch.tensor(a, dtype=dtype, requires_grad=True) for n, a in weights.items()}
    x, c, y = (torch.tensor(batch[n], dtype=dtype) for n in "xcy")
    groups = [{"params": [t for t in w.values() if (t.ndim > 1) == decays], "weight_decay": d}
              for decays, d in ((True, ADAMW["weight_decay"]), (False, 0.0))]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=ADAMW["betas"], eps=ADAMW["eps"])
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = (forward(w, x, c) - y).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.values()), ADAMW["clip"])
        losses.append(loss.item())
        optimiser.step()
    return losses, {n: t.detach().numpy() for n, t in w.items()}


if __name__ == "__main__":
    begin, batch = ConvNet().state_dict(), data()
    losses, end = trained(begin, batch)
    arrays = {**{f"begin.{n}": a for n, a in begin.items()}, **{f"end.{n}": a for n, a in end.items()}}
    np.savez_compressed(Path(__file__).with_name("conv.npz"), losses=np.array(losses), **arrays)
