"""imagenet_dit: the class-conditional DiT (github.com/facebookresearch/DiT), known by its `y_embedder.*`."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..models.imagenet_dit import SIZES, ImageNetDiT
from .keys import SAME, Key, count, emptied, fill, lengths, numbers, patches, whole_root
from .stored import State

NAME = "DiT"


def matches(state: State) -> bool:
    return "y_embedder.embedding_table.weight" in state


def model_of(state: State, heads: int | None = None) -> ImageNetDiT:
    """The network.  heads: no shape says how many; by default as published for its width, or of 64 columns.

    Raises ValueError listing what does not fit.
    """
    width, C, patch, _ = lengths(state, "x_embedder.proj.weight", 4)
    out = lengths(state, "final_layer.linear.weight", 2)[0] // (patch * patch)
    published = {w: h for w, _, h in SIZES.values()}
    with nn.blank(numbers(state)):
        model = ImageNetDiT(
            patch=patch,
            side=whole_root(lengths(state, "pos_embed", 3)[1]) * patch,
            channels=C,
            classes=lengths(state, "y_embedder.embedding_table.weight", 2)[0] - 1,
            sigma=out == 2 * C,
            width=width,
            depth=max(1, count(state, "blocks.")),
            heads=heads or published.get(width, max(1, width // 64)),
        )
    fill(dict(model.named_tensors()), keys_of(model), state)
    return model


def state_of(model: ImageNetDiT) -> dict[str, Any]:
    """The network's tensors under the original names."""
    return emptied(dict(model.named_tensors()), keys_of(model))


def keys_of(model: ImageNetDiT) -> dict[str, Key]:
    return {
        ours: Key((ours,), patches(model._patch) if ours == "x_embedder.proj.weight" else SAME)
        for ours, _ in model.named_tensors()
    }
