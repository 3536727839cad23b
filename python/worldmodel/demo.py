"""demo: the main job end to end: collect real frames, learn the world, learn a policy inside it, prove it
outside.

    worldmodel demo                      # Doom Basic: about 8 minutes on one core
    worldmodel demo --env takecover      # Doom Take Cover, the classic of learning inside a dream (Ha &
    Schmidhuber 2018): about half an hour
    worldmodel demo --env cartpole       # where ViZDoom has no wheel
    worldmodel demo --env breakout       # world and playable roll-outs only

Rounds: play with the policy so far (random at first, each action held for a while), add the frames, go on
training the world,
go on training the policy in it.  Every stage is saved; interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import write_atomically
from .data import RandomPolicy, Replay, collect, environment
from .policy import Policy
from .train import PolicyLearner, TrainPolicy, TrainWorld, WorldLearner, evaluate
from .train.counterfactual import counterfactual_report
from .train.report import world_report, write_report
from .world import World


@dataclass
class Recipe:
    """What a demo does with one environment."""

    env_id: str
    frames: tuple[int, int]
    environment: dict[str, Any] = field(default_factory=dict)
    first: int = 2500
    """Random steps at first."""
    hold: int = 4
    """Random actions are held for 1 to so many steps."""
    more: int = 750
    """Steps of the policy in each later round."""
    rounds: int = 10
    """Rounds after the first."""
    explore: float = 0.05
    """Share of random actions while collecting."""
    backbone: str = "unet"
    size: str = "S"
    options: dict[str, Any] = field(default_factory=dict)
    """Of the backbone."""
    world: TrainWorld = field(default_factory=TrainWorld)
    world_first: int = 1500
    """Updates of the world in the first round, and in each later one:"""
    world_more: int = 250
    looks: int = 2
    """Frames the policy sees: more where speeds matter."""
    repeat: int = 1
    """Steps for which it holds an action."""
    policy: TrainPolicy | None = field(default_factory=TrainPolicy)
    policy_first: int = 50
    """Rounds of imagination in the first round, and in each later one:"""
    policy_more: int = 40
    calm: float = 0.03
    """Weight of the entropy bonus in the last round; it falls there in a line over the rounds."""
    choose: bool = False
    """Keep the policy of the round that earned most while collecting, not the last one (which plays a round more, to be
    compared): where imagination is not good enough for ever more learning in it.
    """
    episodes: int = 50
    """Real episodes of the final evaluation; random ones beside it:"""
    random_episodes: int = 30
    held_out: int = 1500
    """Random steps collected apart, only to score the world; they are not trained on."""


DOOM = {"frame_skip": 4, "crop": (80, 0, 80, 320)}
"""Enemies and what they throw appear in a third of the height of Doom's picture, round the horizon: the rest would cost
two thirds of the time, and its textures most of the loss."""

RECIPES = {
    "doom": Recipe(
        "VizdoomBasic-v1",
        (16, 64),
        DOOM,
        world=TrainWorld(lr=2e-3, held_out=0, evaluate_every=0, rollouts=64, horizon=4),
        policy=TrainPolicy(reward_scale=0.01, value=0.5, lived=0.25),
    ),
    "takecover": Recipe(
        "VizdoomTakeCover-v1",
        (24, 64),
        {"frame_skip": 4, "crop": (80, 0, 120, 320)},  # what is thrown sinks as it comes nearer
        first=60_000,  # a real step costs half a millisecond, an imagined one ten times as much
        more=15_000,
        rounds=8,
        hold=16,
        options={"motion": 8.0},
        world=TrainWorld(lr=2e-3, held_out=0, evaluate_every=0, rollouts=64, horizon=8),
        world_first=7000,
        world_more=1000,
        looks=4,
        repeat=12,  # what is thrown flies for so many steps: a decision is worth what comes of it
        policy=TrainPolicy(
            lanes=192,
            horizon=1,
            gamma=0.98,
            entropy=0.5,  # decisions differ little, and the critic is not sure: p ~ exp(advantage / entropy)
            lived_lam=0.98,
            lived_steps=150_000,
            critic_first=4000,
            reward_scale=0.01,
        ),
        policy_first=50,
        policy_more=15,
        calm=0.5,
        choose=True,
        episodes=100,
    ),
    "cartpole": Recipe(
        "CartPole-v1",
        (24, 72),
        {"pixels": "render", "crop": (150, 0, 200, 600), "frame_skip": 2},
        first=5000,
        more=2500,
        hold=2,
        world=TrainWorld(lr=2e-3, held_out=0, evaluate_every=0, rollouts=64, horizon=8),
        world_more=200,
        looks=4,
        policy=TrainPolicy(gamma=0.97, entropy=0.1, lived_lam=0.95, reward_scale=0.015),
        calm=0.04,
        episodes=30,
    ),
    "breakout": Recipe(
        "ALE/Breakout-v5",
        (64, 64),
        {"frame_skip": 4, "sticky": 0.0},
        first=12_000,
        more=0,
        rounds=0,
        world=TrainWorld(lr=2e-3, held_out=0, evaluate_every=1000, rollouts=64, horizon=8),
        world_first=2500,
        policy=None,
        hold=4,
    ),
}


@dataclass
class Demo:
    """How to run the demo."""

    env: str = "doom"
    """doom, takecover, cartpole or breakout."""
    run: str | None = None
    """Folder of results; runs/<env> by default."""
    seed: int = 0
    """Of everything random."""
    scale: float = 1.0
    """Shortens every stage to this share, to try it out."""
    episodes: int | None = None
    """Real episodes of the final evaluation."""
    quiet: bool = False
    """No progress bars."""


class Stages:
    """What is done, with the seconds it took; kept in stages.json, so that an interrupted demo goes on."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.path, self.settings = folder / "stages.json", settings
        self.done: dict[str, Any] = {}
        if self.path.exists():
            found = json.loads(self.path.read_text())
            if found.get("settings") != settings:
                raise ValueError(
                    f"{folder} holds a demo with other settings ({found.get('settings')}); "
                    "choose another --run, or remove it"
                )
            self.done = found["done"]

    def seconds(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for name, about in self.done.items():
            total[name.split(" ")[0]] = total.get(name.split(" ")[0], 0.0) + about["seconds"]
        return {k: round(v, 1) for k, v in total.items()}

    def finish(self, name: str, began: float, **about: Any) -> None:
        self.done[name] = {"seconds": time.monotonic() - began, **about}
        write_atomically(
            self.path, json.dumps({"settings": self.settings, "done": self.done}, indent=1).encode()
        )


def demo(settings: Demo | None = None, **fields: Any) -> dict[str, Any]:
    """Run a demo; returns what report.json holds.  Raises ValueError for an unknown environment, ImportError
    naming the extra
    that is missing; interrupted, it saves and raises KeyboardInterrupt."""
    s = Demo(**{**asdict(settings or Demo()), **fields})
    if s.env not in RECIPES:
        raise ValueError(f"demo: env must be one of {', '.join(RECIPES)}, got {s.env!r}")
    return _Demo(s, RECIPES[s.env]).run()


class _Demo:
    def __init__(self, s: Demo, recipe: Recipe):
        self.s, self.r = s, recipe
        self.folder = Path(s.run or f"runs/{s.env}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stages = Stages(self.folder, {"env": s.env, "seed": s.seed, "scale": s.scale})
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    def share(self, count: int, least: int = 1) -> int:
        return max(least, round(count * self.s.scale)) if count else 0

    # ---- stages ----

    def run(self) -> dict[str, Any]:
        r, s = self.r, self.s
        how = {"frames": r.frames, **r.environment}
        env = environment(r.env_id, **how)
        actions = env.action_space
        env.close()
        replay = self.gather(
            "collect 0", self.share(r.first, 200), RandomPolicy(actions, hold=r.hold, seed=s.seed)
        )
        world, policy = self.make(replay)
        learner = WorldLearner(world, self._world_settings())
        self.restore(learner)
        students = PolicyLearner(world, policy, self._policy_settings()) if policy and r.policy else None
        if students and any(name.startswith("policy") for name in self.stages.done):
            students.restore()
        for i in range(r.rounds + 1):
            if i:
                replay = self.play_on(i, policy, actions)
            self.train_world(i, learner, replay)
            if students:
                self.train_policy(i, learner, students, replay)
        if policy and r.choose:
            replay = self.play_on(r.rounds + 1, policy, actions)
            policy = self.best_policy(policy)
        with learner.averaged():
            world.save(self.folder / "world.safetensors")
            if policy:
                policy.save(self.folder / "policy.safetensors")
            return self.report(world, policy, replay)

    def _world_settings(self) -> TrainWorld:
        return TrainWorld(
            **{
                **asdict(self.r.world),
                "run": str(self.folder / "world"),
                "seed": self.s.seed,
                "quiet": self.s.quiet,
            }
        )

    def _policy_settings(self) -> TrainPolicy:
        assert self.r.policy
        return TrainPolicy(
            **{
                **asdict(self.r.policy),
                "run": str(self.folder / "policy"),
                "seed": self.s.seed,
                "quiet": self.s.quiet,
            }
        )

    def gather(self, name: str, steps: int, policy: Any) -> Replay:
        path = self.folder / "replay"
        if name in self.stages.done:
            return Replay.open(path)
        began = time.monotonic()
        self.say(f"collecting {steps} real steps of {self.r.env_id}")
        known = sum(about.get("episodes", 0) for about in self.stages.done.values())
        kept = self._kept_steps(path)
        replay = collect(
            self.r.env_id,
            steps=max(1, steps - kept),
            frames=self.r.frames,
            policy=policy,
            path=path,
            seed=self.s.seed + 1000 * len(self.stages.done),
            progress=not self.s.quiet,
            **self.r.environment,
        )
        returns = [float(np.sum(e.rewards)) for e in replay if e.terminated[-1] or e.truncated[-1]][known:]
        mean = float(np.mean(returns)) if returns else None
        self.say(f"{len(returns)} episodes, mean return {'?' if mean is None else f'{mean:.1f}'}")
        self.stages.finish(name, began, steps=steps, collected=mean, episodes=len(returns))
        return replay

    def play_on(self, turn: int, policy: Policy | None, actions: Any) -> Replay:
        """The real steps of a later round, by the policy so far."""
        return self.gather(f"collect {turn}", self.share(self.r.more, 50), self.explorer(policy, actions, turn))

    def _kept_steps(self, path: Path) -> int:
        """Steps of an interrupted collection: they count."""
        if not (path / "meta.json").exists():
            return 0
        before = sum(a["steps"] for name, a in self.stages.done.items() if name.startswith("collect"))
        return max(0, Replay.open(path).num_steps - before)

    def make(self, replay: Replay) -> tuple[World, Policy | None]:
        from . import machine

        machine.seed(self.s.seed)
        world = World.create(replay, size=self.r.size, backbone=self.r.backbone, seed=self.s.seed, **self.r.options)
        return world, Policy.for_world(world, frames=self.r.looks, repeat=self.r.repeat) if self.r.policy else None

    def restore(self, learner: WorldLearner) -> None:
        if any(name.startswith("world") for name in self.stages.done):
            learner.restore()

    def explorer(self, policy: Policy | None, actions: Any, turn: int) -> Any:
        """The policy with a share of random actions."""
        random, rng = (
            RandomPolicy(actions, seed=self.s.seed + turn),
            np.random.default_rng([self.s.seed, turn]),
        )

        def act(frames: np.ndarray, first: np.ndarray, state: Any) -> tuple[Any, Any]:
            assert policy is not None
            chosen, state = policy(frames, first, state, seed=self.s.seed + turn)
            other, _ = random(frames, first)
            return [
                o if rng.random() < self.r.explore else c for c, o in zip(chosen, other, strict=True)
            ], state

        return act

    def train_world(self, i: int, learner: WorldLearner, replay: Replay) -> None:
        name = f"world {i}"
        if name in self.stages.done:
            return
        began = time.monotonic()
        steps = self.share(self.r.world_first if i == 0 else self.r.world_more, 5)
        self.say(f"training the world: {steps} updates on {replay.num_steps} steps")
        result = learner.learn(replay, steps=steps, stage=name)
        if result["stopped"]:
            raise KeyboardInterrupt
        self.stages.finish(name, began, psnr=result["psnr"])

    def train_policy(self, i: int, learner: WorldLearner, students: PolicyLearner, replay: Replay) -> None:
        name, path = f"policy {i}", self.folder / "policy.safetensors"
        if name in self.stages.done:
            return
        began = time.monotonic()
        rounds = self.share(self.r.policy_first if i == 0 else self.r.policy_more)
        assert self.r.policy
        share = i / max(1, self.r.rounds)
        students.s = replace(students.s, entropy=(1 - share) * self.r.policy.entropy + share * self.r.calm)
        with learner.averaged():
            numbers = students.learn(replay, steps=rounds)
        if students.stopped:
            raise KeyboardInterrupt
        students.policy.save(path)
        if self.r.choose:
            students.policy.save(self.folder / f"policy-{i}.safetensors")
        self.say(
            f"imagined return {numbers['imagined_return']:.1f}, entropy {numbers['entropy']:.2f} "
            f"after {students.rounds} rounds of imagination"
        )
        self.stages.finish(name, began, **numbers)

    def best_policy(self, last: Policy) -> Policy:
        """The policy whose collected episodes earned most; the last one where none was finished."""
        earned = [self.stages.done[f"collect {i + 1}"]["collected"] for i in range(self.r.rounds + 1)]
        known = {i: mean for i, mean in enumerate(earned) if mean is not None}
        if not known:
            return last
        i = max(known, key=lambda k: known[k])
        self.say(f"the policy of round {i} earned most while collecting: {known[i]:.1f}")
        return Policy.load(self.folder / f"policy-{i}.safetensors")

    # ---- proof ----

    def report(self, world: World, policy: Policy | None, replay: Replay) -> dict[str, Any]:
        began = time.monotonic()
        about: dict[str, Any] = {"env": self.r.env_id, "real_steps": replay.num_steps}
        if policy:
            episodes = self.s.episodes or self.share(self.r.episodes, 2)
            self.say(
                f"playing {episodes} real episodes with the policy, "
                f"{self.share(self.r.random_episodes, 2)} with random actions"
            )
            e = evaluate(
                policy,
                replay.environment,
                episodes=episodes,
                random_episodes=self.share(self.r.random_episodes, 2),
                seed=10_000,
            )
            about |= {
                "real_return_mean": e.mean.mean,
                "real_return_ci95": [e.mean.low, e.mean.high],
                "real_episodes": e.mean.n,
                "real_length_mean": float(e.lengths.mean()),
                "real_returns": e.returns.tolist(),
                "random_return_mean": e.random.mean if e.random else None,
                "random_return_ci95": [e.random.low, e.random.high] if e.random else None,
                "random_episodes": e.random.n if e.random else 0,
            }
            self.say(str(e))
        self.say("scoring the world on real episodes it has not seen")
        unseen = collect(
            self.r.env_id,
            steps=self.share(self.r.held_out, 300),
            frames=self.r.frames,
            seed=self.s.seed + 777,
            policy=RandomPolicy(environment_space(replay), hold=self.r.hold, seed=self.s.seed + 777),
            path=self.folder / f"unseen-{int(time.time())}",
            progress=False,
            **self.r.environment,
        )
        about |= world_report(world, unseen, self.folder, seed=self.s.seed)
        if other := counterfactual_report(world, replay.environment, seed=self.s.seed):
            about["counterfactual"] = other
        self.stages.finish("report", began)
        about |= {
            "seconds": self.stages.seconds(),
            "seconds_total": round(sum(self.stages.seconds().values()), 1),
            "stages": self.stages.done,
            "machine": machine_text(),
            "command": " ".join(["worldmodel", *sys.argv[1:]]),
        }
        write_report(self.folder, about)
        self.say(f"report: {self.folder / 'report.md'}")
        return about


def environment_space(replay: Replay) -> Any:
    return replay.action_space


def machine_text() -> str:
    """The processor, threads, kernels and Python of this run."""
    from . import machine

    cpu = ""
    if Path("/proc/cpuinfo").exists():
        names = [line for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else ""
    how = f"{machine.threads()} threads, {machine.kernels()} kernels, Python {platform.python_version()}"
    return f"{platform.machine()} {cpu}, {how}"
