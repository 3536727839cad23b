"""dinov2: DINOv2's weights, under Hugging Face's names (`embeddings.*`, `encoder.layer.*`) or torch.hub's (`cls_token`,
`blocks.*`), small to giant, with and without registers."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..models.dinov2 import DINOv2
from .keys import SAME, Key, count, emptied, fill, lengths, numbers, patches, whole_root
from .stored import State

NAME = "DINOv2"
HF_SIGN, HUB_SIGN = "embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"
PREFIXES = ("dinov2_with_registers.", "dinov2.", "backbone.", "teacher.backbone.")

HF = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("norm.", "layernorm."),
    ("blocks.", "encoder.layer."),
    (".attn.proj.", ".attention.output.dense."),
    (".ls1.gamma", ".layer_scale1.lambda1"),
    (".ls2.gamma", ".layer_scale2.lambda1"),
    (".mlp.w12.", ".mlp.weights_in."),
    (".mlp.w3.", ".mlp.weights_out."),
)
"""Part of the hub's name (and ours) -> of Hugging Face's; beside these, q, k and v are apart there."""


def matches(state: State) -> bool:
    plain = bare(state)
    return HF_SIGN in plain or (HUB_SIGN in plain and "pos_embed" in plain and "cls_token" in plain)


def bare(state: State) -> State:
    """Without a prefix that all names share."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return {name[len(prefix) :]: t for name, t in state.items()}
    return state


def model_of(state: State, positions: str | None = None) -> DINOv2:
    """The encoder.  positions: hub or size (see models/dinov2.py), by default as the names' own project does.

    Raises ValueError listing what does not fit.
    """
    state = bare(state)
    hf = HF_SIGN in state
    width, C, patch, _ = lengths(state, HF_SIGN if hf else HUB_SIGN, 4)
    _, places, _ = lengths(state, "embeddings.position_embeddings" if hf else "pos_embed", 3)
    tokens = "embeddings.register_tokens" if hf else "register_tokens"
    layers = "encoder.layer." if hf else "blocks."
    depth = count(state, layers)
    gate = f"{layers}0.mlp.{'weights_in' if hf else 'w12'}.weight"
    first = gate if gate in state else f"{layers}0.mlp.fc1.weight"
    hidden = lengths(state, first, 2)[0] // (2 if first == gate else 1)
    if C != 3 or not depth:
        raise ValueError(f"misshapen: wanted pictures of 3 channels and layers, got {C} and {depth}")
    with nn.blank(numbers(state)):
        model = DINOv2(
            registers=lengths(state, tokens, 3)[1] if tokens in state else 0,
            side=whole_root(places - 1),
            patch=patch,
            positions=positions or ("size" if hf else "hub"),  # type: ignore[arg-type]
            width=width,
            depth=depth,
            hidden=hidden,
            gated=first == gate,
        )
    fill(dict(model.named_tensors()), keys_of(model, hf), state)
    return model


def state_of(model: DINOv2, hf: bool = True) -> dict[str, Any]:
    """The encoder's tensors under Hugging Face's names, or the hub's."""
    return emptied(dict(model.named_tensors()), keys_of(model, hf))


def keys_of(model: DINOv2, hf: bool) -> dict[str, Key]:
    keys = {}
    for ours, _ in model.named_tensors():
        names = (ours,)
        if hf:
            name = ours
            for here, there in HF:
                name = name.replace(here, there) if here.startswith(".") else _begins(name, here, there)
            parts = ("query", "key", "value")
            whole = ".attn.qkv."
            names = (
                tuple(name.replace(whole, f".attention.attention.{p}.") for p in parts) if whole in name else (name,)
            )
        layout = patches(model.patch) if ours == "patch_embed.proj.weight" else SAME
        keys[ours] = Key(names, layout, optional=ours == "mask_token")
    return keys


def _begins(name: str, here: str, there: str) -> str:
    return there + name[len(here) :] if name.startswith(here) else name
