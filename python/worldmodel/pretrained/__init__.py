"""pretrained: other projects' weights in: readers that execute nothing, and the families that their keys say they are.

world = wm.World.load("agent_epoch_01000.pt")            # DIAMOND's agent, recognised by its keys
state = wm.pretrained.read("model.safetensors")          # any file: name -> Stored
"""

from __future__ import annotations

import os

from .safetensors_file import read_safetensors
from .stored import Stored, mapped
from .torch_file import read_torch

__all__ = ["Stored", "read", "read_safetensors", "read_torch"]


def read(path: str | os.PathLike[str]) -> dict[str, Stored]:
    """The tensors of a `.pt` or safetensors file by name, told apart by their first bytes.

    Raises FileNotFoundError, or ValueError naming what is refused.
    """
    first = bytes(mapped(path)[:4])
    zipped, old = b"PK\3\4", b"\x80\x02\x8a\n"  # as lengths of a safetensors header, above its limit
    return read_torch(path) if first in (zipped, old) else read_safetensors(path)
