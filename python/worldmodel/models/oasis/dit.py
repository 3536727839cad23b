"""dit: Open-Oasis' transformer over latent frames (Decart & Etched 2024, github.com/etched-ai/open-oasis).

    c_t   = t_embedder(level_t) + external_cond(action_t)                 one condition a frame
    layer : x += gate spatial_attention(...), x += gate mlp(...)          within a frame; rotary by row and column
            x += gate temporal_attention(...), x += gate mlp(...)         over frames, causal; rotary by time
            each half with a modulation of its own
    out   : v of each frame's latents

Time is causal, so what a frame leaves for later ones (keys and values of each layer, `Past`) depends on frames up to it
only: while the window holds the same frames, it need not be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ... import nn, ops
from ...tensor import Tensor
from ..adaln import MLP, Last, LevelEmbedding, Patches, modulated, modulation

FREQUENCY = 256.0
"""Highest of the spatial rotary embedding, in half turns a frame's side, twice."""


class Attention(nn.Module):
    """to_out(attention(rotated to_qkv(x)))."""

    def __init__(self, width: int):
        self.to_qkv = nn.Linear(width, 3 * width, bias=False, init=nn.xavier_uniform)
        self.to_out = nn.Linear(width, width, init=nn.xavier_uniform)


@dataclass
class Past:
    """Keys (rotated) and values of the frames before, one pair a layer, each (B,T,N,width)."""

    pairs: list[tuple[Tensor, Tensor]]

    @property
    def frames(self) -> int:
        return self.pairs[0][0].shape[1]

    def joined(self, more: Past) -> Past:
        """These frames and those behind them."""
        pairs = zip(self.pairs, more.pairs, strict=True)
        return Past([(ops.concat(k, k2, axis=1), ops.concat(v, v2, axis=1)) for (k, v), (k2, v2) in pairs])

    def row(self, i: int) -> Past:
        """That of one of the B."""
        return Past([(ops.slice(k, 0, i, i + 1), ops.slice(v, 0, i, i + 1)) for k, v in self.pairs])

    @staticmethod
    def stacked(rows: list[Past]) -> Past:
        """Several, of as many frames, as one."""
        if len(rows) == 1:
            return rows[0]
        layers = zip(*(r.pairs for r in rows), strict=True)
        return Past([(ops.concat(*(k for k, _ in p), axis=0), ops.concat(*(v for _, v in p), axis=0)) for p in layers])


class Block(nn.Module):
    """A layer; see the file's head."""

    def __init__(self, width: int, heads: int):
        self.s_attn, self.s_mlp, self.s_adaLN_modulation = _half(width)
        self.t_attn, self.t_mlp, self.t_adaLN_modulation = _half(width)
        self._heads, self._width = heads, width

    def forward(
        self, x: Tensor, c: Tensor, space: tuple[Tensor, Tensor], time: tuple[Tensor, Tensor], past: tuple | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B,T,N,width), c (B,T,width), tables of rotary positions, keys and values of the frames before."""
        kept: list[Tensor] = []

        def spatial(h: Tensor) -> Tensor:
            qkv = self.s_attn.to_qkv(h)
            q, k = ops.qkv_norm_rotary(qkv, *space, heads=self._heads, norm="none", pairs="interleaved")
            return self.s_attn.to_out(ops.attention_qkv(qkv, q, k, heads=self._heads))

        def temporal(h: Tensor) -> Tensor:
            qkv, w = self.t_attn.to_qkv(h), self._width
            q, k = ops.qkv_norm_rotary(qkv, *time, heads=self._heads, norm="none", pairs="interleaved", axis=-3)
            v = ops.slice(qkv, -1, 2 * w, 3 * w)
            kept[:] = k, v
            if past is not None:
                k, v = ops.concat(past[0], k, axis=1), ops.concat(past[1], v, axis=1)
            return self.t_attn.to_out(ops.attention(q, k, v, heads=self._heads, mask="causal", axis=-3))

        m = self.s_adaLN_modulation(c)
        x = modulated(modulated(x, m, 0, spatial), m, 3, self.s_mlp)
        m = self.t_adaLN_modulation(c)
        x = modulated(modulated(x, m, 0, temporal), m, 3, self.t_mlp)
        return x, (kept[0], kept[1])


def _half(width: int) -> tuple[Attention, MLP, nn.Sequential]:
    return Attention(width), MLP(width, 4 * width), modulation(width, 6)


class OasisDiT(nn.Module):
    """latent: (rows, columns, channels) of a frame; window: the frames that it was trained to see."""

    def __init__(
        self,
        latent: tuple[int, int, int] = (18, 32, 16),
        patch: int = 2,
        width: int = 1024,
        depth: int = 16,
        heads: int = 16,
        actions: int = 25,
        window: int = 32,
    ):
        H, W, C = latent
        if width % heads or width // heads % 4 or H % patch or W % patch:
            raise ValueError(f"OasisDiT: {heads} heads and patches of {patch} do not fit width {width} and {H}x{W}")
        self.x_embedder = Patches(patch, C, width)
        self.t_embedder = LevelEmbedding(width)
        self.external_cond = nn.Linear(actions, width)
        self.blocks = [Block(width, heads) for _ in range(depth)]
        self.final_layer = Last(width, patch * patch * C)
        self._latent, self._patch, self._head, self._window = tuple(latent), patch, width // heads, window
        h, w = H // patch, W // patch
        places = np.stack(np.meshgrid(np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij"), -1).reshape(-1, 2)
        self._space = ops.rotary_table(Tensor(places.astype(np.float32)), self._head, FREQUENCY, axes=2, kind="pixel")

    @property
    def latent(self) -> tuple[int, int, int]:
        return self._latent

    @property
    def window(self) -> int:
        return self._window

    def forward(
        self, x: Tensor, t: Tensor, actions: Tensor, past: Past | None = None, out: bool = True
    ) -> tuple[Tensor | None, Past]:
        """Latents x (B,T,H,W,C), levels t (B,T) float32 of 0 to 999, actions (B,T,A) that led to each frame ->
        v (B,T,H,W,C), and what these frames leave for later ones.  past: of the frames before; out=False: no v."""
        B, T = x.shape[:2]
        H, W, _ = self._latent
        before = past.frames if past else 0
        when = Tensor(np.arange(before, before + T, dtype=np.float32))
        time = ops.rotary_table(when, self._head, 10000.0)
        c = ops.add(self.t_embedder(t), self.external_cond(actions))
        h, pairs = self.x_embedder(x), []
        for i, block in enumerate(self.blocks):
            h, pair = block(h, c, self._space, time, past.pairs[i] if past else None)
            pairs.append(pair)
        v = ops.unpatchify(self.final_layer(h, c), height=H, width=W, size=self._patch) if out else None
        return v, Past(pairs)
