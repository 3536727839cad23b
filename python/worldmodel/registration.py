"""registration: `gymnasium.make("worldmodel/Imagined-v0")` works after `import worldmodel`, which does not
import Gymnasium.

Gymnasium takes 0.3 s to import and finds no plug-ins by itself.  So: if it is there already, the id is
registered at once; else a finder waits on sys.meta_path, has it registered when `gymnasium.envs` has been
imported, and goes away.
"""

from __future__ import annotations

import sys
from typing import Any

ID = "worldmodel/Imagined-v0"
AWAITED = "gymnasium.envs"


def register() -> None:
    """Add ID to Gymnasium's registry, once; the entry points are strings, so nothing else is imported yet."""
    from gymnasium.envs.registration import register, registry

    if ID not in registry:
        entry = "worldmodel.envs.imagined:Imagined"
        register(ID, entry_point=entry, vector_entry_point="worldmodel.envs.vector:ImaginedVector")


def register_or_wait() -> None:
    """Register now if Gymnasium is imported, else as soon as it is."""
    if AWAITED in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]


class _Finder:
    """Finds one module as the others would, once, and has its loader register."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != AWAITED:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """A module's own loader, and registering after it."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def create_module(self, spec: Any) -> Any:
        return self._own.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        register()
