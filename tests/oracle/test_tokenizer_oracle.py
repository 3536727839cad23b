"""The autoencoder against the same network in PyTorch: latents, pictures, gradients, ten training steps."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live oracle needs PyTorch: pip install '.[oracle]'")

import tiny_dit  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import unet_twin  # noqa: E402
from bounds import both, close, first  # noqa: E402
from worldmodel import Tape, Tensor, optim  # noqa: E402
from worldmodel.models.tokenizer import Autoencoder, numbers  # noqa: E402


class Twin(unet_twin.Twin):
    """Frames and latents are (B,C,H,W)."""

    def __init__(self, made, dtype):
        super().__init__(made, unet_twin.weights_of(made, dtype))
        self.wide = made._padded

    def residual(self, name, x):
        return x + self.conv(f"{name}.second", F.silu(self.conv(f"{name}.first", F.silu(x))))

    def encode(self, x):
        B, C, H, W = x.shape
        h, w = (n // 2 for n in self.wide)
        x = F.pad(x, (0, self.wide[1] - W, 0, self.wide[0] - H))
        x = self.conv("stem", x.reshape(B, C, h, 2, w, 2).permute(0, 3, 5, 1, 2, 4).reshape(B, -1, h, w))
        for i, blocks in enumerate(self.m.down):
            x = self.conv(f"shrink.{i - 1}", x, stride=2) if i else x
            for j in range(len(blocks)):
                x = self.residual(f"down.{i}.{j}", x)
        return torch.tanh(self.conv("latent", F.silu(x)))

    def decode(self, z):
        x, (H, W, C) = self.conv("open", z), self.m.frame_shape
        for i in reversed(range(len(self.m.up))):
            for j in range(len(self.m.up[i])):
                x = self.residual(f"up.{i}.{j}", x)
            x = self.conv(f"grow.{i - 1}", x, upsample=2) if i else x
        B, (h, w) = len(z), (n // 2 for n in self.wide)
        x = self.conv("out", F.silu(x)).reshape(B, 2, 2, C, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(B, C, *self.wide)[:, :, :H, :W]


SHAPES = [((16, 16, 3), 4), ((13, 18, 1), 8), ((9, 6, 2), 2)]


@pytest.mark.parametrize(("shape", "down"), SHAPES)
def test_latents_pictures_and_gradients(kernels, shape, down):
    made = Autoencoder(shape, down=down, channels=3, width=8)
    for i, (_, t) in enumerate(made.named_parameters()):
        if not t.numpy().any():
            t[...] = np.random.default_rng(i).standard_normal(t.shape) * 0.1
    frames = tiny_dit.frames_of(np.random.default_rng(0), 2, shape=shape)
    x = first(frames.astype(np.float64) / 127.5 - 1)
    with Tape() as tape:
        z = made.encode(Tensor(frames))
        out = made.decode(z)
        loss = (out * out).mean() + z.mean()
    tape.backward(loss)
    twins = {}

    def whole(dtype, x):
        t = twins[dtype] = Twin(made, dtype)
        z = t.encode(x)
        out = t.decode(z)
        ((out * out).mean() + z.mean()).backward()
        return z, out

    exact, single = both(whole, x)
    for got, want, own in zip((z, out), exact, single, strict=True):
        close(first(got.numpy()), want, own)
    for name, t in made.named_parameters():
        want, own = (unet_twin.as_ours(name, twins[d].w[name].grad.double()) for d in (torch.float64, torch.float32))
        close(t.grad, torch.tensor(want), torch.tensor(own), times=3, floor=2e-6)


def test_ten_training_steps_follow_the_same_path(kernels):
    made = tiny_dit.tokenizer()
    twin = Twin(made, torch.float64)
    frames = [tiny_dit.frames_of(np.random.default_rng(i), 4) for i in range(10)]
    ours, theirs = optim.AdamW(made.parameters(), lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0), []
    optimiser = torch.optim.AdamW(twin.w.values(), lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    mine = []
    for f in frames:
        picture = Tensor(f)
        with Tape() as tape:
            d = made.decode(made.encode(picture)) - numbers(picture)
            loss = (d * d).mean()
        tape.backward(loss)
        ours.step()
        mine.append(loss.item())
        x = torch.tensor(first(f.astype(np.float64) / 127.5 - 1))
        optimiser.zero_grad()
        there = (twin.decode(twin.encode(x)) - x).square().mean()
        there.backward()
        optimiser.step()
        theirs.append(there.item())
    np.testing.assert_allclose(mine, theirs, rtol=2e-4)
    assert mine[-1] < mine[0]
