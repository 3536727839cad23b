"""dinov2_twin: DINOv2 written again in PyTorch, from weights under the hub's names."""

import torch
import torch.nn.functional as F


def forward(w, x, registers, way, heads, patch=14):
    """x (B,3,H,W) normalised -> class token, registers, patches (B,N,C)."""
    B, _, H, W = x.shape
    t = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).flatten(2).transpose(1, 2)
    t = torch.cat([w["cls_token"].expand(B, -1, -1), t], 1) + positions(
        w["pos_embed"], H // patch, W // patch, registers, way
    )
    if registers:
        t = torch.cat([t[:, :1], w["register_tokens"].expand(B, -1, -1), t[:, 1:]], 1)
    i = 0
    while f"blocks.{i}.norm1.weight" in w:
        t = block(w, f"blocks.{i}.", t, heads)
        i += 1
    t = norm(w, "norm", t)
    return t[:, 0], t[:, 1 : 1 + registers], t[:, 1 + registers :]


def positions(p, rows, columns, registers, way):
    side = int((p.shape[1] - 1) ** 0.5)
    if rows == columns == side:
        return p
    grid = p[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if way == "hub" and not registers:
        how = {"scale_factor": ((rows + 0.1) / side, (columns + 0.1) / side)}
    else:
        how = {"size": (rows, columns)}
    grid = F.interpolate(grid, mode="bicubic", antialias=registers > 0, **how)
    return torch.cat([p[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def block(w, at, x, heads):
    B, N, C = x.shape
    q, k, v = (
        linear(w, at + "attn.qkv", norm(w, at + "norm1", x)).reshape(B, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    )
    a = ((q @ k.transpose(-1, -2)) / (C // heads) ** 0.5).softmax(-1) @ v
    x = x + w[at + "ls1.gamma"] * linear(w, at + "attn.proj", a.transpose(1, 2).reshape(B, N, C))
    h = norm(w, at + "norm2", x)
    if at + "mlp.w12.weight" in w:
        a, b = linear(w, at + "mlp.w12", h).chunk(2, -1)
        h = linear(w, at + "mlp.w3", F.silu(a) * b)
    else:
        h = linear(w, at + "mlp.fc2", F.gelu(linear(w, at + "mlp.fc1", h)))
    return x + w[at + "ls2.gamma"] * h
