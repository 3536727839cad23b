"""heads: reward and termination, read from the features of a step."""

from __future__ import annotations

from .. import nn, ops
from ..tensor import Tensor


class Heads(nn.Module):
    """Reward as a two-hot distribution over symexp-spaced bins (Hafner et al. 2023), termination as a logit;
    both 0 at first.

    bins: symexp of an even spacing of [-limit, limit]: limit 6 reaches +-402, 20 any reward.  The
    expectation is taken of the
    rewards themselves, not of their symlog: half a chance of +97 against -4 is worth 46, not 3.
    """

    def __init__(self, features: int, bins: int = 41, limit: float = 6.0):
        if bins < 2 or limit <= 0:
            raise ValueError(f"Heads: wanted at least 2 bins and a limit above 0, got {bins} and {limit}")
        self.out = nn.Linear(features, bins + 1, init=nn.zeros)
        self._count = bins
        self._bins = ops.two_hot_bins(count=bins, high=limit)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (R,F) -> reward logits (R,bins), termination logits (R,)."""
        out = self.out(features)
        n = self._count
        return ops.slice(out, -1, 0, n), ops.reshape(ops.slice(out, -1, n, n + 1), (out.shape[0],))

    def losses(
        self, features: Tensor, rewards: Tensor, terminated: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropies in nats, over the steps that exist; rewards, terminated, weight (R,)."""
        logits, end = self(features)
        return {
            "reward": ops.two_hot_loss(logits, rewards, self._bins, weight),
            "termination": ops.binary_cross_entropy_with_logits(end, terminated, weight),
        }

    def decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (R,F) -> expected reward (R,), probability of termination (R,)."""
        logits, end = self(features)
        return ops.two_hot_mean(logits, self._bins), ops.sigmoid(end)
