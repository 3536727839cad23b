"""A learned world as a Gymnasium environment; importing this registers `worldmodel/Imagined-v0`."""

from gymnasium.envs.registration import register, registry

from .imagined import Imagined, ImaginedVector

__all__ = ["Imagined", "ImaginedVector", "ID"]

ID = "worldmodel/Imagined-v0"

if ID not in registry:
    register(ID, entry_point="worldmodel.envs.imagined:Imagined", vector_entry_point="worldmodel.envs.imagined:ImaginedVector")
