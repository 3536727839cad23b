"""cli: `worldmodel collect | tokenizer | train | learn | eval | play | export | convert | bench | info | demo`, each a
dataclass whose fields are its flags.

Wrong use ends with one sentence and exit code 2, Ctrl-C with 130; nothing done is lost.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .demo import Demo
from .train.policy import TrainPolicy
from .train.tokenizer import TrainTokenizer
from .train.world import TrainWorld


@dataclass
class Collect:
    """Play a real environment and store its frames, actions and rewards, exactly."""

    env: str
    """A Gymnasium id: VizdoomBasic-v1, ALE/Breakout-v5, CartPole-v1, ..."""
    out: str
    """Folder of the replay; one that exists is continued."""
    steps: int = 10_000
    """Transitions to store."""
    render: tuple[int, int] | None = (64, 64)
    """Height and width of the frames; None keeps the environment's own."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the part of the picture to keep, before resizing."""
    frame_skip: int | None = None
    """Each action is repeated so often."""
    sticky: float | None = None
    """ALE: chance that the last action is repeated."""
    noop_max: int = 0
    """ALE: up to so many no-ops at the start."""
    hold: int = 1
    """Random actions are held for 1 to so many steps."""
    policy: str | None = None
    """A policy file; random by default."""
    vector: int = 0
    """Environments side by side."""
    seed: int = 0
    sheet: str | None = None
    """Also write a contact sheet (PNG)."""

    def __call__(self) -> None:
        from .data import collect, contact_sheet

        policy = _policy(self.policy) if self.policy else None
        replay = collect(
            self.env,
            self.steps,
            self.render,
            path=self.out,
            policy=policy,
            hold=self.hold,
            crop=self.crop,
            frame_skip=self.frame_skip,
            sticky=self.sticky,
            noop_max=self.noop_max,
            vector=self.vector,
            seed=self.seed,
        )
        if self.sheet:
            contact_sheet(replay, self.sheet)
        print(replay)


@dataclass
class Tokenizer:
    """Train a tokenizer on a replay's frames, for a world that computes on its latents: large frames, fewer numbers."""

    replay: str
    """Folder of the replay."""
    out: str
    """File of the tokenizer."""
    tokenizer: Annotated[TrainTokenizer, tyro.conf.arg(name="")] = field(default_factory=TrainTokenizer)

    def __call__(self) -> None:
        from .data import Replay
        from .train.tokenizer import psnr, train_tokenizer

        if self.tokenizer.steps is None and self.tokenizer.minutes is None:
            self.tokenizer.minutes = 2
        replay = Replay.open(self.replay)
        made = train_tokenizer(replay, self.tokenizer)
        made.save(self.out)
        print(f"{self.out}: {made}; {psnr(made, replay.sample(0, 64, 1).frames[:, 0]):.2f} dB there and back")


@dataclass
class Train:
    """Train a world on a replay."""

    replay: str
    """Folder of the replay."""
    out: str
    """File of the world."""
    backbone: str = "unet"
    """unet, dit, or edm: DIAMOND's networks."""
    objective: Literal["own", "edm"] = "own"
    """own: the backbone's; edm: with unet, the same as backbone edm."""
    size: str = "S"
    """T, S, M or B (unet), T, S, B or L (dit), T, S or atari (edm)."""
    recipe: Literal["", "diamond"] = ""
    """diamond: its networks and published hyperparameters, but for flags that are given."""
    tokenizer: str | None = None
    """File of a tokenizer on whose latents a dit computes; pixels by default."""
    world: Annotated[TrainWorld, tyro.conf.arg(name="")] = field(default_factory=TrainWorld)
    report: str | None = None
    """Folder for a report on the held-out episodes."""

    def __call__(self) -> None:
        from .data import Replay
        from .models.tokenizer import Autoencoder
        from .train import train_world
        from .train.recipes import DIAMOND_WORLD, fill_in
        from .train.report import world_report
        from .world import World

        if self.objective == "edm" and self.backbone == "dit":
            raise ValueError("train: --objective edm goes with --backbone unet")
        backbone, size = self.backbone if self.objective == "own" else "edm", self.size
        if self.recipe == "diamond":
            backbone, size = "edm", "atari" if size == "S" else size
            self.world = fill_in(self.world, DIAMOND_WORLD)
        replay = Replay.open(self.replay)
        tokenizer = Autoencoder.read(self.tokenizer) if self.tokenizer else None
        world = World.create(replay, size=size, backbone=backbone, tokenizer=tokenizer)
        print(world)
        if self.world.steps is None and self.world.minutes is None:
            self.world.minutes = 5
        result = train_world(world, replay, self.world)
        world.save(self.out)
        if result["stopped"]:
            print(f"{self.out}: the world so far, after {result['steps']} updates", file=sys.stderr)
            raise KeyboardInterrupt
        if self.report:
            folder, share = Path(self.report), self.world.held_out
            folder.mkdir(parents=True, exist_ok=True)
            result["report"] = world_report(world, replay.held_out(share, self.world.seed)[1], folder)
        print(json.dumps(result, indent=1))


