"""oasis_vae: Open-Oasis' autoencoder alone (`encoder.*`, `quant_conv.*`)."""

from __future__ import annotations

from .. import nn
from ..models.oasis import OasisVAE
from .keys import numbers
from .oasis import VAE_SIGN, fill_vae, vae_settings
from .stored import State

NAME = "Open-Oasis' autoencoder"


def matches(state: State) -> bool:
    return VAE_SIGN in state and "predictor.weight" in state


def model_of(state: State, rows: int = 18, columns: int = 32) -> OasisVAE:
    """The autoencoder; rows and columns of latents, which no shape says, as published.

    Raises ValueError listing what does not fit.
    """
    with nn.blank(numbers(state)):
        model = OasisVAE(**vae_settings(state, (rows, columns, 0)))
    fill_vae(model, state)
    return model
