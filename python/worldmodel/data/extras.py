"""extras: optional packages, imported when first needed; a missing one names the pip command that
installs it.
"""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, what: str, extra: str) -> Any:
    """The module, or ImportError: `what` needs it, pip install "worldmodel[extra]"."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f'{what} needs {package}: pip install "worldmodel[{extra}]" ({error})') from error
