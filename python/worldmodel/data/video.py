"""video: decoding films frame by frame, and knowing whether their pixels are exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .extras import need
from .resize import resize_area

# Codecs that keep every value they are given; exact only with RGB (or gray) samples, since RGB -> YUV rounds.
ALWAYS_EXACT = {
    "ffv1",
    "huffyuv",
    "ffvhuff",
    "utvideo",
    "png",
    "apng",
    "rawvideo",
    "qtrle",
    "bmp",
    "tiff",
    "magicyuv",
    "gif",
}
EXACT_AS_RGB = {
    "h264",
    "hevc",
}  # lossless at crf 0 and qp 0; nobody stores RGB 4:4:4 with them for another reason
RGB = ("gbr", "rgb", "bgr", "argb", "abgr", "0rgb", "gray", "pal8")


@dataclass
class Video:
    """frames: an iterator of (H,W,3) uint8; fps: as the file says, divided by `every`, 0 if unknown;
    lossy: see the head.
    """

    frames: Iterator[np.ndarray]
    fps: float
    lossy: bool


def read_video(file: str | Path, size: tuple[int, int] | None = None, every: int = 1) -> Video:
    """Open a film; its frames are decoded one at a time, every `every`-th is kept and resized by area
    averaging.

    Raises ImportError without PyAV, FileNotFoundError, and ValueError (naming the file) where it cannot be
    decoded.
    """
    av = need("av", "read_video", "video")
    if every < 1:
        raise ValueError(f"read_video: every must be at least 1, got {every}")
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such video")
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            exact, rate = is_exact(stream), float(stream.average_rate or 0)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{file}: not a video that can be decoded ({error})") from None
    return Video(_decode(av, Path(file), size, every), rate / every, not exact)


def is_exact(stream: Any) -> bool:
    """Whether a video stream holds the pixels as they were."""
    codec, layout = stream.codec_context.name, stream.codec_context.pix_fmt or ""
    return layout.startswith(RGB) and (codec in ALWAYS_EXACT or codec in EXACT_AS_RGB)


def _decode(av: Any, file: Path, size: tuple[int, int] | None, every: int) -> Iterator[np.ndarray]:
    try:
        with av.open(str(file)) as container:
            for i, frame in enumerate(container.decode(video=0)):
                if i % every == 0:
                    picture = frame.to_ndarray(format="rgb24")
                    yield picture if size is None else resize_area(picture, size)
    except av.error.FFmpegError as error:
        raise ValueError(f"{file}: cannot be decoded ({error})") from None
