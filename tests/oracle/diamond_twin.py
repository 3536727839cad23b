"""diamond_twin: DIAMOND's networks written again in PyTorch, from weights under the original names and in
its layouts."""

import torch
import torch.nn.functional as F


class Weights:
    """A state dict read by paths: w["conv_in"] is (weight, bias)."""

    def __init__(self, state, prefix="", paths=None):
        self.state, self.prefix = state, prefix
        self.paths = paths or {".".join(k.split(".")[:n]) for k in state for n in range(1, k.count(".") + 1)}

    def __truediv__(self, name):
        return Weights(self.state, f"{self.prefix}{name}.", self.paths)

    def __getitem__(self, name):
        return self.state[self.prefix + name]

    def has(self, name):
        return f"{self.prefix}{name}" in self.paths

    def count(self):
        """How many children 0, 1, ... there are."""
        n = 0
        while self.has(n):
            n += 1
        return n

    def linear(self, x):
        return F.linear(x, self["weight"], self.state.get(self.prefix + "bias"))

    def conv(self, x, stride=1):
        return F.conv2d(x, self["weight"], self["bias"], stride=stride, padding=self["weight"].shape[-1] // 2)

    def group_norm(self, x):
        return F.group_norm(x, max(1, x.shape[1] // 32), self["norm.weight"], self["norm.bias"])


def ada_group_norm(w, x, c):
    scale, shift = (w / "linear").linear(c)[:, :, None, None].chunk(2, 1)
    return F.group_norm(x, max(1, x.shape[1] // 32)) * (1 + scale) + shift


def attention(w, x):
    """The residual is the normalised x."""
    B, C, H, W = x.shape
    heads, x = max(1, C // 8), (w / "norm").group_norm(x)
    qkv = (w / "qkv_proj").conv(x).reshape(B, 3, heads, C // heads, H * W)
    q, k, v = qkv.transpose(-1, -2).unbind(1)
    y = ((q @ k.transpose(-1, -2)) * (C // heads) ** -0.5).softmax(-1) @ v
    return x + (w / "out_proj").conv(y.transpose(-1, -2).reshape(B, C, H, W))


def residual(w, x, c):
    skip = (w / "proj").conv(x) if w.has("proj") else x
    x = (w / "conv1").conv(F.silu(ada_group_norm(w / "norm1", x, c)))
    x = (w / "conv2").conv(F.silu(ada_group_norm(w / "norm2", x, c))) + skip
    return attention(w / "attn", x) if w.has("attn") else x


def residuals(w, x, c, beside=None):
    outputs, w = [], w / "resblocks"
    for i in range(w.count()):
        x = residual(w / i, x if beside is None else torch.cat([x, beside[i]], 1), c)
        outputs.append(x)
    return x, outputs


def unet(w, x, c):
    H, W = x.shape[-2:]
    levels = (w / "d_blocks").count()
    x = F.pad(x, (0, -W % 2 ** (levels - 1), 0, -H % 2 ** (levels - 1)))
    skips = []
    for i in range(levels):
        x = (w / "downsamples" / i / "conv").conv(x, stride=2) if i else x
        begin = x
        x, outputs = residuals(w / "d_blocks" / i, x, c)
        skips.append([begin, *outputs])
    x, _ = residuals(w / "mid_blocks", x, c)
    for i in range(levels):
        x = (w / "upsamples" / i / "conv").conv(F.interpolate(x, scale_factor=2, mode="nearest")) if i else x
        x, _ = residuals(w / "u_blocks" / i, x, c, skips[-1 - i][::-1])
    return x[..., :H, :W]


def inner_model(w, noisy, level, context, actions):
    """noisy (B,C,H,W), level (B,), context (B,n C,H,W), actions (B,n) -> F."""
    angle = 2 * torch.pi * level[:, None] * w["noise_emb.weight"]
    c = torch.cat([angle.cos(), angle.sin()], 1) + w["act_emb.0.weight"][actions].flatten(1)
    c = (w / "cond_proj" / 2).linear(F.silu((w / "cond_proj" / 0).linear(c)))
    x = unet(w / "unet", (w / "conv_in").conv(torch.cat([context, noisy], 1)), c)
    return (w / "conv_out").conv(F.silu((w / "norm_out").group_norm(x)))


def conditioners(sigma, data=0.5, offset=0.3):
    s2 = sigma**2 + offset**2
    both = s2 + data**2
    return 1 / both.sqrt(), s2.sqrt() * data / both.sqrt(), data**2 / both, s2.log() / 8  # c_in, c_out, c_skip, c_noise


def ask(w, noisy, sigma, context, actions):
    c_in, _, _, c_noise = conditioners(sigma)
    return inner_model(w, noisy * c_in[:, None, None, None], c_noise, context / 0.5, actions)


def denoised(w, noisy, sigma, context, actions, to_bytes=True):
    _, c_out, c_skip, _ = (c[:, None, None, None] for c in conditioners(sigma))
    x = c_skip * noisy + c_out * ask(w, noisy, sigma, context, actions)
    return x.clamp(-1, 1).add(1).div(2).mul(255).byte().to(x.dtype).div(255).mul(2).sub(1) if to_bytes else x


def loss(w, clean, noisy, sigma, context, actions):
    """Noise is given: it is data."""
    _, c_out, c_skip, _ = (c[:, None, None, None] for c in conditioners(sigma))
    said = ask(w, noisy, sigma, context, actions)
    return F.mse_loss(said, (clean - c_skip * noisy) / c_out)


def karras(steps, low=2e-3, high=5.0, rho=7.0):
    at = torch.linspace(0, 1, steps, dtype=torch.float64)
    return [*((high ** (1 / rho) + at * (low ** (1 / rho) - high ** (1 / rho))) ** rho).tolist(), 0.0]


@torch.no_grad()
def sample(w, noise, context, actions, steps=3, order=1, churn=0.0, more=(), to_bytes=True):
    x, more, sigmas = noise, list(more), karras(steps)
    gamma = min(churn / steps, 2**0.5 - 1)
    for now, then in zip(sigmas[:-1], sigmas[1:], strict=True):
        high = now * (1 + gamma)
        if gamma:
            x = x + more.pop(0) * (high**2 - now**2) ** 0.5
        level = torch.full_like(x[:, 0, 0, 0], now)
        slope = (x - denoised(w, x, level, context, actions, to_bytes)) / high
        if order == 2 and then:
            x2 = x + slope * (then - high)
            again = denoised(w, x2, torch.full_like(level, then), context, actions, to_bytes)
            slope = (slope + (x2 - again) / then) / 2
        x = x + slope * (then - high)
    return x


def reward_end(w, frames, actions, h=None):
    """frames (B,T+1,C,H,W), actions (B,T) -> reward logits (B,T,3), end logits (B,T,2), state."""
    B, T = actions.shape
    x = torch.cat([frames[:, :-1], frames[:, 1:]], 2).flatten(0, 1)
    c = w["act_emb.weight"][actions].flatten(0, 1)
    e = w / "encoder"
    x = (e / "conv_in").conv(x)
    for i in range((e / "blocks").count()):
        x = (e / "downsamples" / i / "conv").conv(x, stride=2) if e.has(f"downsamples.{i}") else x
        x, _ = residuals(e / "blocks" / i, x, c)
    out, h = lstm(w / "lstm", x.reshape(B, T, -1), h, "_l0")
    logits = (w / "head" / 2).linear(F.silu((w / "head" / 0).linear(out)))
    return logits[..., :3], logits[..., 3:], h


def lstm(w, x, state=None, tail=""):
    """x (B,T,K) -> (B,T,H), last state."""
    width = w["weight_hh" + tail].shape[1]
    h, c = state or (x.new_zeros(len(x), width), x.new_zeros(len(x), width))
    out = []
    for t in range(x.shape[1]):
        i, f, g, o = (
            F.linear(x[:, t], w["weight_ih" + tail], w["bias_ih" + tail])
            + F.linear(h, w["weight_hh" + tail], w["bias_hh" + tail])
        ).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out, 1), (h, c)


def reward_end_loss(w, frames, actions, rewards, ends):
    reward, end, _ = reward_end(w, frames, actions)
    return F.cross_entropy(reward.flatten(0, 1), (rewards.sign() + 1).long().flatten()), F.cross_entropy(
        end.flatten(0, 1), ends.long().flatten()
    )


def actor_critic(w, frames, state, down):
    """frames (B,C,H,W) -> logits, values, state."""
    e, at = w / "encoder" / "encoder", 1
    x = (e / 0).conv(frames)
    for halve in down:
        skip = (e / at / "skip_projection").conv(x) if e.has(f"{at}.skip_projection") else x
        x = skip + (e / at / "f" / 2).conv(F.silu((e / at / "f" / 0).group_norm(x)))
        x, at = (F.max_pool2d(x, 2), at + 2) if halve else (x, at + 1)
    _, (h, c) = lstm(w / "lstm", x.flatten(1)[:, None], state)
    return (w / "actor_linear").linear(h), (w / "critic_linear").linear(h)[:, 0], (h, c)
