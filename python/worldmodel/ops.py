"""The ops: each a C kernel with a hand-written backward; every signature and text comes from the op's spec in
csrc/ops.
"""

from . import _core

globals().update(_core.ops)
__all__ = sorted(_core.ops)
