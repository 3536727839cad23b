"""Training: each recipe is one dataclass, whose fields are its command line, and one readable loop."""

from .world import TrainWorld, train_world

__all__ = ["TrainWorld", "train_world"]
