"""Training: each recipe is one dataclass, whose fields are its command line, and one readable loop."""

from .evaluate import Evaluation, evaluate
from .policy import PolicyLearner, TrainPolicy, train_policy
from .world import TrainWorld, WorldLearner, train_world

__all__ = [
    "Evaluation",
    "PolicyLearner",
    "TrainPolicy",
    "TrainWorld",
    "WorldLearner",
    "evaluate",
    "train_policy",
    "train_world",
]
