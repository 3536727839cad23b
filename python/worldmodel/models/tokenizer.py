"""tokenizer: what a diffusion model computes on in place of bytes: the pixels themselves, or fewer numbers.

    Pixels       z = x / 127.5 - 1                                   as many numbers as bytes
    Autoencoder  z = tanh(convolutions of x), 1/down the height and width;  x_hat = convolutions of z

Latents lie in (-1, 1) as pixels do (tanh, after Dreamer 4, arXiv 2509.24527), so noise levels, the mix of a
prediction and its clamps are the same for both.  The autoencoder has no norms: a norm's statistics would move every
latent whenever anything in the picture moves, and what stands still should stay the same number.

It is trained first and alone (train/tokenizer.py), then held still; a world keeps it in its own file.
"""

from __future__ import annotations

import math
import os
from typing import Any, ClassVar

from .. import nn, ops
from ..checkpoint import read_tensors, write_tensors
from ..tensor import Tensor

FORMAT = 1
"""Version of a tokenizer's file."""


class Tokenizer(nn.Module):
    """The interface: a subclass gives `kind`, `shape`, `settings`, `encode` and `decode`, and its line in
    `world.TOKENIZERS`."""

    kind: ClassVar[str]
    """The name under which a world's file keeps it."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H,W,C) of the frames."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h,w,c) of a frame's latents."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that make the class again, after its frame shape."""
        return {}

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (...,H,W,C) -> float32 (...,h,w,c) in [-1, 1]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """float32 (...,h,w,c) -> float32 (...,H,W,C), in or near [-1, 1]."""
        raise NotImplementedError

    # ---- what a backbone calls ----

    def picture(self, latents: Tensor) -> Tensor:
        """Latents as uint8 frames."""
        return ops.frames_u8(self.decode(latents))

    def noised(self, frames: Tensor, stream: Tensor, tau: Tensor, salt: int) -> tuple[Tensor, Tensor]:
        """uint8 frames (B,T,...) at flow levels tau (B,T) -> noisy and clean latents; stream (B,4)."""
        clean = ops.stop_gradient(self.encode(frames))
        return ops.noise(clean, stream, tau, salt=salt), clean

    def kept(self, latents: Tensor, picture: Tensor, stream: Tensor, tau: Tensor, salt: int) -> Tensor:
        """What a sampler remembers of a frame that it has made, noised: the latents, not the picture's own, which
        would cost an encoder and drift."""
        return ops.noise(ops.clamp(latents, -1.0, 1.0), stream, tau, salt=salt)


class Pixels(Tokenizer):
    """The frames' own numbers."""

    kind = "pixels"

    def __init__(self, frame_shape: tuple[int, int, int]):
        self._frame_shape = frame_shape

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self._frame_shape

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._frame_shape

    def encode(self, frames: Tensor) -> Tensor:
        return numbers(frames)

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def noised(self, frames: Tensor, stream: Tensor, tau: Tensor, salt: int) -> tuple[Tensor, Tensor]:
        noisy, clean = ops.noise_frames(frames, stream, tau, salt=salt)[:2]
        return noisy, clean

    def kept(self, latents: Tensor, picture: Tensor, stream: Tensor, tau: Tensor, salt: int) -> Tensor:
        """The bytes that were shown: a world remembers what its user saw."""
        return self.noised(picture, stream, tau, salt)[0]


