"""diamond: DIAMOND (Alonso et al. 2024, arXiv 2405.12399): a UNet under the EDM objective, reward and end by an LSTM,
and an actor-critic; its checkpoints' names are the names here."""

from .actor_critic import ActorCritic, RecurrentPolicy
from .dynamics import Diamond, DiamondSampler

__all__ = ["ActorCritic", "Diamond", "DiamondSampler", "RecurrentPolicy"]
