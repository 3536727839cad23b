"""policy_state: what a policy's training keeps in its run's folder, to go on bit for bit after a kill.

Weights, moments, the slow critic, the range of returns and the scale of rewards; of the stage at hand the rounds done
and seconds spent, the streams of starts and actions, and the returns of real episodes as they were when last refreshed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn
from ..data import Replay
from ..optim import AdamW
from .lived import Lived
from .loop import Budget

if TYPE_CHECKING:
    from .imagination import Imagination
    from .policy import PolicyLearner


def save(learner: PolicyLearner, stage: str, budget: Budget, imagination: Imagination, lived: Lived | None) -> None:
    """Into the run's folder, if there is one."""
    if not learner.folder.folder:
        return
    tensors = weights_of(learner.policy, learner.optimiser) | {"stream": imagination.stream}
    tensors |= {"lived": lived.returns} if lived else {}
    about = {"rounds": learner.rounds, "range": learner.range, "reward_scale": learner.s.reward_scale}
    about |= {"stage": stage, "done": budget.done, "seconds": budget.seconds}
    about |= {"rng": imagination.rng.bit_generator.state, "replay": counts(imagination.replay)}
    learner.folder.save(tensors, about)


def take(learner: PolicyLearner, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Weights, moments and counts.  Raises ValueError for the state of another policy."""
    take_weights(learner.folder.state_path, tensors, learner.policy, learner.optimiser)
    learner.rounds, learner.range = about["rounds"], about["range"]
    if learner.s.reward_scale is None:
        learner.s = dataclasses.replace(learner.s, reward_scale=about.get("reward_scale"))


@dataclass
class Going:
    """A stage that was interrupted, if any: rounds done, seconds spent, and the rest of its state."""

    done: int = 0
    seconds: float = 0.0
    path: Any = None
    tensors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rng: dict[str, Any] | None = None

    def put_back(self, imagination: Imagination, lived: Lived | None) -> None:
        """The streams, and the real returns.  Raises ValueError for the state of other settings."""
        if self.rng is None:
            return
        kept = self.tensors.get("lived")
        wrong = (lived is None) != (kept is None) or (lived is not None and kept.shape != lived.returns.shape)
        if wrong or self.tensors["stream"].shape != imagination.stream.shape:
            raise ValueError(f"{self.path}: the state is of other settings (lanes, siblings or lived)")
        imagination.stream[...] = self.tensors["stream"]
        imagination.rng.bit_generator.state = self.rng
        if lived is not None:
            lived.returns[...] = kept


def resume(learner: PolicyLearner, stage: str, replay: Replay) -> Going:
    """Take up a stage of this name, where the run's folder holds it.  Raises ValueError for the state of another policy
    or replay."""
    found = learner.folder.load() if stage and (learner.folder.load_about() or {}).get("stage") == stage else None
    if found is None:
        return Going()
    tensors, about = found
    check_replay(learner.folder.state_path, about, replay)
    take(learner, tensors, about)
    return Going(about["done"], about["seconds"], learner.folder.state_path, tensors, about["rng"])


def weights_of(policy: nn.Module, optimiser: AdamW) -> dict[str, np.ndarray]:
    """Weights and moments, for a state."""
    tensors = {f"policy.{k}": v for k, v in policy.state_dict().items()}
    return tensors | {f"optimiser.{k}": v for k, v in optimiser.state_dict().items()}


def take_weights(path: Any, tensors: dict[str, np.ndarray], policy: nn.Module, optimiser: AdamW) -> None:
    """Put weights and moments back.  Raises ValueError for those of another policy."""
    try:
        for prefix, target in (("policy.", policy), ("optimiser.", optimiser)):
            target.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the state of this policy: {error.args[0]}") from None


def check_replay(path: Any, about: dict[str, Any], replay: Replay) -> None:
    """Raise ValueError if a state is of another replay."""
    if about["replay"] != counts(replay):
        raise ValueError(
            f"{path}: the state is of another replay, of {about['replay']} episodes and steps, this one has "
            f"{counts(replay)}"
        )


def counts(replay: Replay) -> list[int]:
    """Episodes and steps: by which a state knows its replay."""
    return [len(replay), replay.num_steps]
