"""The UNet in PyTorch, from the same weights: for the live oracle, the dump and benchmarks/learning.py."""

import torch
import torch.nn.functional as F


def weights_of(model, dtype=torch.float32):
    """Copies of a UNet's tensors by name, convolutions as (O,C,kh,kw)."""
    out = {}
    for name, t in model.named_tensors():
        w = torch.tensor(t.numpy(), dtype=dtype)
        w = w.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w
        out[name] = w.requires_grad_(t.needs_grad)
    return out


def as_ours(name, tensor):
    """A weight, or its gradient, in our layout."""
    a = tensor.detach()
    return (a.permute(0, 2, 3, 1) if a.ndim == 4 else a).contiguous().numpy()


def sinusoids(t, dim, period=1000.0, scale=100.0):
    i = torch.arange(dim // 2, dtype=t.dtype)
    angle = t[:, None] * scale * period ** (-i / (dim // 2))
    return torch.cat([angle.cos(), angle.sin()], -1)


class Twin:
    """Frames are (B,C,H,W) in [-1, 1] here."""

    def __init__(self, model, weights):
        self.m, self.w = model, weights

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def conv(self, name, x, stride=1, padding=None, upsample=1):
        w = self.w[f"{name}.weight"]
        x = F.interpolate(x, scale_factor=upsample, mode="nearest") if upsample > 1 else x
        padding = w.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, w, self.w[f"{name}.bias"], stride=stride, padding=padding)

    def norm(self, name, x, c):
        scale, shift = self.linear(f"{name}.modulation", c)[:, :, None, None].chunk(2, 1)
        return F.silu(F.group_norm(x, max(1, x.shape[1] // 32)) * (1 + scale) + shift)

    def residual(self, name, x, c):
        h = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", x, c))
        h = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", h, c))
        return h + (self.conv(f"{name}.skip", x) if f"{name}.skip.weight" in self.w else x)

    def network(self, x, c):
        net, p = self.m.network, self.m.network._patch
        B, C, H, W = x.shape
        x = x.reshape(B, C, H // p, p, W // p, p).permute(0, 3, 5, 1, 2, 4).reshape(B, -1, H // p, W // p)
        x = self.conv("network.stem", x.contiguous(memory_format=torch.channels_last))
        skips = []
        for i, blocks in enumerate(net.down):
            x = self.conv(f"network.shrink.{i - 1}", x, stride=2) if i else x
            for j in range(len(blocks)):
                x = self.residual(f"network.down.{i}.{j}", x, c)
            skips.append(x)
        x = self.residual("network.middle", x, c)
        for i in reversed(range(len(net.up))):
            x = torch.cat([self.conv(f"network.grow.{i}", x, upsample=2), skips[i]], 1)
            for j in range(len(net.up[i])):
                x = self.residual(f"network.up.{i}.{j}", x, c)
        x = self.conv("network.out", self.norm("network.norm", x, c))
        return x.reshape(B, p, p, -1, H // p, W // p).permute(0, 3, 4, 1, 5, 2).reshape(B, -1, H, W)

    def predict(self, noisy, context, actions, level):
        """noisy (B,C,H,W), context (B,n C,H,W), actions (B,n,F+1), level (B,) -> x_hat (B,C,H,W)."""
        z = self.linear("actions", actions).flatten(1)
        levels = [sinusoids(t, self.m._levels) for t in (level, torch.zeros_like(level))]
        h = F.silu(self.linear("condition.layers.0", torch.cat([*levels, z], -1)))
        c = F.silu(self.linear("condition.layers.1", h))
        return self.network(torch.cat([noisy, context], 1), c) + context[:, -noisy.shape[1] :]

    def outcome(self, context, actions):
        """The last two frames and actions -> reward logits (B,bins), termination logits (B,)."""
        h = F.silu(self.conv("outcome.frames.patches", context[:, -2 * self.m._shape[2] :], stride=4, padding=0))
        h = F.silu(self.conv("outcome.frames.conv", h, stride=2)).permute(0, 2, 3, 1).flatten(1)
        h = F.silu(self.linear("outcome.frames.out", h))
        z = self.linear("outcome.actions", actions).flatten(1)
        out = self.linear("outcome.heads.out", F.silu(self.linear("outcome.mix", torch.cat([h, z], -1))))
        return out[:, :-1], out[:, -1]


def two_hot(values, bins):
    """Values (B,) as weights of the two bins around each, (B,K)."""
    values = values.clamp(bins[0], bins[-1])
    high = torch.searchsorted(bins, values, right=True).clamp(1, len(bins) - 1)
    low = high - 1
    share = ((values - bins[low]) / (bins[high] - bins[low]))[:, None]
    return F.one_hot(low, len(bins)) * (1 - share) + F.one_hot(high, len(bins)) * share


def judge(twin, window, t, context, actions, dtype):
    """reward and termination losses of step t."""
    logits, end = twin.outcome(context, actions)
    columns = (window.rewards, window.terminated, window.step_weight)
    rewards, ended, weight = (torch.tensor(x.numpy()[:, t], dtype=dtype) for x in columns)
    bins = torch.tensor(twin.m.outcome.heads._bins.numpy(), dtype=dtype)
    reward = -(two_hot(rewards, bins) * F.log_softmax(logits, -1)).sum(-1)
    end = F.binary_cross_entropy_with_logits(end, ended, reduction="none")
    return {"reward": (reward * weight).mean(), "termination": (end * weight).mean()}


def losses(twin, window, draws, dtype=torch.float32):
    """What UNet.losses and outcome_losses say.  draws: for each step of the roll-out tau (B,) and eps (B,C,H,W), and
    fed (B,): which windows see their own guesses."""
    m, n = twin.m, twin.m.context
    frames = torch.tensor(window.frames.numpy(), dtype=dtype).permute(1, 0, 4, 2, 3) / 127.5 - 1
    actions = torch.tensor(window.actions.numpy(), dtype=dtype)
    actions = torch.cat([actions, torch.tensor(window.known.numpy(), dtype=dtype)[..., None]], -1)
    seen, parts = list(frames), {}
    for t in range(n, len(seen)):
        tau, eps = draws["tau"][t - n].to(dtype), draws["eps"][t - n].to(dtype)
        column = tau[:, None, None, None]
        context, past = torch.cat(seen[t - n : t], 1), actions[:, t - n + 1 : t + 1]
        real = frames[t]
        guess = twin.predict((1 - column) * eps + column * real, context, past, tau)
        weight = torch.tensor(window.frame_weight.numpy()[:, t], dtype=dtype)
        parts.setdefault("frames", []).append(((guess - real).square().mean((1, 2, 3)) * weight).mean())
        if t > n:
            for name, loss in judge(twin, window, t, context, past, dtype).items():
                parts.setdefault(f"imagined_{name}", []).append(loss)
        fed = draws["fed"].to(dtype)[:, None, None, None]
        seen[t] = real + fed * (guess.detach().clamp(-1, 1) - real)
    T = len(frames)
    out = {name: sum(several) / m._rollout for name, several in parts.items()}
    return out | judge(twin, window, T - 1, torch.cat([frames[T - 3], frames[T - 2]], 1), actions[:, T - n :], dtype)
