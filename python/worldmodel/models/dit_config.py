"""dit_config: what makes one DiT: its sizes, its options, and how a frame is cut into patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class DiTConfig:
    """Everything that makes one network; a size names the first four, any option overrides."""

    width: int = 256
    layers: int = 8
    time_every: int = 4
    head_width: int = 64
    patch: int = 0
    """Side of a patch in pixels; 0: near 64 tokens a frame."""
    stem: int = 32
    """Channels of the convolutions round the transformer, at half resolution; 0: none."""
    levels: int = 2
    """Of those convolutions: 1/2, 1/4 .. of the resolution, with twice the channels each."""
    change: bool = True
    """Predict the change from the frame before."""
    window: int = 8
    context: int = 4
    slots: int = 0
    """Frames of history that a sampler keeps; 0: window."""
    sinks: int = 0
    """Of those, how many of the first frames stay for good."""
    token_features: int = 8
    features: int = 128
    """Numbers of a frame that heads and policies read, from so many of each token."""
    bins: int = 41
    reward_limit: float = 6.0
    action_dropout: float = 0.1
    outcome: str = "apart"
    """Where reward, termination and features come from.  apart: a small network of its own
    (models/outcome.py);
    start: this network before the frame is known, at tau = 0; frame: the committed frame too."""
    recompute: int = 0
    """So many blocks compute again in backward instead of remembering: less memory, slower training."""
    forget: float = 0.1
    """Share of training windows that begin late (Window.forgetful)."""
    reward_weight: float = 0.05
    termination_weight: float = 0.05
    objective: dict[str, Any] = field(default_factory=dict)
    """See diffusion.Objective."""


SIZES: dict[str, dict[str, int]] = {
    "T": dict(width=128, layers=6, time_every=3),
    "S": dict(width=256, layers=8, time_every=4),
    "B": dict(width=384, layers=8, time_every=4),
    "L": dict(width=768, layers=12, time_every=4),
}


def config_of(size: str, options: dict[str, Any]) -> DiTConfig:
    """Raises ValueError for an unknown size or option, or a value that makes no network."""
    if size not in SIZES:
        raise ValueError(f"DiT: size must be one of {sorted(SIZES)}, got {size!r}")
    known = {f.name for f in fields(DiTConfig)}
    if set(options) - known:
        raise ValueError(f"DiT: unknown options {sorted(set(options) - known)}; known are {sorted(known)}")
    config = DiTConfig(**{**SIZES[size], **options})
    for name in (
        "width",
        "layers",
        "levels",
        "time_every",
        "head_width",
        "window",
        "context",
        "token_features",
        "features",
    ):
        if getattr(config, name) < 1:
            raise ValueError(f"DiT: {name} must be at least 1, got {getattr(config, name)}")
    for name, least in (("context", 2), ("window", 3)):
        if getattr(config, name) < least:
            raise ValueError(f"DiT: {name} must be at least {least}, got {getattr(config, name)}")
    if config.window <= config.context:
        raise ValueError(f"DiT: window must be longer than context ({config.context}), got {config.window}")
    if config.width % config.head_width or config.head_width % 4:
        raise ValueError(
            f"DiT: head_width must divide width {config.width} and 4 divide it, got {config.head_width}"
        )
    config.slots = config.slots or max(config.window, config.context)
    if config.slots - config.sinks < config.context or config.sinks < 0:
        raise ValueError(
            f"DiT: slots {config.slots} less sinks {config.sinks} must hold the context, {config.context}"
        )
    if config.outcome not in ("apart", "start", "frame"):
        raise ValueError(f"DiT: outcome must be 'apart', 'start' or 'frame', got {config.outcome!r}")
    for name in ("action_dropout", "forget"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"DiT: {name} must be in [0, 1), got {getattr(config, name)}")
    return config


def choose_patch(height: int, width: int, multiple: int = 1, tokens: int = 64) -> int:
    """The side, a multiple of that number, whose grid is nearest to so many tokens; padded pixels count
    against it."""

    def cost(p: int) -> float:
        rows, columns = math.ceil(height / p), math.ceil(width / p)
        return abs(math.log(rows * columns / tokens)) + 2 * math.log(
            rows * columns * p * p / (height * width)
        )

    return min(range(multiple, max(height, width) + multiple, multiple), key=cost)
