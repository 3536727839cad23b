"""A learned world as Gymnasium environments; `import worldmodel` registers them as `worldmodel/Imagined-v0`.
"""

from ..registration import ID, register
from .imagined import Imagined
from .vector import ImaginedVector

__all__ = ["ID", "Imagined", "ImaginedVector"]

register()