class Autoencoder(Tokenizer):
    """Convolutions down to 1/down of the frame's sides and back.

    Args:
        frame_shape: (H,W,C); sides that `down` does not divide are padded.
        down: a power of two, at least 2.
        channels: of a latent.
        width: channels at half resolution; twice as many at a quarter, four times from an eighth on.
        depth: residual blocks at each resolution, in the encoder and in the decoder.

    Raises ValueError for values outside these.
    """

    kind = "autoencoder"

    def __init__(
        self, frame_shape: tuple[int, int, int], down: int = 4, channels: int = 8, width: int = 32, depth: int = 1
    ):
        H, W, C = frame_shape
        self._frame_shape = (H, W, C)
        self._settings = {"down": down, "channels": channels, "width": width, "depth": depth}
        if bad := {k: v for k, v in self._settings.items() if type(v) is not int or not 0 < v <= 4096}:
            raise ValueError(f"Autoencoder: settings must be whole numbers of 1 to 4096, got {bad}")
        if down < 2 or down & (down - 1):
            raise ValueError(f"Autoencoder: down must be a power of two, at least 2, got {down}")
        self._padded = (math.ceil(H / down) * down, math.ceil(W / down) * down)
        widths = [width * min(1 << i, 4) for i in range(down.bit_length() - 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.stem = nn.Conv2d(4 * C, widths[0])
        self.down = [[Residual(w) for _ in range(depth)] for w in widths]
        self.shrink = [nn.Conv2d(a, b, stride=2) for a, b in pairs]
        self.latent = nn.Conv2d(widths[-1], channels)
        self.open = nn.Conv2d(channels, widths[-1])
        self.up = [[Residual(w) for _ in range(depth)] for w in widths]
        self.grow = [nn.Conv2d(b, a, upsample=2) for a, b in pairs]
        self.out = nn.Conv2d(widths[0], 4 * C)

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return self._frame_shape

    @property
    def shape(self) -> tuple[int, int, int]:
        down = self._settings["down"]
        return self._padded[0] // down, self._padded[1] // down, self._settings["channels"]

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self._settings)

    def encode(self, frames: Tensor) -> Tensor:
        *lead, H, W, C = frames.shape
        x = numbers(frames).reshape(-1, H, W, C)
        for axis, (side, padded) in enumerate(zip((H, W), self._padded, strict=True), 1):
            x = ops.pad(x, axis, 0, padded - side) if padded > side else x
        h, w = (n // 2 for n in self._padded)
        x = self.stem(ops.patchify(x, size=2).reshape(-1, h, w, 4 * C))
        for i, blocks in enumerate(self.down):
            x = self.shrink[i - 1](x) if i else x
            for block in blocks:
                x = block(x)
        return ops.tanh(self.latent(ops.silu(x))).reshape(*lead, *self.shape)

    def decode(self, latents: Tensor) -> Tensor:
        lead, (H, W, C) = latents.shape[:-3], self._frame_shape
        x = self.open(latents.reshape(-1, *self.shape))
        for i in reversed(range(len(self.up))):
            for block in self.up[i]:
                x = block(x)
            x = self.grow[i - 1](x) if i else x
        high, wide = self._padded
        x = self.out(ops.silu(x)).reshape(-1, high * wide // 4, 4 * C)
        x = ops.unpatchify(x, height=high, width=wide, size=2)
        for axis, (side, padded) in enumerate(zip((H, W), self._padded, strict=True), 1):
            x = ops.slice(x, axis, 0, side) if padded > side else x
        return x.reshape(*lead, H, W, C)

    # ---- a file of its own ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and settings to one safetensors file, atomically."""
        about = {"format": FORMAT, "kind": "tokenizer", "frame_shape": list(self._frame_shape), **self._settings}
        write_tensors(path, self.views(), {"worldmodel": about})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Autoencoder:
        """Of a file of save.  Raises FileNotFoundError, or ValueError saying what is wrong with the file."""
        name = os.fspath(path)
        tensors, metadata = read_tensors(path, mapped=True)
        about = metadata.get("worldmodel")
        if not isinstance(about, dict) or about.get("kind") != "tokenizer" or about.get("format") != FORMAT:
            raise ValueError(f"{name}: not a tokenizer of this library, format {FORMAT}")
        about = {k: v for k, v in about.items() if k not in ("format", "kind")}
        try:
            with nn.blank(sum(a.size for a in tensors.values()) + 4096):
                made = cls(checked_shape(about.pop("frame_shape", None)), **about)
            made.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error.args[0]}") from None
        return made

    def __repr__(self) -> str:
        count = math.prod(self._frame_shape) / math.prod(self.shape)
        return f"Autoencoder({self._frame_shape} -> {self.shape}, {count:.3g} times fewer numbers)"


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the second convolution 0 at first."""

    def __init__(self, features: int):
        self.first = nn.Conv2d(features, features, act="silu")
        self.second = nn.Conv2d(features, features, init=nn.zeros)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(ops.silu(x)), residual=x)


def numbers(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return ops.scale_shift(ops.cast(frames, "float32"), 1 / 127.5, -1.0)


def checked_shape(shape: Any) -> tuple[int, int, int]:
    """Three lengths from a file.  Raises ValueError for anything else."""
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and 1 <= n <= 4096 for n in shape)):
        raise ValueError(f"frame_shape must be three lengths of 1 to 4096, got {shape!r}")
    return shape[0], shape[1], shape[2]
