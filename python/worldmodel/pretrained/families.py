"""families: what a file of weights is, by its keys, and the object that it becomes here.

    recognised(state).NAME                    # "DIAMOND's agent"
    world = load_world("agent.pt"); policy = load_policy("agent.pt")

A family is a module beside this one: NAME, matches(state), and world_of, policy_of or model_of.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..checkpoint import write_tensors
from . import diamond, dinov2, imagenet_dit, oasis, oasis_vae, read
from .stored import State

FAMILIES: tuple[ModuleType, ...] = (diamond, dinov2, oasis, oasis_vae, imagenet_dit)


def recognised(state: State) -> ModuleType:
    """The family of these names.  Raises ValueError if there is none."""
    for family in FAMILIES:
        if family.matches(state):
            return family
    some = ", ".join(sorted(state)[:8])
    known = ", ".join(family.NAME for family in FAMILIES)
    raise ValueError(f"its keys are of no family known here ({known}); they begin {some}")


def load_world(path: str | os.PathLike[str], **options: Any) -> Any:
    """The World of a file of another project; options: of its family (Oasis: vae=, storage=, steps=).

    Raises FileNotFoundError, or ValueError saying what does not fit.
    """
    return _made(path, "world_of", "world", **options)


def load_policy(path: str | os.PathLike[str]) -> Any:
    """The policy of a file of another project; errors as load_world."""
    return _made(path, "policy_of", "policy")


def load_model(path: str | os.PathLike[str], **options: Any) -> Any:
    """Whatever a file of another project holds: a World, else a module; errors as load_world."""
    return _made(path, "model_of", "model", **options)


def save_names(world: Any, policy: Any, path: str | os.PathLike[str]) -> None:
    """Write a world's tensors, and a policy's, under the names of its family: one file, or several with a word put
    before the ending.  Raises ValueError if it has none."""
    for family in FAMILIES:
        if world.config.backbone == getattr(family, "BACKBONE", None):
            for word, tensors in family.states_of(world, policy).items():
                beside = Path(path)
                write_tensors(beside.with_suffix(f".{word}{beside.suffix}") if word else beside, tensors)
            return
    known = ", ".join(repr(f.BACKBONE) for f in FAMILIES if hasattr(f, "BACKBONE"))
    raise ValueError(f"torch-keys: no project's names for backbone {world.config.backbone!r}; there are for {known}")


def _takes_any(make: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values())


def _made(path: str | os.PathLike[str], name: str, word: str, **options: Any) -> Any:
    path = os.fspath(path)
    state = read(path)
    try:
        family = recognised(state)
        make: Callable[..., Any] | None = getattr(family, name, None)
        if make is None and name == "model_of":
            make = getattr(family, "world_of", None)
        if make is None:
            raise ValueError(f"{family.NAME} holds no {word}")
        unknown = set(options) - set(inspect.signature(make).parameters) if not _takes_any(make) else set()
        if unknown:
            raise ValueError(f"{family.NAME} takes no {', '.join(sorted(unknown))}")
        return make(state, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