@dataclass
class Learn:
    """Learn a policy inside a world."""

    world: str
    """File of the world."""
    replay: str
    """Folder of the replay whose frames imagination starts from."""
    out: str
    """File of the policy."""
    recipe: Literal["", "diamond"] = ""
    """diamond: its actor-critic with an LSTM, by REINFORCE, as published but for flags that are given."""
    policy: Annotated[TrainPolicy, tyro.conf.arg(name="")] = field(default_factory=TrainPolicy)

    def __call__(self) -> None:
        from .data import Replay
        from .train import train_actor_critic, train_policy
        from .train.recipes import actor_critic_settings
        from .world import World

        if self.policy.steps is None and self.policy.minutes is None:
            self.policy.minutes = 5
        if self.recipe == "diamond":
            settings = actor_critic_settings(self.policy)
            recurrent = train_actor_critic(World.load(self.world), Replay.open(self.replay), settings)
            recurrent.save(self.out)
            print(f"{self.out}: {recurrent}")
            return
        policy = train_policy(World.load(self.world), Replay.open(self.replay), self.policy)
        policy.save(self.out)
        print(f"{self.out}: {policy}")


@dataclass
class Eval:
    """Play whole episodes with a policy, in the real environment that it was made for or inside a world."""

    policy: str
    """File of the policy."""
    replay: str | None = None
    """Play in the environment of this replay."""
    env: str | None = None
    """Play in this environment, a Gymnasium id."""
    world: str | None = None
    """Play inside this world instead."""
    episodes: int = 50
    """Episodes to play."""
    random_episodes: int = 0
    """Also play so many with random actions."""
    seed: int = 10_000
    """Of the first episode; the others count up."""

    def __call__(self) -> None:
        from .data import Replay
        from .train import evaluate

        if sum(where is not None for where in (self.replay, self.env, self.world)) > 1:
            raise ValueError("eval: give one of --replay, --env and --world")
        where = Replay.open(self.replay).environment if self.replay else self.env
        if self.replay and where is None:
            raise ValueError(f"eval: {self.replay} does not say which environment it comes from")
        print(
            evaluate(
                _policy(self.policy),
                where,
                self.episodes,
                self.seed,
                world=self.world,
                random_episodes=self.random_episodes,
            )
        )


@dataclass
class Play:
    """Play inside a world with the keyboard: in a window, or in the terminal."""

    world: str
    """File of the world."""
    keys: str | None = None
    """Keys of the actions, in order, for a Discrete space: 'wasd'; digits by default."""
    terminal: bool = False
    """Draw in the terminal instead of a window."""
    record: str | None = None
    """Write what was played to this mp4."""
    steps: int = 1_000
    """End after so many steps."""
    fps: float | None = None
    """Frames a second; the environment's own by default."""
    seed: int | None = None
    """Of the start and of chance; drawn by default."""
    policy: str | None = None
    """Let this policy play."""

    def __call__(self) -> None:
        from .play import play
        from .world import World

        play(
            World.load(self.world),
            keys=self.keys,
            terminal=self.terminal,
            record=self.record,
            steps=self.steps,
            fps=self.fps,
            seed=self.seed,
            policy=_policy(self.policy) if self.policy else None,
        )


