"""train_policy: an actor-critic that learns from imagined frames only.

    policy = wm.train_policy(world, replay, minutes=5)

Each round: imagined episodes start from real frames; the policy plays them for `horizon` steps; returns are

    G_t = r_t + gamma c_t ((1 - lambda) v_{t+1} + lambda G_{t+1}),   c_t = 1 - P(terminated), G_H = v_H

(the lambda return; Sutton & Barto 2018, 12.3).  Advantages G - v are brought to mean 0 and variance 1 over
the round, or divided by a running range of the returns (5 to 95 %; Hafner et al. 2023); a few epochs of
clipped policy gradient follow (PPO; Schulman et al. 2017), every sample weighted by the probability that its
episode has lived that long.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .. import ops
from ..data import Replay
from ..optim import AdamW
from ..policy import Policy
from ..sampling import Sampler
from ..tensor import Tape, Tensor
from ..world import World, check_fits
from . import policy_state
from .imagination import Imagination, Imagined, lambda_returns
from .lived import Lived, Seen
from .loop import Budget, Diverged, Run
from .scale import typical_scale

MOST_SIBLINGS = 8
"""Actions up to which siblings try every one."""
LIVED_EVERY = 10
"""Rounds between refreshments of the returns of real episodes."""
CRITIC_REFRESH, CRITIC_COPIES = 500, 20
"""While the critic learns alone: updates between refreshments of returns, and between new imagined copies."""


@dataclass
class TrainPolicy:
    """How to learn a policy in imagination."""

    recurrent: bool = False
    """A policy with an LSTM, for what must be remembered: learned by REINFORCE over its horizon (train/reinforce.py),
    whose defaults then hold.
    """
    steps: int | None = None
    """Rounds of imagining and learning; or say minutes."""
    minutes: float | None = None
    """Time."""
    lanes: int = 256
    """Imagined environments side by side."""
    horizon: int = 3
    """Decisions imagined from each start (steps, unless the policy repeats actions): few, as starts lie everywhere and
    the critic, which knows whole real episodes, carries value between them.
    """
    siblings: int = 4
    """Lanes that share a start and the world's random numbers, but not their first action (each takes another one
    where the actions are so few): their returns are compared with each other, not with the critic's value of the
    start.  1: none.
    """
    rare_starts: float = 0.25
    """Share of the starts that lie 1 to 6 steps (or as many as the horizon has) before a rare event of the replay."""
    gamma: float = 0.97
    """Discount of a step."""
    lam: float = 0.95
    """Lambda of the returns."""
    epochs: int = 4
    """Passes over each round's samples: imagined frames cost more than looking at them again."""
    minibatch: int = 64
    """Samples an update."""
    lr: float = 3e-4
    """Learning rate."""
    clip_ratio: float = 0.2
    """A probability ratio may move so far from 1."""
    entropy: float = 0.08
    """Weight of the entropy bonus.  Where no action is seen to be better the policy must stay random, or it freezes
    there into a habit that the critic then takes for the state's worth.
    """
    value: float = 0.15
    """Weight of the critic's loss on imagined returns."""
    clip: float = 0.5
    """Largest norm of the gradient."""
    reward_scale: float | None = None
    """Rewards are multiplied by it: the critic learns best when returns are about 1.  None: what makes the replay's
    returns so (train/scale.py), or what a policy that goes on learning has learned with.
    """
    normalise: Literal["advantage", "range"] = "advantage"
    """What advantages are divided by: their own spread, or the running range of the returns."""
    lived: float = 0.75
    """Weight of the critic's loss on returns of real episodes, seen in real frames and in imagined copies of them
    (lived.py); 0: none.
    """
    lived_lam: float = 0.9
    """Lambda of their returns: each is a single, noisy draw, seen many times, so less of it counts."""
    lived_steps: int = 20_000
    """Real steps it looks back on, the latest ones."""
    critic_first: int = 0
    """Updates of the critic alone, on real returns, before the first round: the advantages of a critic that knows
    nothing are noise, and brought to variance 1 all the same.
    """
    slow: float = 0.98
    """Decay of the slow critic: a moving average of the weights, towards whose values the critic is also pulled
    (Hafner et al. 2023); 0: none.
    """
    seed: int = 0
    """Of starts, worlds and actions."""
    run: str | None = None
    """Folder of log, policy and state; an unfinished run there goes on."""
    save_every: int = 10
    """Rounds between saves of the state, for a run that may be killed; 0: only at the end or when interrupted."""
    quiet: bool = False
    """No progress bar."""


