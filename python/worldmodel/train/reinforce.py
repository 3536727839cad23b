"""train_actor_critic: DIAMOND's actor-critic, by REINFORCE with lambda returns, from imagined frames only.

    policy = wm.train.train_actor_critic(world, replay, minutes=5)

Each update imagines `horizon` steps in every lane; the policy sees the frames before the start first, without a
gradient, to have a memory.  With G_t the lambda return (train/policy.py) of rewards clipped to their sign,

    loss = - log p(a_t) (G_t - v_t) + value (v_t - G_t)^2 - entropy H(p)        mean over steps and lanes

and gradients flow through the LSTM over the horizon.  A lane that ends begins anew from another real start.  The
defaults are those published (Alonso et al. 2024, arXiv 2405.12399).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..data import Replay
from ..models.diamond import RecurrentPolicy
from ..models.diamond.actor_critic import SALT_ACTION
from ..optim import AdamW
from ..sampling import streams
from ..tensor import Tape, Tensor, no_grad
from ..world import World, check_fits
from .loop import Budget, Diverged, Run
from .policy import acted_windows, lambda_returns


@dataclass
class TrainActorCritic:
    """How to learn by REINFORCE; as published."""

    steps: int | None = None
    """Updates; or say minutes."""
    minutes: float | None = None
    """Time."""
    lanes: int = 32
    """Imagined environments side by side."""
    horizon: int = 15
    """Steps imagined for an update."""
    gamma: float = 0.985
    """Discount of a step."""
    lam: float = 0.95
    """Lambda of the returns."""
    entropy: float = 0.001
    """Weight of the entropy bonus."""
    value: float = 1.0
    """Weight of the critic's loss."""
    lr: float = 1e-4
    """Learning rate."""
    warmup: int = 100
    """Updates until it."""
    weight_decay: float = 0.0
    """AdamW's."""
    clip: float = 100.0
    """Largest norm of the gradient."""
    clip_rewards: bool = True
    """Rewards are their signs."""
    seed: int = 0
    """Of starts, worlds and actions."""
    run: str | None = None
    """Folder for the log and the policy."""
    quiet: bool = False
    """No progress bar."""


def train_actor_critic(
    world: World,
    replay: Replay,
    settings: TrainActorCritic | None = None,
    policy: RecurrentPolicy | None = None,
    **fields: Any,
) -> RecurrentPolicy:
    """Learn a recurrent policy in a world; a given one goes on learning.  fields override settings.

    Interrupted (Ctrl-C), it returns the policy as it is.  Raises Diverged on NaN, ValueError for another replay.
    """
    s = dataclasses.replace(settings or TrainActorCritic(), **fields)
    check_fits(world.config, replay)
    learner = Reinforce(world, policy or RecurrentPolicy.for_world(world), replay, s)
    budget = Budget(s.steps, s.minutes, "actor-critic", quiet=s.quiet)
    for step in budget:
        numbers = learner.update(step)
        learner.folder.log(step + 1, **numbers)
        budget.note(**{k: numbers[k] for k in ("imagined_return", "entropy")})
    if learner.folder.folder:
        learner.policy.save(learner.folder.folder / "policy.safetensors")
    learner.folder.close()
    return learner.policy


