"""The machine's knobs: threads, kernel tables, devices, the seed of everything random."""

from __future__ import annotations

import numpy as np

from . import _core

set_threads = _core.set_threads
threads = _core.threads
_generator = np.random.default_rng(0)


def kernels(name: str | None = None) -> str:
    """The kernel table in use; with a name ('avx512', 'avx2', 'baseline'), use that one from now on.

    Raises ValueError if this processor cannot run it.
    """
    if name is not None:
        _core.use_kernels(name)
    return _core.kernels()


def devices() -> dict[str, str]:
    """What can compute here, and for what cannot, why not."""
    works, words = _core.describe_device("cuda")
    return {"cpu": f"{_core.kernels()} kernels, {_core.threads()} threads", "cuda": words if works else f"no: {words}"}


def set_device(name: str) -> None:
    """Where new tensors are made from now on: 'cpu' or 'cuda'.

    Raises RuntimeError, naming CUDA's own status, if there is no CUDA device; nothing falls back silently.
    """
    _core.set_device(name)


def seed(value: int) -> None:
    """Start the random numbers of initialisers and new streams anew.  Same seed, same bits."""
    global _generator
    if value < 0:
        raise ValueError(f"seed: must be at least 0, got {value}")
    _generator = np.random.default_rng(value)


def generator() -> np.random.Generator:
    """The generator that `seed` starts anew."""
    return _generator