def train_policy(
    world: World,
    replay: Replay,
    settings: TrainPolicy | None = None,
    policy: Any = None,
    **fields: Any,
) -> Any:
    """Learn a policy in a world, from imagined frames only; a given policy goes on learning.  fields
    override settings.  `recurrent=True`, or a policy made by `Policy.for_world(world, recurrent=True)`: one with an
    LSTM (train/reinforce.py).

    Interrupted (Ctrl-C, SIGTERM), it saves and returns the policy as it is; run again with the same `run` folder, world
    and replay it goes on bit for bit (with steps; minutes go on counting), killed outright from the last save.  Raises
    Diverged on NaN, ValueError for a run folder of another policy or replay.
    """
    s = dataclasses.replace(settings or TrainPolicy(), **fields)
    if s.recurrent or getattr(policy, "make", "") == "recurrent":
        from .recipes import actor_critic_settings
        from .reinforce import train_actor_critic

        return train_actor_critic(world, replay, actor_critic_settings(s, clip_rewards=False), policy)
    learner = PolicyLearner(world, policy or Policy.for_world(world), s)
    try:
        learner.learn(replay, s.steps, s.minutes, stage="train_policy")
        if learner.folder.folder:
            learner.policy.save(learner.folder.folder / "policy.safetensors")
    finally:
        learner.folder.close()
    return learner.policy


