"""oasis: Open-Oasis (Decart & Etched 2024): a causal transformer over the latents of a ViT autoencoder, driven by 25
numbers of keyboard and mouse."""

from .actions import NAMES, action_space
from .dit import OasisDiT
from .dynamics import Oasis, OasisSampler
from .vae import OasisVAE

__all__ = ["NAMES", "Oasis", "OasisDiT", "OasisSampler", "OasisVAE", "action_space"]
