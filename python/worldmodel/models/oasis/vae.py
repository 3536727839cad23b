"""vae: Open-Oasis' autoencoder: vision transformers from 20x20 pixels to 16 numbers and back.

encode: patches -> 6 layers -> norm -> mean (and a variance, unused) of the latents
decode: latents -> 12 layers -> norm -> patches;  layers with rotary positions by row and column
"""

from __future__ import annotations

import numpy as np

from ... import nn, ops
from ...tensor import Tensor
from ..adaln import MLP, Patches

EPS = 1e-6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        self.qkv = nn.Linear(width, 3 * width, init=nn.xavier_uniform)
        self.proj = nn.Linear(width, width, init=nn.xavier_uniform)
        self._heads = heads

    def forward(self, x: Tensor, space: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.qkv(x)
        q, k = ops.qkv_norm_rotary(qkv, *space, heads=self._heads, norm="none", pairs="interleaved")
        return self.proj(ops.attention_qkv(qkv, q, k, heads=self._heads))


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, width: int, heads: int):
        self.norm1, self.attn = nn.LayerNorm(width, EPS), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, EPS), MLP(width, 4 * width, act="gelu_erf")

    def forward(self, x: Tensor, space: tuple[Tensor, Tensor]) -> Tensor:
        x = ops.add(x, self.attn(self.norm1(x), space))
        return ops.add(x, self.mlp(self.norm2(x)))


class OasisVAE(nn.Module):
    """shape: (rows, columns) of pixels."""

    def __init__(
        self,
        shape: tuple[int, int] = (360, 640),
        patch: int = 20,
        latent: int = 16,
        width: int = 1024,
        encoder: int = 6,
        decoder: int = 12,
        heads: int = 16,
    ):
        H, W = shape
        if H % patch or W % patch or width % heads or width // heads % 8:
            raise ValueError(f"OasisVAE: {heads} heads and patches of {patch} do not fit width {width} and {H}x{W}")
        self.patch_embed = Patches(patch, 3, width)
        self.encoder = [Block(width, heads) for _ in range(encoder)]
        self.enc_norm = nn.LayerNorm(width, EPS)
        self.quant_conv = nn.Linear(width, 2 * latent, init=nn.xavier_uniform)
        self.post_quant_conv = nn.Linear(latent, width, init=nn.xavier_uniform)
        self.decoder = [Block(width, heads) for _ in range(decoder)]
        self.dec_norm = nn.LayerNorm(width, EPS)
        self.predictor = nn.Linear(width, 3 * patch * patch, init=nn.xavier_uniform)
        h, w = H // patch, W // patch
        self._grid, self._patch, self._channels = (h, w), patch, latent
        places = np.stack(np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij"), -1).reshape(-1, 2)
        self._space = ops.rotary_table(
            Tensor(places.astype(np.float32)), width // heads // 2, float(h * w), axes=2, kind="pixel"
        )

    @property
    def latent(self) -> tuple[int, int, int]:
        """(rows, columns, channels) of a picture's latents."""
        return (*self._grid, self._channels)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of pixels."""
        return self._grid[0] * self._patch, self._grid[1] * self._patch

    def encode(self, x: Tensor) -> Tensor:
        """Pixels (B,H,W,3) in [-1, 1] -> the mean of the latents (B,h,w,C)."""
        z = self.patch_embed(x)
        for block in self.encoder:
            z = block(z, self._space)
        mean = ops.slice(self.quant_conv(self.enc_norm(z)), -1, 0, self._channels)
        return ops.reshape(mean, (x.shape[0], *self.latent))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B,h,w,C) -> pixels (B,H,W,3), about [-1, 1]."""
        H, W = self.shape
        x = self.post_quant_conv(ops.reshape(z, (z.shape[0], -1, self._channels)))
        for block in self.decoder:
            x = block(x, self._space)
        return ops.unpatchify(self.predictor(self.dec_norm(x)), height=H, width=W, size=self._patch)