class PolicyLearner:
    """A policy with its optimiser and return range; `learn` may be called again and again as the world
    improves."""

    def __init__(self, world: World, policy: Policy, s: TrainPolicy):
        self.world, self.policy, self.s = world, policy, s
        choices = policy.actor.choices
        few = choices is not None and len(choices) == 1 and 1 < choices[0] <= MOST_SIBLINGS
        self.siblings = choices[0] if s.siblings > 1 and few else s.siblings
        self.lanes = max(1, s.lanes // self.siblings) * self.siblings
        self.copies: Seen | None = None
        self.range = 0.0
        self.rounds = 0
        self.optimiser = AdamW(policy, lr=s.lr, eps=1e-5, clip=s.clip, ema=s.slow)
        self.stopped = False  # the last `learn` was interrupted
        self.folder = Run(s.run, dataclasses.asdict(s))

    def borrow(self) -> None:
        """Begin with the eyes of the world's reward model, if they are of the same make: it has learned to
        notice what pays.  A policy that has learned already keeps its own.
        """
        outcome = getattr(self.world.dynamics, "outcome", None)
        if outcome is None or self.policy.critic.weight.numpy().any():
            return
        eyes, mine = outcome.frames.state_dict(), self.policy.encoder.state_dict()
        if all(k in mine and mine[k].shape == v.shape for k, v in eyes.items()):
            self.policy.encoder.load_state_dict(eyes)

    def learn(
        self, replay: Replay, steps: int | None = None, minutes: float | None = None, stage: str = ""
    ) -> dict[str, float]:
        """So many rounds, or minutes; returns the means of the last rounds' numbers.

        stage: a name under which the run's folder keeps this call's state, and an interrupted one goes on; "" always
        begins anew and keeps only what it ends with."""
        check_fits(self.world.config, replay)
        going = policy_state.resume(self, stage, replay)
        self.folder.rewind(self.rounds or -1)
        if self.rounds == 0:
            self.borrow()
        self.settle_scale(replay)
        s, seed = self.s, self.s.seed + 7919 * self.rounds
        depth = s.horizon * self.policy.repeat  # so deep lie the imagined states whose values are used
        imagination = Imagination(self.world, replay, self.lanes, seed, s.rare_starts, self.siblings, max(6, depth))
        budget = Budget(steps, minutes, "policy", going.done, going.seconds, quiet=self.s.quiet)
        rows: list[dict[str, float]] = []
        lived = Lived(replay, self.policy._frames, s.lived_steps) if s.lived else None
        copier = self.world.sampler(max(1, self.lanes // 4)) if lived else None
        if lived and self.rounds == 0 and not going.rng:
            self.stopped = self.critic_first(lived, copier, depth)
            if self.stopped:
                return {}  # the stage begins anew next time
        going.put_back(imagination, lived)
        for i in budget:
            if lived and i % LIVED_EVERY == 0:
                lived.refresh(self.policy, s.gamma, s.lived_lam, s.reward_scale)
            if lived:
                self.copies = self.copy(lived, copier, depth)
            numbers = self.round(imagination, lived)
            self.folder.log(self.rounds, **numbers)
            budget.note(**{k: numbers[k] for k in ("imagined_return", "ended", "entropy")})
            rows.append(numbers)
            if stage and s.save_every and (i + 1) % s.save_every == 0:
                policy_state.save(self, stage, budget, imagination, lived)
        self.stopped = budget.stopped
        if stage or not self.stopped:
            policy_state.save(self, stage, budget, imagination, lived)
        return {k: float(np.mean([r[k] for r in rows[-10:]])) for k in rows[0]} if rows else {}

    def copy(self, lived: Lived, copier: Sampler, depth: int, turn: int = 0) -> Seen | None:
        """New imagined copies of real steps; the same ones again when a run is repeated."""
        rng = np.random.default_rng([self.s.seed, self.rounds, 2, *([turn] if turn else [])])
        return lived.copies(rng, copier, self.world.context, depth)

    def critic_first(self, lived: Lived, copier: Sampler, depth: int) -> bool:
        """Teach the critic alone (see TrainPolicy); whether that was interrupted."""
        s = self.s
        budget = Budget(s.critic_first, None, "critic", quiet=s.quiet or not s.critic_first)
        for i in budget:
            if i % CRITIC_REFRESH == 0:
                lived.refresh(self.policy, s.gamma, s.lived_lam, s.reward_scale)
            if i % CRITIC_COPIES == 0:
                self.copies = self.copy(lived, copier, depth, 1 + i)
            self.learn_lived(lived, i, s.minibatch)
            if self.optimiser.step().skipped:
                raise Diverged("policy: the gradient is not finite")
        return budget.stopped

    def settle_scale(self, replay: Replay) -> None:
        """Choose the scale of rewards, if the settings do not; the policy remembers it."""
        if self.s.reward_scale is None:
            scale = self.policy.reward_scale or typical_scale(replay, self.s.gamma)
            self.s = dataclasses.replace(self.s, reward_scale=scale)
            self.folder.log(self.rounds, reward_scale=scale)
        self.policy.reward_scale = self.s.reward_scale

    def restore(self) -> bool:
        """Take up what the last `learn` left in the run's folder; False: nothing is there.  Raises ValueError for the
        state of another policy."""
        found = self.folder.load()
        if found is not None:
            policy_state.take(self, *found)
        return found is not None

    def round(self, imagination: Imagination, lived: Lived | None = None) -> dict[str, float]:
        s = self.s
        played = imagination.play(self.policy, s.horizon, s.gamma)
        rewards = played.rewards * s.reward_scale
        returns = lambda_returns(rewards, played.continues, played.values, s.gamma**self.policy.repeat, s.lam)
        spread = max(float(np.quantile(returns, 0.95) - np.quantile(returns, 0.05)), 1e-3)
        self.range = spread if self.rounds == 0 else 0.9 * self.range + 0.1 * spread
        slow = self.slow_values(played) if s.slow else None
        advantages = returns - played.values[:-1]
        old = self.log_probs(played)
        alive = np.cumprod(np.concatenate([np.ones((1, rewards.shape[1]), np.float32), played.continues[:-1]]), 0)
        if self.siblings > 1:
            chance = np.exp(old[0]) if imagination.every_action(self.policy) else None
            advantages[0] = among_siblings(returns[0], self.siblings, chance)
            alive[0] = 1 if chance is None else self.siblings * chance
        scaled = normalised(advantages, alive) if s.normalise == "advantage" else advantages / self.range
        numbers = self.update(played, old, returns, scaled, alive.astype(np.float32), slow, lived)
        alive[1:] *= alive[0]  # as likely as the first action made it
        self.rounds += 1
        return {
            "imagined_return": float((rewards * alive).sum(0).mean() / s.reward_scale),
            "ended": float(1 - (alive[0] * played.continues.prod(0)).mean()),
            "range": self.range,
            **numbers,
        }

    def log_probs(self, played: Imagined) -> np.ndarray:
        """Of what was played, under the policy as it is, (H,N)."""
        out = []
        for t in range(len(played.frames)):
            step = {"frames": played.frames[t], "last": played.last[t], "picks": played.picks[t]}
            numbers = None if played.numbers is None else played.numbers[t]
            out.append(_log_probs(self.policy, step, numbers, self.s.minibatch))
        return np.stack(out)

    def slow_values(self, played: Imagined) -> np.ndarray:
        """The slow critic's values of the states that were played, (H,N)."""
        acting, H = self.policy.acting(self.lanes), len(played.frames)
        stream = np.zeros((self.lanes, 4), np.int32)
        with self.optimiser.averaged():
            return np.stack([acting.act(played.frames[t], played.last[t], stream)[2] for t in range(H)])

    def update(
        self,
        played: Imagined,
        old: np.ndarray,
        returns: np.ndarray,
        advantages: np.ndarray,
        alive: np.ndarray,
        slow: np.ndarray | None = None,
        lived: Lived | None = None,
    ) -> dict[str, float]:
        s = self.s
        flat = {
            k: np.ascontiguousarray(v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]))
            for k, v in (
                ("frames", played.frames),
                ("last", played.last),
                ("picks", played.picks),
                ("returns", returns),
                ("advantages", advantages),
                ("alive", alive),
                *([("slow", slow)] if slow is not None else []),
            )
        }
        numbers = None if played.numbers is None else played.numbers.reshape(-1, played.numbers.shape[-1])
        old = old.reshape(-1)
        totals: dict[str, list[float]] = {"entropy": [], "critic": [], "moved": []} | ({"lived": []} if lived else {})
        for _ in range(s.epochs):
            order = imagination_order(self.rounds, len(old), s.seed, len(totals["entropy"]))
            size = min(s.minibatch, len(order))
            for i in range(0, len(order) - size + 1, size):
                rows = order[i : i + size]
                batch = {k: np.ascontiguousarray(v[rows]) for k, v in flat.items()}
                part = self.gradient(batch, None if numbers is None else np.ascontiguousarray(numbers[rows]), old[rows])
                if lived:
                    part["lived"] = self.learn_lived(lived, len(totals["entropy"]), size)
                if self.optimiser.step().skipped:
                    raise Diverged("policy: the gradient is not finite")
                for k, v in part.items():
                    totals[k].append(v)
        return {k: float(np.mean(v)) for k, v in totals.items()}

    def gradient(self, batch: dict[str, np.ndarray], numbers: np.ndarray | None, old: np.ndarray) -> dict[str, float]:
        s, policy = self.s, self.policy
        weight, advantage = Tensor(batch["alive"]), Tensor(batch["advantages"].astype(np.float32))
        with Tape() as tape:
            d, value = policy.forward(Tensor(batch["frames"]), Tensor(batch["last"]))
            log_prob = policy.actor.log_prob(d, batch["picks"], numbers)
            ratio = ops.exp(ops.sub(log_prob, Tensor(old)))
            bounded = ops.clamp(ratio, 1 - s.clip_ratio, 1 + s.clip_ratio)
            gain = ops.minimum(ops.mul(ratio, advantage), ops.mul(bounded, advantage))
            entropy = ops.mean(ops.mul(policy.actor.entropy(d), weight))
            critic = ops.two_hot_loss(value, Tensor(batch["returns"].astype(np.float32)), policy._bins, weight)
            if "slow" in batch:
                critic = critic + ops.two_hot_loss(value, Tensor(batch["slow"]), policy._bins, weight)
            loss = ops.sub(critic * s.value - ops.mean(ops.mul(gain, weight)), entropy * s.entropy)
        tape.backward(loss)
        return {
            "entropy": entropy.item(),
            "critic": critic.item(),
            "moved": float(np.abs(ratio.numpy() - 1).mean()),
        }

    def learn_lived(self, lived: Lived, turn: int, size: int) -> float:
        """Add the gradient of the critic's loss on real steps and their copies."""
        s = self.s
        rng = np.random.default_rng([s.seed, self.rounds, turn, 1])
        frames, last, returns = lived.draw(rng, size, self.copies)
        with Tape() as tape:
            _, value = self.policy.forward(Tensor(frames), Tensor(last))
            critic = ops.two_hot_loss(value, Tensor(returns), self.policy._bins)
            loss = critic * s.lived
        tape.backward(loss)
        return critic.item()


def among_siblings(returns: np.ndarray, siblings: int, chance: np.ndarray | None) -> np.ndarray:
    """Advantages of first actions, (N,), lanes of one start side by side: G - mean of their start's G, under the
    probabilities of the actions where every one was tried, else over the other siblings (Kool et al. 2019)."""
    g = returns.reshape(-1, siblings)
    if chance is None:
        return (siblings / (siblings - 1) * (g - g.mean(1, keepdims=True))).reshape(-1)
    p = chance.reshape(-1, siblings)
    return (g - (p * g).sum(1, keepdims=True) / p.sum(1, keepdims=True)).reshape(-1)


def normalised(advantages: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1 under the weights."""
    mean = (advantages * weight).sum() / weight.sum()
    spread = np.sqrt((weight * (advantages - mean) ** 2).sum() / weight.sum())
    return (advantages - mean) / max(float(spread), 1e-6)


def imagination_order(round_: int, count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, round_, turn]).permutation(count)


def _log_probs(policy: Policy, flat: dict[str, np.ndarray], numbers: np.ndarray | None, size: int) -> np.ndarray:
    out = []
    for i in range(0, len(flat["last"]), size):
        d, _ = policy.forward(Tensor(flat["frames"][i : i + size]), Tensor(flat["last"][i : i + size]))
        out.append(
            np.array(
                policy.actor.log_prob(
                    d, flat["picks"][i : i + size], None if numbers is None else numbers[i : i + size]
                ).numpy()
            )
        )
    return np.concatenate(out)
