"""recipes: hyperparameters as others published them."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from .policy import TrainPolicy
from .reinforce import TrainActorCritic

DIAMOND_WORLD: dict[str, Any] = {
    "batch": 32,
    "rare": 0,
    "outcome_batch": 32,
    "lr": 1e-4,
    "warmup": 100,
    "floor": 1.0,
    "betas": (0.9, 0.999),
    "weight_decay": 1e-2,
    "clip": 1.0,
    "ema": 0.0,
}
"""DIAMOND's denoiser and reward model (Alonso et al. 2024, arXiv 2405.12399; the reward model is clipped at 100, see
models/diamond).  Not as there: windows are drawn evenly, not by recency, and half of the reward model's end in a rare
event."""

Settings = TypeVar("Settings")


def fill_in(settings: Settings, published: dict[str, Any]) -> Settings:
    """Settings whose fields still have their defaults replaced by the published values."""
    given = changed(settings)
    return dataclasses.replace(settings, **{k: v for k, v in published.items() if k not in given})  # type: ignore


def changed(settings: Any) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    usual = type(settings)()
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return {k: v for k, v in values.items() if v != getattr(usual, k)}


def actor_critic_settings(given: TrainPolicy, **other: Any) -> TrainActorCritic:
    """The published settings but for `other`, with what a user said otherwise.  Raises ValueError for what REINFORCE
    does not know."""
    said = changed(given)
    said.pop("recurrent", None)
    unknown = set(said) - {f.name for f in dataclasses.fields(TrainActorCritic)}
    if unknown:
        raise ValueError(f"a recurrent policy, learned by REINFORCE, has no {', '.join(sorted(unknown))}")
    return TrainActorCritic(**{**other, **said})
