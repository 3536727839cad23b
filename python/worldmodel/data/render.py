"""render: episodes as pictures and films.

PNG is written here (RFC 2083: one IDAT, filter 0).  mp4 is lossless by default: libx264rgb at crf 0 keeps
every pixel; most browsers play only `lossless=False`.  GIF has at most 256 colours a frame, so it is exact
only where the frame has no more.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .extras import need

if TYPE_CHECKING:
    from .replay import Replay

GAP = 2  # pixels between the pictures of a contact sheet


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write (H,W,C) uint8 with C of 1, 3 or 4 (or (H,W)) as PNG, exactly.  Raises ValueError on anything
    else.
    """
    image = image[:, :, None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"save_png: wanted uint8 (H,W,C) with C of 1, 3 or 4, got {image.dtype} {image.shape}"
        )
    H, W, C = image.shape
    lines = np.zeros((H, 1 + W * C), np.uint8)
    lines[:, 1:] = image.reshape(H, W * C)
    header = struct.pack(">IIBBBBB", W, H, 8, {1: 0, 3: 2, 4: 6}[C], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(out)


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """(...,H,W,C) -> (...,H scale,W scale,C): each pixel becomes a square."""
    return frames.repeat(scale, -3).repeat(scale, -2) if scale > 1 else frames


def contact_sheet(
    replay: Replay, path: str | Path | None = None, rows: int = 8, columns: int = 8, scale: int = 1
) -> np.ndarray:
    """Episodes down, time across: `rows` episodes spread over the replay, `columns` frames spread over each.

    Returns the picture, uint8 (h,w,C), and writes it as PNG if a path is given.  Raises ValueError on an
    empty replay.
    """
    if len(replay) == 0:
        raise ValueError("contact_sheet: the replay has no episodes")
    chosen = np.unique(np.linspace(0, len(replay) - 1, rows).round().astype(int))
    H, W, C = (n * s for n, s in zip(replay.frame_shape, (scale, scale, 1), strict=True))
    sheet = np.full((len(chosen) * (H + GAP) + GAP, columns * (W + GAP) + GAP, C), 255, np.uint8)
    for row, number in enumerate(chosen):
        frames = replay.episode(int(number)).frames
        times = np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(int))
        for column, t in enumerate(times):
            y, x = GAP + row * (H + GAP), GAP + column * (W + GAP)
            sheet[y : y + H, x : x + W] = enlarge(frames[t], scale)
    if path is not None:
        save_png(path, sheet)
    return sheet


def save_mp4(
    path: str | Path, frames: Iterable[np.ndarray], fps: float = 15.0, scale: int = 1, lossless: bool = True
) -> None:
    """Write frames (T,H,W,C), or any iterable of (H,W,C) uint8 with C of 1 or 3, as H.264.

    `lossless=True` keeps every pixel (libx264rgb, crf 0); False is small and plays everywhere (yuv420p, even
    sizes only).
    Raises ImportError without PyAV, ValueError on no frames or wrong ones.
    """
    av = need("av", "save_mp4", "video")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    codec, options = (
        ("libx264rgb", {"crf": "0", "preset": "fast"}) if lossless else ("libx264", {"crf": "14"})
    )
    stream = None
    with av.open(str(path), "w", format="mp4") as file:
        for frame in frames:
            picture = _rgb(enlarge(np.asarray(frame), scale))
            if stream is None:
                stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "rgb24" if lossless else "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is None:
            raise ValueError("save_mp4: no frames")
        file.mux(stream.encode())


def save_gif(path: str | Path, frames: Iterable[np.ndarray], fps: float = 15.0, scale: int = 1) -> None:
    """Write frames (T,H,W,C) uint8 as an endless GIF; 256 colours a frame.  Raises ImportError without
    Pillow.
    """
    Image = need("PIL.Image", "save_gif", "video")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(_rgb(enlarge(np.asarray(frame), scale))) for frame in frames]
    if not pictures:
        raise ValueError("save_gif: no frames")
    pictures = [p.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for p in pictures]
    duration = max(20, round(1000 / fps))
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False
    )


def _rgb(frame: np.ndarray) -> np.ndarray:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (1, 3):
        raise ValueError(f"wanted frames uint8 (H,W,C) with C of 1 or 3, got {frame.dtype} {frame.shape}")
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))
