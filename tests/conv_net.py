"""A small conv net of every kind of layer that a UNet has, for traces of its training
(tests/dumps/make_conv.py).
"""

import numpy as np
from worldmodel import Tape, Tensor, nn, ops, optim

STEPS, ADAMW = 10, {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}


class ConvNet(nn.Module):
    """Convolution, strided, AdaGN, upsampled, skip, group norm, out; x (B,H,W,3), c (B,5) -> (B,H,W,3)."""

    def __init__(self, width: int = 16):
        self.first = nn.Conv2d(3, width, act="silu")
        self.down = nn.Conv2d(width, width, stride=2, padding=1)
        self.condition = nn.Linear(5, 2 * width)
        self.middle = nn.Conv2d(width, width)
        self.up = nn.Conv2d(width, width, upsample=2)
        self.norm = nn.GroupNorm(4, width)
        self.last = nn.Conv2d(width, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        skip = self.first(x)
        h, m = self.down(skip), self.condition(c)
        h = self.middle(ops.ada_group_norm(h, m, m, groups=4, act="silu", scale_chunk=0, shift_chunk=1), h)
        return self.last(ops.silu(self.norm(self.up(h, skip))))


def data(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"x": (4, 8, 8, 3), "c": (4, 5), "y": (4, 8, 8, 3)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def trained(
    weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses of ten steps of AdamW and the weights after them."""
    net = ConvNet()
    net.load_state_dict(weights)
    optimiser = optim.AdamW(net, **ADAMW)
    x, c, y = (Tensor(batch[name]) for name in "xcy")
    losses = []
    for _ in range(STEPS):
        with Tape() as tape:
            loss = ops.mean(ops.square(net(x, c) - y))
        tape.backward(loss)
        losses.append(loss.item())
        optimiser.step()
    return losses, net.state_dict()