@dataclass
class Export:
    """Write a replay to Minari or film one of its episodes."""

    replay: str
    """Folder of the replay."""
    minari: str | None = None
    """Id of the Minari dataset to make (namespace/name-v0), lossless."""
    mp4: str | None = None
    """File of a film of the episode."""
    episode: int = 0
    """Which episode to film."""

    def __call__(self) -> None:
        from .data import Replay, save_mp4

        replay = Replay.open(self.replay)
        if not self.minari and not self.mp4:
            raise ValueError("export: say --minari or --mp4")
        if self.minari:
            replay.to_minari(self.minari)
        if self.mp4:
            save_mp4(self.mp4, replay.episode(self.episode).frames, fps=replay.fps or 15.0)


@dataclass
class Convert:
    """Turn another project's weights into a world or policy of this library, or a world back into theirs."""

    source: str
    """File of weights (.pt or safetensors), recognised by its keys; or, with --to torch-keys, of a world."""
    out: str
    """File to write."""
    to: Literal["world", "policy", "torch-keys"] = "world"
    """What to write."""
    replay: str | None = None
    """Folder of a replay from which the world takes start frames and the environment it stands for."""
    policy: str | None = None
    """With torch-keys: the policy's file, written beside the world's weights."""
    vae: str | None = None
    """Open-Oasis: the file of its autoencoder."""
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    """Open-Oasis: how its weights are kept; bfloat16 halves them, int8 also computes in whole numbers."""

    def __call__(self) -> None:
        from .world import World

        parts = {"vae": self.vae, "storage": self.storage} if self.vae else {}

        if self.to == "policy":
            made = _policy(self.source)
            made.save(self.out)
        elif self.to == "torch-keys":
            made = World.load(self.source)
            made.save(self.out, format="torch-keys", policy=_policy(self.policy) if self.policy else None)
        else:
            made = World.load(self.source, **parts)
            if self.replay:
                from .data import Replay

                made.adopt(Replay.open(self.replay))
            made.save(self.out)
        print(f"{self.out}: {made}")


@dataclass
class Bench:
    """Measure this machine: limits, and the steps of a world, quickly."""

    size: str = "S"
    backbone: str = "unet"
    lanes: tuple[int, ...] = (1, 8, 32)
    """Environments side by side."""
    seconds: float = 3.0
    """For each."""

    def __call__(self) -> None:
        from .bench import step_speed

        step_speed(self.backbone, self.size, self.lanes, self.seconds)


@dataclass
class Info:
    """Say what is installed and what this machine can do."""

    def __call__(self) -> None:
        from importlib.util import find_spec

        from . import machine
        from .demo import machine_text
        from .version import __version__

        print(f"worldmodel {__version__} on {machine_text()}")
        for name, about in machine.devices().items():
            print(f"  device {name}: {about}")
        for extra, module in EXTRAS.items():
            print(f"  {module}: " + ("found" if find_spec(module) else f'missing: pip install "worldmodel[{extra}]"'))


EXTRAS = {
    "doom": "vizdoom",
    "atari": "ale_py",
    "classic": "pygame",
    "minari": "minari",
    "video": "av",
    "plots": "matplotlib",
    "tensorboard": "tensorboardX",
    "sb3": "stable_baselines3",
}
"""Extra -> the module that it brings."""


def _policy(path: str) -> Any:
    from .policy import Policy

    return Policy.load(path)


@dataclass
class DemoCommand(Demo):
    """Learn to play Doom inside a dream: collect, learn the world, learn a policy in it, prove it outside."""

    def __call__(self) -> None:
        from .demo import demo

        demo(self)


VERBS = {
    "collect": Collect,
    "tokenizer": Tokenizer,
    "train": Train,
    "learn": Learn,
    "eval": Eval,
    "play": Play,
    "export": Export,
    "convert": Convert,
    "bench": Bench,
    "info": Info,
    "demo": DemoCommand,
}


def main(arguments: list[str] | None = None) -> int:
    """The console script; returns the exit code."""
    command = tyro.extras.subcommand_cli_from_dict(
        VERBS, args=arguments, prog="worldmodel", description=__doc__
    )
    try:
        command()
    except KeyboardInterrupt:
        print("worldmodel: interrupted; what was done is kept", file=sys.stderr)
        return 130
    except (ImportError, ValueError, OSError, LookupError, TypeError, MemoryError, RuntimeError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"worldmodel: {' '.join(str(text).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
