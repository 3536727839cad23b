"""train_actor_critic: an actor-critic with an LSTM, by REINFORCE with lambda returns, from imagined frames only.

    policy = wm.train_policy(world, replay, recurrent=True, minutes=5)      # any action space; rewards scaled
    policy = wm.train.train_actor_critic(world, replay, minutes=5)          # DIAMOND's, as published

Each update imagines `horizon` steps in every lane; the policy sees the frames before the start first, without a
gradient, to have a memory.  With G_t the lambda return (train/policy.py) of rewards, scaled or clipped to their sign,

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
from ..models.acting import ActionHead
from ..models.diamond import RecurrentPolicy
from ..optim import AdamW
from ..sampling import streams
from ..tensor import Tape, Tensor, no_grad
from ..world import World, check_fits
from . import policy_state
from .imagination import acted_windows, lambda_returns
from .loop import Budget, Diverged, Run
from .scale import typical_scale


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
    reward_scale: float | None = None
    """Rewards that are not clipped are multiplied by it; None: what makes the replay's returns about 1
    (train/scale.py).
    """
    seed: int = 0
    """Of starts, worlds and actions."""
    run: str | None = None
    """Folder of log, policy and state; an unfinished run there goes on."""
    save_every: int = 25
    """Updates between saves of the state, for a run that may be killed; 0: only at the end or when interrupted."""
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

    Interrupted (Ctrl-C, SIGTERM), it saves and returns the policy as it is; run again with the same `run` folder, world
    and replay it goes on bit for bit (with steps; minutes go on counting), killed outright from the last save.  Raises
    Diverged on NaN, ValueError for another replay, or the run folder of another policy.
    """
    s = dataclasses.replace(settings or TrainActorCritic(), **fields)
    check_fits(world.config, replay)
    learner = Reinforce(world, policy or RecurrentPolicy.for_world(world), replay, s)
    budget = Budget(s.steps, s.minutes, "actor-critic", *learner.restore(), quiet=s.quiet)
    learner.folder.rewind(budget.done or -1)
    learner.settle_scale()
    try:
        for step in budget:
            numbers = learner.update(step)
            learner.folder.log(step + 1, **numbers)
            budget.note(**{k: numbers[k] for k in ("imagined_return", "entropy")})
            if s.save_every and (step + 1) % s.save_every == 0:
                learner.save_state(budget)
        learner.save_state(budget)
        if learner.folder.folder:
            learner.policy.save(learner.folder.folder / "policy.safetensors")
    finally:
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
        self.scale = s.reward_scale

    # ---- going on ----

    def settle_scale(self) -> None:
        """Choose the scale of rewards, if it is wanted and not given; the policy remembers it."""
        if self.s.clip_rewards:
            return
        if self.scale is None:
            self.scale = self.policy.reward_scale or typical_scale(self.replay, self.s.gamma)
            self.folder.log(0, reward_scale=self.scale)
        self.policy.reward_scale = self.scale

    def save_state(self, budget: Budget) -> None:
        """All that it takes to go on bit for bit, into the run's folder."""
        if self.folder.folder:
            tensors = policy_state.weights_of(self.policy, self.optimiser) | {"stream": self.stream}
            about = {"done": budget.done, "seconds": budget.seconds, "rng": self.rng.bit_generator.state}
            about |= {"stage": "reinforce", "reward_scale": self.scale, "replay": policy_state.counts(self.replay)}
            self.folder.save(tensors, about)

    def restore(self) -> tuple[int, float]:
        """Take up what the run's folder holds: updates done, seconds spent.  Raises ValueError for the state of another
        policy, replay or number of lanes."""
        path, found = self.folder.state_path, self.folder.load()
        if found is None or found[1].get("stage") != "reinforce":
            return 0, 0.0
        tensors, about = found
        policy_state.check_replay(path, about, self.replay)
        policy_state.take_weights(path, tensors, self.policy, self.optimiser)
        if tensors["stream"].shape != self.stream.shape:
            raise ValueError(f"{path}: the state is of {len(tensors['stream'])} lanes, not {len(self.stream)}")
        self.stream[...], self.rng.bit_generator.state = tensors["stream"], about["rng"]
        self.scale = about["reward_scale"] if self.scale is None else self.scale
        return about["done"], about["seconds"]

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

    def pick(self, d: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions drawn from the numbers of their distribution (N,A): picks (N,choices), numbers (N,K) or None."""
        with no_grad():
            drawn = self.policy.actor.drawn(ops.stop_gradient(d), self.stream)
        self.stream[:, 3] += 1
        return drawn

    # ---- an update ----

    def update(self, step: int) -> dict[str, float]:
        s, policy = self.s, self.policy
        frames, *memory = self.begin(np.arange(s.lanes))
        h, c = (Tensor(m) for m in memory)
        rewards, ends = np.zeros((s.horizon, s.lanes), np.float32), np.zeros((s.horizon, s.lanes), bool)
        said, values, drawn = [], [], []
        with Tape() as tape:
            for t in range(s.horizon):
                d, value, h, c = policy.forward(Tensor(frames), h, c)
                said.append(d), values.append(value), drawn.append(self.pick(d))
                with no_grad():
                    seen = self.sampler.step(self.world.table.features(policy.actor.codes(*drawn[-1])))
                rewards[t], ends[t], frames = seen.rewards, seen.terminated, seen.frames
                if ends[t].any():
                    frames, h, c = self.anew(np.flatnonzero(ends[t]), frames, h, c)
            with no_grad():
                _, last, _, _ = policy.forward(Tensor(frames), ops.stop_gradient(h), ops.stop_gradient(c))
            v = np.stack([x.numpy() for x in (*values, last)])
            paid = rewards.sum(0).mean()
            rewards = np.sign(rewards) if s.clip_rewards else rewards * np.float32(self.scale)
            returns = lambda_returns(rewards, 1.0 - ends, v, s.gamma, s.lam).astype(np.float32)
            loss, entropy = self.loss(said, values, drawn, returns, returns - v[:-1])
        tape.backward(loss)
        self.optimiser.lr = s.lr * min(1.0, (step + 1) / max(1, s.warmup))
        norm = self.optimiser.step()
        if norm.skipped:
            raise Diverged("actor-critic: the gradient is not finite")
        return {
            "loss": loss.item(),
            "imagined_return": float(rewards.sum(0).mean() if s.clip_rewards else paid),
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
        self,
        said: list[Tensor],
        values: list[Tensor],
        drawn: list[tuple[np.ndarray, np.ndarray | None]],
        returns: np.ndarray,
        gain: np.ndarray,
    ) -> tuple[Tensor, Tensor]:
        """The file head's loss, and the mean entropy."""
        picks = np.concatenate([p for p, _ in drawn])
        numbers = None if drawn[0][1] is None else np.concatenate([n for _, n in drawn])
        actor, d, v = self.policy.actor, ops.concat(*said), ops.concat(*values)
        return reinforce_loss(actor, d, v, picks, numbers, returns.ravel(), gain.ravel(), self.s)


def reinforce_loss(
    actor: ActionHead,
    d: Tensor,
    values: Tensor,
    picks: np.ndarray,
    numbers: np.ndarray | None,
    returns: np.ndarray,
    gain: np.ndarray,
    s: TrainActorCritic,
) -> tuple[Tensor, Tensor]:
    """Numbers of the distribution d (R,A), values (R,), picks (R,choices) and numbers (R,K) that were drawn, returns
    and advantages (R,) -> loss, mean entropy."""
    log_prob = actor.log_prob(d, np.ascontiguousarray(picks, np.int32), numbers)
    entropy = ops.mean(actor.entropy(d))
    gained = ops.mean(ops.mul(log_prob, Tensor(np.ascontiguousarray(gain, np.float32))))
    critic = ops.mse(values, Tensor(np.ascontiguousarray(returns, np.float32)))
    return ops.sub(critic * s.value - gained, entropy * s.entropy), entropy
