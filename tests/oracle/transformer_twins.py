"""transformer_twins: Open-Oasis' transformer and autoencoder, and the class-conditional DiT, again in PyTorch."""

import math

import torch
import torch.nn.functional as F


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def depth(w, name):
    return len({k.split(".")[1] for k in w if k.startswith(name + ".")})


def mlp(w, name, x, approximate="tanh"):
    return linear(w, name + ".fc2", F.gelu(linear(w, name + ".fc1", x), approximate=approximate))


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def levels(w, t):
    f = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float64) / 128).to(t.dtype)
    a = t[..., None] * f
    return linear(w, "t_embedder.mlp.2", F.silu(linear(w, "t_embedder.mlp.0", torch.cat([a.cos(), a.sin()], -1))))


def patches(w, name, x):
    """(M,H,W,C) -> (M,N,width)."""
    p = w[name + ".weight"].shape[-1]
    return F.conv2d(x.permute(0, 3, 1, 2), w[name + ".weight"], w[name + ".bias"], stride=p).flatten(2).transpose(1, 2)


def attend(q, k, v, causal=False):
    """(..., heads, N, D)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def heads_of(x, heads):
    """(..., N, heads D) -> (..., heads, N, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def joined(x):
    return x.transpose(-2, -3).flatten(-2)


def turn(x, angle):
    """Neighbouring pairs of the first columns turn; angle (N, pairs)."""
    n = angle.shape[-1]
    a, b = x[..., : 2 * n : 2], x[..., 1 : 2 * n : 2]
    c, s = angle.cos(), angle.sin()
    return torch.cat([torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2), x[..., 2 * n :]], -1)


def grid_angles(h, w, count, top, dtype):
    """Pixel positions: (h w, 2 count)."""
    f = torch.linspace(1, top / 2, count, dtype=torch.float64) * math.pi
    rows = torch.linspace(-1, 1, h, dtype=torch.float64)[:, None, None] * f
    columns = torch.linspace(-1, 1, w, dtype=torch.float64)[None, :, None] * f
    return torch.cat([rows.expand(h, w, -1), columns.expand(h, w, -1)], -1).flatten(0, 1).to(dtype)


# ---- Open-Oasis ----


def oasis_block(w, at, x, c, heads, grid):
    """x (B,T,N,D), c (B,T,D)."""
    for half in ("s", "t"):
        m = linear(w, f"{at}{half}_adaLN_modulation.1", F.silu(c))[:, :, None].chunk(6, -1)
        h = norm(x) * (1 + m[1]) + m[0]
        q, k, v = linear(w, f"{at}{half}_attn.to_qkv", h).chunk(3, -1)
        if half == "s":
            q, k, v = (heads_of(a, heads) for a in (q, k, v))
            angle = grid_angles(*grid, q.shape[-1] // 4, 256, x.dtype)
            a = joined(attend(turn(q, angle), turn(k, angle), v))
        else:
            q, k, v = (heads_of(a.transpose(1, 2), heads) for a in (q, k, v))
            D, T = q.shape[-1], x.shape[1]
            f = 10000.0 ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)
            angle = (torch.arange(T, dtype=torch.float64)[:, None] * f).to(x.dtype)
            a = joined(attend(turn(q, angle), turn(k, angle), v, causal=True)).transpose(1, 2)
        x = x + m[2] * linear(w, f"{at}{half}_attn.to_out", a)
        x = x + m[5] * mlp(w, f"{at}{half}_mlp", norm(x) * (1 + m[4]) + m[3])
    return x


def last(w, x, c):
    shift, scale = linear(w, "final_layer.adaLN_modulation.1", F.silu(c)).unsqueeze(-2).chunk(2, -1)
    return linear(w, "final_layer.linear", norm(x) * (1 + scale) + shift)


def to_pixels(x, h, w, p):
    """(M, h w, p p C) -> (M, h p, w p, C)."""
    M = len(x)
    return x.reshape(M, h, w, p, p, -1).transpose(2, 3).reshape(M, h * p, w * p, -1)