class Reinforce:
    """A policy, its optimiser and its lanes."""

    def __init__(self, world: World, policy: RecurrentPolicy, replay: Replay, s: TrainActorCritic):
        self.world, self.policy, self.replay, self.s = world, policy, replay, s
        drawn = {"drawn": True} if world.dynamics.draws_rewards else {}
        self.sampler = world.sampler(s.lanes, **drawn)
        self.rng = np.random.default_rng(s.seed)
        self.stream = streams(np.uint64(s.seed) * np.uint64(1 << 20) + np.arange(s.lanes, dtype=np.uint64))
        self.optimiser = AdamW(policy, lr=s.lr, weight_decay=s.weight_decay, clip=s.clip)
        self.folder = Run(s.run, dataclasses.asdict(s))

    # ---- lanes ----

    def begin(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start lanes from real frames: their last frames (k,H,W,C), the policy's memory h and c of those before."""
        batch = self.replay.sample(self.rng, 2 * len(rows) + 8, self.world.context)
        frames, led = acted_windows(batch, self.replay, len(rows))
        self.sampler.reset(frames, led, self.rng.integers(0, 2**63, len(rows), np.uint64), rows)
        h = c = Tensor(np.zeros((len(rows), self.policy.lstm_features), np.float32))
        with no_grad():
            for t in range(frames.shape[1] - 1):
                _, _, h, c = self.policy.forward(Tensor(np.ascontiguousarray(frames[:, t])), h, c)
        return np.array(frames[:, -1]), np.array(h.numpy()), np.array(c.numpy())

    def pick(self, logits: Tensor) -> np.ndarray:
        """Actions (N,) drawn from logits (N,A)."""
        with no_grad():
            picks = ops.categorical(ops.stop_gradient(logits), Tensor(self.stream.copy()), salt=SALT_ACTION).numpy()
        self.stream[:, 3] += 1
        return np.array(picks)

    # ---- an update ----

    def update(self, step: int) -> dict[str, float]:
        s, policy = self.s, self.policy
        frames, *memory = self.begin(np.arange(s.lanes))
        h, c = (Tensor(m) for m in memory)
        rewards, ends = np.zeros((s.horizon, s.lanes), np.float32), np.zeros((s.horizon, s.lanes), bool)
        logits, values, picks = [], [], []
        with Tape() as tape:
            for t in range(s.horizon):
                said, value, h, c = policy.forward(Tensor(frames), h, c)
                logits.append(said), values.append(value), picks.append(self.pick(said))
                with no_grad():
                    seen = self.sampler.step(self.world.table.features(policy.codes(picks[-1])))
                rewards[t], ends[t], frames = seen.rewards, seen.terminated, seen.frames
                if ends[t].any():
                    frames, h, c = self.anew(np.flatnonzero(ends[t]), frames, h, c)
            with no_grad():
                _, last, _, _ = policy.forward(Tensor(frames), ops.stop_gradient(h), ops.stop_gradient(c))
            v = np.stack([x.numpy() for x in (*values, last)])
            rewards = np.sign(rewards) if s.clip_rewards else rewards
            returns = lambda_returns(rewards, 1.0 - ends, v, s.gamma, s.lam).astype(np.float32)
            loss, entropy = self.loss(logits, values, picks, returns, returns - v[:-1])
        tape.backward(loss)
        self.optimiser.lr = s.lr * min(1.0, (step + 1) / max(1, s.warmup))
        norm = self.optimiser.step()
        if norm.skipped:
            raise Diverged("actor-critic: the gradient is not finite")
        return {
            "loss": loss.item(),
            "imagined_return": float(rewards.sum(0).mean()),
            "ended": float(ends.any(0).mean()),
            "entropy": entropy.item(),
            "grad_norm": norm.norm,
        }

    def anew(self, rows: np.ndarray, frames: np.ndarray, h: Tensor, c: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
        """The lanes rows from other starts; what they remembered, and its gradient, goes."""
        with no_grad():
            now, *memory = self.begin(rows)
        frames = frames.copy()
        frames[rows] = now
        keep = np.ones((self.s.lanes, 1), np.float32)
        keep[rows] = 0
        fresh = []
        for old, new in zip((h, c), memory, strict=True):
            put = np.zeros(old.shape, np.float32)
            put[rows] = new
            fresh.append(ops.add(ops.mul(old, Tensor(keep)), Tensor(put)))
        return frames, fresh[0], fresh[1]

    def loss(
        self, logits: list[Tensor], values: list[Tensor], picks: list[np.ndarray], returns: np.ndarray, gain: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """The file head's loss, and the mean entropy."""
        return reinforce_loss(
            ops.concat(*logits), ops.concat(*values), np.concatenate(picks), returns.ravel(), gain.ravel(), self.s
        )


def reinforce_loss(
    logits: Tensor, values: Tensor, picks: np.ndarray, returns: np.ndarray, gain: np.ndarray, s: TrainActorCritic
) -> tuple[Tensor, Tensor]:
    """logits (R,A), values (R,), actions, returns and advantages (R,) -> loss, mean entropy."""
    log_prob = ops.categorical_log_prob(logits, Tensor(np.ascontiguousarray(picks, np.int32)))
    entropy = ops.mean(ops.categorical_entropy(logits))
    actor = ops.mean(ops.mul(log_prob, Tensor(np.ascontiguousarray(gain, np.float32))))
    critic = ops.mse(values, Tensor(np.ascontiguousarray(returns, np.float32)))
    return ops.sub(critic * s.value - actor, entropy * s.entropy), entropy
