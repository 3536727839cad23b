"""worldmodel: train, step and learn inside action-conditioned diffusion world models.  C core, thin Python.

    replay = wm.collect("VizdoomBasic-v1", steps=10_000, frames=(64, 64))
    world = wm.World.create(replay, size="S")
    wm.train_world(world, replay, minutes=5)
    policy = wm.train_policy(world, replay, minutes=5)
    print(wm.evaluate(policy, "VizdoomBasic-v1", episodes=50))

Names load on first use, so that `import worldmodel` costs nothing.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from .registration import register_or_wait as _register_or_wait
from .version import __version__

_HOME = {
    "Tensor": "tensor",
    "Tape": "tensor",
    "Plan": "tensor",
    "no_grad": "tensor",
    "from_dlpack": "tensor",
    "World": "world",
    "train_tokenizer": "train",
    "train_world": "train",
    "train_policy": "train",
    "evaluate": "train",
    "Policy": "policy",
    "Window": "models.dynamics",
    "Sampler": "sampling",
    "rollout": "sampling",
    "set_threads": "machine",
    "threads": "machine",
    "kernels": "machine",
    "devices": "machine",
    "set_device": "machine",
    "set_matmul": "machine",
    "seed": "machine",
    "collect": "data",
    "Replay": "data",
}
_MODULES = {
    "ops",
    "nn",
    "optim",
    "spaces",
    "data",
    "metrics",
    "diffusion",
    "sampling",
    "models",
    "envs",
    "train",
    "pretrained",
}
__all__ = ["__version__", *_HOME, *sorted(_MODULES)]


def __getattr__(name: str) -> _Any:
    if name in _HOME:
        value = getattr(_import_module("." + _HOME[name], __name__), name)
    elif name in _MODULES:
        value = _import_module("." + name, __name__)
    else:
        raise AttributeError(f"module 'worldmodel' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_or_wait()
