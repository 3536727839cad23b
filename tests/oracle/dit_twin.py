"""The DiT again, in plain PyTorch with the same weight names: what ours is compared with.  Written from the
formulas at the head of models/dit.py; it knows no op of ours."""

import torch
import torch.nn.functional as F


def turn(x, cos, sin):
    """Rotary: the first half of each head's columns with the second half."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def rms(x, scale=None, eps=1e-6):
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x if scale is None else x * scale


def angles(position, width, base):
    """position (N, axes) -> cos, sin (N, width / 2), the axes side by side."""
    each = width // 2 // position.shape[1]
    frequency = base ** (-torch.arange(each, dtype=position.dtype) / each)
    a = (position[:, :, None] * frequency).flatten(1)
    return a.cos(), a.sin()


class Twin:
    """weights: name -> torch tensor; config: a DiTConfig; grid: rows and columns of patches."""

    def __init__(self, weights, config, frame_shape, grid, patch):
        self.w, self.config, self.shape, self.grid, self.patch = weights, config, frame_shape, grid, patch
        dtype = next(iter(weights.values())).dtype
        rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        self.space = angles(
            torch.stack([rows.flatten(), columns.flatten()], -1).to(dtype), config.head_width, 100.0
        )
        self.heads = config.width // config.head_width

    def linear(self, name, x):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def conv(self, name, x, **options):
        """x (F,H,W,C); weight (O,kh,kw,C)."""
        y = F.conv2d(
            x.permute(0, 3, 1, 2),
            self.w[name + ".weight"].permute(0, 3, 1, 2),
            self.w[name + ".bias"],
            **options,
        )
        return y.permute(0, 2, 3, 1)

    def heads_of(self, x):
        return x.unflatten(-1, (self.heads, self.config.head_width)).transpose(-3, -2)

    def vector(self, actions, known):
        known = known[..., None]
        return self.linear("condition.action", actions) * known + self.w["condition.unknown"] * (1 - known)

    def told(self, waves, size):
        return self.linear(
            "condition.mix",
            F.silu(self.linear("condition.level", waves) + self.linear("condition.size", size)),
        )

    def space_attention(self, name, x):
        q, k, v = (self.heads_of(t) for t in self.linear(name + ".qkv", x).chunk(3, -1))
        q, k = (
            turn(rms(q, self.w[name + ".q_scale"]), *self.space),
            turn(rms(k, self.w[name + ".k_scale"]), *self.space),
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)

    def time_attention(self, name, x):
        x = x.transpose(1, 2)  # (B,N,T,width)
        q, k, v = (self.heads_of(self.linear(f"{name}.{part}", x)) for part in "qkv")
        frames = torch.arange(x.shape[2], dtype=x.dtype)[:, None]
        cos, sin = angles(frames, self.config.head_width, 1000.0)
        q, k = (
            turn(rms(q, self.w[name + ".q_scale"]), cos, sin),
            turn(rms(k, self.w[name + ".k_scale"]), cos, sin),
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(-3, -2).flatten(-2).transpose(1, 2)

    def block(self, i, x, c):
        name = f"blocks.{i}"
        m = self.linear(name + ".modulation", c).unsqueeze(2).split(self.config.width, -1)

        def normed(part):
            return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + m[3 * part + 1]) + m[3 * part]

        x = x + m[2] * self.linear(name + ".space.out", self.space_attention(name + ".space", normed(0)))
        if len(m) == 9:
            x = x + m[8] * self.linear(name + ".time.out", self.time_attention(name + ".time", normed(2)))
        a, b = F.linear(normed(1), self.w[name + ".up"]).chunk(2, -1)
        return x + m[5] * self.linear(name + ".down", F.silu(a) * b)

    def conv_block(self, name, x, c):
        m = self.linear(name + ".modulation", c)[:, None, None].chunk(4, -1)

        def normed(h, part):
            groups = max(1, h.shape[-1] // 32)
            h = F.group_norm(h.permute(0, 3, 1, 2), groups, eps=1e-5).permute(0, 2, 3, 1)
            return F.silu(h * (1 + m[2 * part + 1]) + m[2 * part])

        h = self.conv(name + ".first", normed(x, 0), padding=1)
        return x + self.conv(name + ".second", normed(h, 1), padding=1)

    def tokens(self, x, c):
        pad = (0, 0, 0, self.grid[1] * self.patch - x.shape[2], 0, self.grid[0] * self.patch - x.shape[1])
        x, skips = F.pad(x, pad), []
        for i in range(self.config.levels if self.config.stem else 0):
            if i:
                x = self.conv(f"patches.shrink.{i - 1}", x, padding=1, stride=2)
            else:
                x = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3)
                x = self.conv("patches.first", x, padding=1)
            x = self.conv_block(f"patches.before.{i}", x, c)
            skips.append(x)
        x = self.conv("patches.cut", x, stride=self.w["patches.cut.weight"].shape[1])
        return x.flatten(1, 2) + self.w["patches.position"], skips

    def frames(self, x, skips, c):
        (h, w), (H, W, _), p = self.grid, self.shape, self.patch >> len(skips)

        def joined(x, h, w, p):
            x = x.unflatten(-1, (p, p, -1)).unflatten(1, (h, w))
            return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)

        x = joined(self.linear("patches.out", x), h, w, p)
        for i in reversed(range(len(skips))):
            if i < len(skips) - 1:
                x = self.conv(
                    f"patches.grow.{i}", x.repeat_interleave(2, 1).repeat_interleave(2, 2), padding=1
                )
            x = self.conv_block(f"patches.after.{i + 1}", x + skips[i], c)
        if skips:
            x = self.conv("patches.last", F.silu(self.conv_block("patches.after.0", x, c)), padding=1)
            x = joined(x.flatten(1, 2), x.shape[1], x.shape[2], 2)
        return x[:, :H, :W]

    def say(self, noisy, carried, mix, waves, size, z):
        """noisy (B,T,H,W,C), carried the same or None; mix: of diffusion.mix; level features; z (B,T,32) ->
        frames, features."""
        B, T = noisy.shape[:2]
        c = F.silu(self.told(waves, size) + self.linear("condition.z", z))
        out, x = self.body(noisy, carried, mix, c)
        features = F.silu(self.linear("features", self.linear("read", rms(x)).flatten(2)))
        return out, features

    def body(self, noisy, carried, mix, c):
        """The clean frames and the last tokens; c (B,T,width)."""
        lead, flat, x = noisy.shape[:2], c.flatten(0, 1), noisy * mix[3]
        x, skips = self.tokens((x if carried is None else torch.cat([x, carried], -1)).flatten(0, 1), flat)
        x = x.unflatten(0, lead)
        for i in range(self.config.layers):
            x = self.block(i, x, c)
        shift, scale = self.linear("modulation", c).unsqueeze(2).chunk(2, -1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        out = self.frames(h.flatten(0, 1), skips, flat).unflatten(0, lead) * mix[2] + noisy * mix[0]
        return (out if carried is None else out + carried * mix[1]), x

    def head_losses(self, features, rewards, ends, weight):
        """Means over weight (B,T)."""
        bins, limit = self.config.bins, self.config.reward_limit
        out = self.linear("heads.out", features)
        even = torch.linspace(-limit, limit, bins, dtype=out.dtype)
        centres = torch.sign(even) * torch.expm1(even.abs())
        value = rewards.clamp(centres[0], centres[-1])
        above = torch.searchsorted(centres, value, right=True).clamp(1, bins - 1)
        part = (value - centres[above - 1]) / (centres[above] - centres[above - 1])
        target = F.one_hot(above - 1, bins) * (1 - part)[..., None] + F.one_hot(above, bins) * part[..., None]
        reward = -(out[..., :-1].log_softmax(-1) * target).sum(-1)
        end = F.binary_cross_entropy_with_logits(out[..., -1], ends, reduction="none")
        total = weight.sum().clamp(min=1)
        return (reward * weight).sum() / total, (end * weight).sum() / total


def shortcut_target(x, levels, say, clip=1.0):
    """What two steps of half the size say of the clean frame: x + (1 - tau)(v + v') / 2, v = (said - x) / (1
    - tau)."""
    tau, half = levels
    t, d = tau[..., None, None, None], half[..., None, None, None]
    first = say(x, tau)
    v = (first - x) / (1 - t).clamp(min=1e-5)
    there = x + d * (first.clamp(-clip, clip) - x) / (1 - t).clamp(min=1e-5)
    second = say(there, tau + half)
    v2 = (second - there) / (1 - t - d).clamp(min=1e-5)
    return (x + (1 - t) * (v + v2) / 2).clamp(-clip, clip)
