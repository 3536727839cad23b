"""oasis: Open-Oasis' transformer (`blocks.*.s_attn.*`, `external_cond.*`) and its autoencoder (`quant_conv.*`).

They are two files; together they are a world.  The transformer's file may hold its rotary frequencies, under one name
or many; they are checked against the formula, not kept.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import nn
from ..models.oasis import OasisDiT, OasisVAE, action_space
from ..models.oasis.dit import FREQUENCY
from ..spaces import space_to_json
from ..world import World, WorldConfig
from .keys import SAME, Key, Layout, count, emptied, fill, lengths, numbers, patches
from .stored import State

NAME = "Open-Oasis' transformer"
BACKBONE = "oasis"
SIGN, VAE_SIGN = "blocks.0.s_attn.to_qkv.weight", "quant_conv.weight"
HEAD, FPS = 64, 20.0


def matches(state: State) -> bool:
    return SIGN in state


def world_of(
    state: State, vae: str | os.PathLike[str] | None = None, storage: str = "float32", **options: Any
) -> World:
    """The transformer and the autoencoder of the file `vae` as a world.  storage: float32, bfloat16, or int8 (kept as
    bfloat16, products of attention and MLPs in whole numbers; World.quantize); options: of models.oasis.Oasis.

    Raises ValueError listing what does not fit, or without a vae.
    """
    from . import read

    if vae is None:
        raise ValueError(f"{NAME} alone is no world: also give vae=, the file of its autoencoder (vit-l-20)")
    other = read(vae)
    if VAE_SIGN not in other:
        raise ValueError(f"{os.fspath(vae)}: not the autoencoder of Open-Oasis: missing {VAE_SIGN}")
    parts = {"dit": dit_settings(state), "vae": vae_settings(other, dit_settings(state)["latent"])}
    H, W = parts["vae"]["shape"]
    config = WorldConfig(
        "oasis",
        "500M",
        (H, W, 3),
        space_to_json(action_space()),
        fps=FPS,
        options={**options, **parts, "storage": "bfloat16" if storage == "int8" else storage},
    )
    with nn.blank(numbers(state) + numbers(other)):
        world = World(config)
    fill_dit(world.dynamics.dit, state)  # type: ignore[attr-defined]
    fill_vae(world.dynamics.vae, other)  # type: ignore[attr-defined]
    if storage == "int8":
        world.quantize(layers=world.dynamics.int8_layers())
    return world


def model_of(state: State) -> OasisDiT:
    """The transformer alone; errors as world_of's."""
    with nn.blank(numbers(state)):
        model = OasisDiT(**dit_settings(state))
    fill_dit(model, state)
    return model


def states_of(world: World, policy: Any = None) -> dict[str, dict[str, Any]]:
    """The world's tensors under Open-Oasis' names: the transformer's file, "", and the autoencoder's, "vae"."""
    if policy is not None:
        raise ValueError("torch-keys: Open-Oasis has no policy")
    d: Any = world.dynamics
    time, space = _frequencies(d.dit._head)
    rotary = {"temporal_rotary_emb.freqs": time, "spatial_rotary_emb.freqs": space}
    dit = emptied(dict(d.dit.named_tensors()), dit_keys(d.dit))
    return {
        "": dit | {k: v.astype(np.float32) for k, v in rotary.items()},
        "vae": emptied(dict(d.vae.named_tensors()), vae_keys(d.vae)),
    }


def _frequencies(head: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the rotary positions of time and of space."""
    return 10000.0 ** -(np.arange(head // 2) / (head // 2)), np.pi * np.linspace(1, FREQUENCY / 2, head // 4)


def dit_settings(state: State) -> dict[str, Any]:
    """Its sizes, from the shapes; the latents' grid and the window, which no shape says, are as published."""
    width, C, patch, _ = lengths(state, "x_embedder.proj.weight", 4)
    return {
        "latent": (18, 32, C),
        "patch": patch,
        "width": width,
        "depth": count(state, "blocks."),
        "heads": max(1, width // HEAD),
        "actions": lengths(state, "external_cond.weight", 2)[1],
    }


def vae_settings(state: State, latent: tuple[int, int, int]) -> dict[str, Any]:
    width, _, patch, _ = lengths(state, "patch_embed.proj.weight", 4)
    return {
        "shape": (latent[0] * patch, latent[1] * patch),
        "patch": patch,
        "latent": lengths(state, "post_quant_conv.weight", 2)[1],
        "width": width,
        "encoder": count(state, "encoder."),
        "decoder": count(state, "decoder."),
        "heads": max(1, width // HEAD),
    }


def fill_dit(model: OasisDiT, state: State) -> None:
    """Raises ValueError listing what does not fit; then nothing has been changed."""
    time, space = _frequencies(model._head)
    for name in (spare := frozenset(n for n in state if n.endswith("rotary_emb.freqs"))):
        wanted = space if ".s_attn." in name or name.startswith("spatial") else time
        got = state[name].numpy().astype(np.float64)
        if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=1e-2):
            raise ValueError(f"{name}: these rotary frequencies are not the published ones")
    fill(dict(model.named_tensors()), dit_keys(model), state, spare)


def fill_vae(model: OasisVAE, state: State) -> None:
    """Raises ValueError listing what does not fit; then nothing has been changed."""
    fill(dict(model.named_tensors()), vae_keys(model), state)


def dit_keys(model: OasisDiT) -> dict[str, Key]:
    return {
        ours: Key((ours,), patches(model._patch) if ours == "x_embedder.proj.weight" else SAME)
        for ours, _ in model.named_tensors()
    }


def vae_keys(model: OasisVAE) -> dict[str, Key]:
    keys = {ours: Key((ours,)) for ours, _ in model.named_tensors()}
    keys["patch_embed.proj.weight"] = Key(("patch_embed.proj.weight",), patches(model._patch))
    for name in ("predictor.weight", "predictor.bias"):
        keys[name] = Key((name,), pixels_of_patches(model._patch))
    return keys


def pixels_of_patches(p: int) -> Layout:
    """Rows for the numbers of a patch: (channel, row, column) there, (row, column, channel) here."""

    def come(a: np.ndarray) -> np.ndarray:
        return a.reshape(-1, p * p, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)

    def go(a: np.ndarray) -> np.ndarray:
        return a.reshape(p * p, -1, *a.shape[1:]).swapaxes(0, 1).reshape(a.shape)

    return Layout(come, go, lambda s: s)
