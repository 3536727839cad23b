"""pretrained: other projects' weights in: readers that execute nothing, and the families that their keys say they are.

world = wm.World.load("agent_epoch_01000.pt")            # DIAMOND's agent, recognised by its keys
state = wm.pretrained.read("model.safetensors")          # any file: name -> Stored
"""

from __future__ import annotations

import os
from typing import Any

from .safetensors_file import parse_header, read_safetensors
from .stored import Stored, mapped
from .torch_file import read_torch

__all__ = ["Stored", "is_ours", "load", "read", "read_safetensors", "read_torch"]


def read(path: str | os.PathLike[str]) -> dict[str, Stored]:
    """The tensors of a `.pt` or safetensors file by name, told apart by their first bytes.

    Raises FileNotFoundError, or ValueError naming what is refused.
    """
    return read_torch(path) if _is_torch(path) else read_safetensors(path)


def _is_torch(path: str | os.PathLike[str]) -> bool:
    first = bytes(mapped(path)[:4])
    zipped, old = b"PK\3\4", b"\x80\x02\x8a\n"  # as lengths of a safetensors header, above its limit
    return first in (zipped, old)


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file is to be read as one of this library: a safetensors file that says so, or one that is damaged
    (the reader says how).  Raises FileNotFoundError, IsADirectoryError, or ValueError for an empty file."""
    if _is_torch(path):
        return False
    try:
        about = parse_header(mapped(path))[0].get("__metadata__")
    except ValueError:
        return True
    return isinstance(about, dict) and "worldmodel" in about


def load(path: str | os.PathLike[str], **options: Any) -> Any:
    """What a file of another project holds, recognised by its keys: a World, or a module (DINOv2, a DiT).

    Raises FileNotFoundError, or ValueError with every missing, unknown and misshapen key.
    """
    from .families import load_model

    return load_model(path, **options)
