"""tiny_dinov2: small DINOv2 encoders with random weights."""

import numpy as np
from worldmodel.models.dinov2 import DINOv2

TINY = dict(width=128, depth=2, side=5)


def made(seed=0, **options):
    """An encoder whose weights are all random, and of the size of trained ones."""
    model = DINOv2(**{**TINY, **options})
    rng = np.random.default_rng(seed)
    for name, t in model.named_tensors():
        one = name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight"))
        fan = t.shape[1] if t.ndim == 2 else 25
        t.copy_(one + rng.standard_normal(t.shape) / np.sqrt(fan))
    return model


def pixels(B, H, W, seed=1):
    return np.random.default_rng(seed).standard_normal((B, H, W, 3)).astype(np.float32)


CASES = {
    "own": ({}, (70, 70)),
    "hub": ({}, (42, 98)),
    "size": ({"positions": "size"}, (42, 98)),
    "registers": ({"registers": 4}, (42, 98)),
    "gated": ({"gated": True}, (70, 70)),
}
"""name -> options, and the size of the picture."""
