"""tiny_transformers: small Oasis worlds and class-conditional DiTs with random weights, none 0."""

import numpy as np
from worldmodel import World
from worldmodel.models.imagenet_dit import ImageNetDiT
from worldmodel.models.oasis import action_space
from worldmodel.spaces import space_to_json
from worldmodel.world import WorldConfig

DIT = dict(latent=(4, 6, 8), width=64, depth=2, heads=2, window=5)
VAE = dict(shape=(16, 24), patch=4, latent=8, width=64, encoder=1, decoder=2, heads=2)


def filled(module, seed=0):
    """Random weights of the size of trained ones."""
    rng = np.random.default_rng(seed)
    for name, t in module.named_tensors():
        if name != "pos_embed":
            one = name.endswith(("norm.weight", "norm1.weight", "norm2.weight"))
            t.copy_(one + rng.standard_normal(t.shape) / np.sqrt(t.shape[-1] if t.ndim > 1 else 16))
    return module


def oasis(seed=0, dit=None, vae=None, **options):
    """A world; storage must be float32."""
    options = {"dit": {**DIT, **(dit or {})}, "vae": {**VAE, **(vae or {})}, **options}
    config = WorldConfig("oasis", "500M", (*options["vae"]["shape"], 3), space_to_json(action_space()), options=options)
    return filled(World(config), seed)


def imagenet_dit(seed=0, **options):
    return filled(ImageNetDiT(**{**dict(width=64, depth=2, heads=2, side=8, classes=10), **options}), seed)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
