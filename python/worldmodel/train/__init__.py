"""Training: each recipe is one dataclass, whose fields are its command line, and one readable loop."""

from .evaluate import Evaluation, evaluate
from .policy import PolicyLearner, TrainPolicy, train_policy
from .reinforce import TrainActorCritic, train_actor_critic
from .tokenizer import TrainTokenizer, train_tokenizer
from .world import TrainWorld, WorldLearner, train_world

__all__ = [
    "Evaluation",
    "PolicyLearner",
    "TrainActorCritic",
    "TrainPolicy",
    "TrainTokenizer",
    "TrainWorld",
    "WorldLearner",
    "evaluate",
    "train_actor_critic",
    "train_policy",
    "train_tokenizer",
    "train_world",
]