def oasis(w, x, t, actions, heads):
    """x (B,T,H,W,C), t (B,T), actions (B,T,25) -> v."""
    B, T, H, W, C = x.shape
    p = w["x_embedder.proj.weight"].shape[-1]
    c = levels(w, t) + linear(w, "external_cond", actions)
    h = patches(w, "x_embedder.proj", x.flatten(0, 1)).unflatten(0, (B, T))
    for i in range(depth(w, "blocks")):
        h = oasis_block(w, f"blocks.{i}.", h, c, heads, (H // p, W // p))
    return to_pixels(last(w, h, c).flatten(0, 1), H // p, W // p, p).unflatten(0, (B, T))


def sigmoid_bars(dtype):
    t = torch.linspace(0, 1000, 1001, dtype=torch.float64) / 1000
    v0, v1 = torch.tensor(-3.0).double().sigmoid(), torch.tensor(3.0).double().sigmoid()
    a = (v1 - (t * 6 - 3).sigmoid()) / (v1 - v0)
    a = a / a[0]
    return torch.cumprod(1 - (1 - a[1:] / a[:-1]).clip(0, 0.999), 0).to(dtype)


@torch.no_grad()
def oasis_frame(w, x, noise, actions, heads, steps=10, window=32):
    """The frame after x (B,T,H,W,C) from noise (B,1,H,W,C): the whole window in every step."""
    bars, at = sigmoid_bars(x.dtype), torch.linspace(-1, 999, steps + 1)
    start = max(0, x.shape[1] + 1 - window)
    x, actions, new = x[:, start:], actions[:, start:], noise.clamp(-20, 20)
    for k in range(steps, 0, -1):
        now = int(at[k])
        t = torch.full((len(x), x.shape[1] + 1), 14.0, dtype=x.dtype)
        t[:, -1] = now
        v = oasis(w, torch.cat([x, new], 1), t, actions, heads)[:, -1:]
        a = bars[now]
        clean = a.sqrt() * new - (1 - a).sqrt() * v
        eps = ((1 / a).sqrt() * new - clean) / (1 / a - 1).sqrt()
        b = torch.ones(()) if k == 1 else bars[max(int(at[k - 1]), 0)]
        new = b.sqrt() * clean + (1 - b).sqrt() * eps
    return new


def vae_block(w, at, x, heads, angle):
    def layer(name, x):
        return F.layer_norm(x, x.shape[-1:], w[at + name + ".weight"], w[at + name + ".bias"], 1e-6)

    q, k, v = (heads_of(a, heads) for a in linear(w, at + "attn.qkv", layer("norm1", x)).chunk(3, -1))
    x = x + linear(w, at + "attn.proj", joined(attend(turn(q, angle), turn(k, angle), v)))
    return x + mlp(w, at + "mlp", layer("norm2", x), "none")


def vae_run(w, part, x, heads, h, wide):
    D = x.shape[-1] // heads
    angle = grid_angles(h, wide, D // 8, h * wide, x.dtype)
    for i in range(depth(w, part)):
        x = vae_block(w, f"{part}.{i}.", x, heads, angle)
    name = {"encoder": "enc_norm", "decoder": "dec_norm"}[part]
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)


def encode(w, x, heads):
    """(B,H,W,3) in [-1,1] -> mean (B,h w,C)."""
    p = w["patch_embed.proj.weight"].shape[-1]
    z = vae_run(w, "encoder", patches(w, "patch_embed.proj", x), heads, x.shape[1] // p, x.shape[2] // p)
    return linear(w, "quant_conv", z).chunk(2, -1)[0]


def decode(w, z, heads, h, wide):
    """(B,h w,C) -> (B,H,W,3); a patch's numbers are (channel, row, column)."""
    x = linear(w, "predictor", vae_run(w, "decoder", linear(w, "post_quant_conv", z), heads, h, wide))
    p = int((x.shape[-1] // 3) ** 0.5)
    x = x.reshape(len(x), h, wide, 3, p, p).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(len(x), h * p, wide * p, 3)


# ---- the class-conditional DiT ----


def dit_block(w, at, x, c, heads):
    m = linear(w, at + "adaLN_modulation.1", F.silu(c))[:, None].chunk(6, -1)
    q, k, v = (heads_of(a, heads) for a in linear(w, at + "attn.qkv", norm(x) * (1 + m[1]) + m[0]).chunk(3, -1))
    x = x + m[2] * linear(w, at + "attn.proj", joined(attend(q, k, v)))
    return x + m[5] * mlp(w, at + "mlp", norm(x) * (1 + m[4]) + m[3])


def dit(w, x, t, labels, heads):
    """x (B,H,W,C), t (B,), labels (B,) -> (B,H,W,C or 2 C)."""
    H, W = x.shape[1:3]
    p = w["x_embedder.proj.weight"].shape[-1]
    h = patches(w, "x_embedder.proj", x) + w["pos_embed"]
    c = levels(w, t) + w["y_embedder.embedding_table.weight"][labels]
    for i in range(depth(w, "blocks")):
        h = dit_block(w, f"blocks.{i}.", h, c, heads)
    return to_pixels(last(w, h, c), H // p, W // p, p)


@torch.no_grad()
def dit_sample(w, x, labels, heads, steps, guidance):
    """DDIM; guidance on the first three channels."""
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).to(x.dtype)
    C, none = x.shape[-1], len(w["y_embedder.embedding_table.weight"]) - 1
    times = [round(i * 999 / max(1, steps - 1)) for i in range(steps)]
    for i in reversed(range(steps)):
        t = torch.full((len(x),), float(times[i]), dtype=x.dtype)
        said, free = (dit(w, x, t, y, heads)[..., :C] for y in (labels, torch.full_like(labels, none)))
        eps = torch.cat([free[..., :3] + guidance * (said - free)[..., :3], said[..., 3:]], -1)
        a, b = bars[times[i]], bars[times[i - 1]] if i else torch.ones(())
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return x


@torch.no_grad()
def dit_sample_ddpm(w, x, labels, heads, steps, guidance, noises):
    """Ancestral steps with learned variances, by the respaced betas and q(x_{t-1} | x_t, x_0); noises: one a step."""
    whole = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    times = [round(i * 999 / max(1, steps - 1)) for i in range(steps)]
    bars = whole[times]
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    betas = 1 - bars / before
    small = betas * (1 - before) / (1 - bars)
    C, none = x.shape[-1], len(w["y_embedder.embedding_table.weight"]) - 1
    for i in reversed(range(steps)):
        bar, prev, beta, low = (float(a[i]) for a in (bars, before, betas, small))
        t = torch.full((len(x),), float(times[i]), dtype=x.dtype)
        said, free = (dit(w, x, t, y, heads) for y in (labels, torch.full_like(labels, none)))
        eps = torch.cat([free[..., :3] + guidance * (said - free)[..., :3], said[..., 3:C]], -1)
        start = (1 / bar) ** 0.5 * x - (1 / bar - 1) ** 0.5 * eps
        x = beta * prev**0.5 / (1 - bar) * start + (1 - prev) * (1 - beta) ** 0.5 / (1 - bar) * x
        if i and said.shape[-1] == C:
            x = x + beta**0.5 * noises[i].to(x.dtype)
        elif i:
            share = (said[..., C:] + 1) / 2
            log = share * math.log(beta) + (1 - share) * math.log(low)
            x = x + torch.exp(0.5 * log) * noises[i].to(x.dtype)
    return x
