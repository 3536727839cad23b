"""World: a backbone, the spaces of the environment it stands for, and the frames it starts from, in one file.

world = wm.World.create(replay, size="S")          # spaces and frame size from the data
wm.train_world(world, replay, minutes=5)
world.save("doom.safetensors"); world = wm.World.load("doom.safetensors")
env = gym.make("worldmodel/Imagined-v0", world=world)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from . import nn
from .checkpoint import read_tensors, write_tensors
from .models.dynamics import Dynamics, Window
from .models.tokenizer import checked_shape
from .quantize import Choice, Numbers, choose, set_products
from .spaces import SlotTable, space_from_json, space_to_json
from .tensor import Tensor

if TYPE_CHECKING:
    from .data import Batch, Replay
    from .models.tokenizer import Tokenizer
    from .sampling import Sampler

FORMAT = 1
"""Version of the model file."""

BACKBONES = {
    "dit": ("worldmodel.models.dit", "DiT"),
    "unet": ("worldmodel.models.unet", "UNet"),
    "edm": ("worldmodel.models.diamond", "Diamond"),
    "oasis": ("worldmodel.models.oasis", "Oasis"),
}
"""Name -> where its Dynamics class is.  A new backbone is a line here."""

TOKENIZERS = {"autoencoder": ("worldmodel.models.tokenizer", "Autoencoder")}
"""Kind -> where its Tokenizer class is.  A new tokenizer is a line here."""


@dataclass
class WorldConfig:
    """What a world is made of; saved in its file, so only JSON values."""

    backbone: str = "dit"
    size: str = "S"
    frame_shape: tuple[int, int, int] = (64, 64, 3)
    action_space: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] | None = None
    fps: float = 30.0
    max_episode_steps: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """The backbone's own settings (see its class)."""
    tokenizer: dict[str, Any] | None = None
    """Kind and settings of what the backbone computes on; None: pixels."""
    int8: list[str] = field(default_factory=list)
    """The backbone's weights whose products run in whole numbers (World.quantize) ..."""
    bf16: list[str] = field(default_factory=list)
    """... or in bfloat16."""


class World(nn.Module):
    """A learned environment.  Make one with `create` or `load`; step it through `sampler` or as a Gymnasium
    environment."""

    def __init__(self, config: WorldConfig):
        if config.backbone not in BACKBONES:
            raise ValueError(f"World: backbone must be one of {sorted(BACKBONES)}, got {config.backbone!r}")
        self._config = config
        self._table = SlotTable.of(space_from_json(config.action_space))
        maker, told = _class_of(BACKBONES[config.backbone]), dict(config.options)
        if config.tokenizer is not None:
            if not maker.tokenizes:
                raise ValueError(f"World: the {config.backbone} backbone computes on pixels and takes no tokenizer")
            self.tokenizer = told["tokenizer"] = make_tokenizer(config.frame_shape, config.tokenizer)
        self.dynamics: Dynamics = maker(config.frame_shape, self._table.feature_size, size=config.size, **told)
        set_products(self.dynamics, config.int8 or config.bf16, "int8" if config.int8 else "bf16")
        H, W, C = config.frame_shape
        self._start_frames = np.zeros((0, self.dynamics.context, H, W, C), np.uint8)
        self._start_actions = np.zeros((0, self.dynamics.context, self._table.feature_size), np.float32)

    @classmethod
    def create(
        cls,
        replay: Replay,
        size: str = "S",
        backbone: str = "dit",
        starts: int = 64,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
        **options: Any,
    ) -> World:
        """An untrained world for the frames and actions of a replay.

        size: one of the backbone's sizes; starts: how many windows of frames to keep in the file to start
        episodes from; tokenizer: a trained one (`wm.train_tokenizer`) whose latents a DiT computes on, held still from
        then on and kept in the world's file, pixels by default; options: the backbone's settings.  Raises ValueError
        for a replay without actions, an unknown size or option, or a tokenizer that does not fit.
        """
        if replay.table is None:
            raise ValueError("World.create: the replay has no actions")
        recipe = replay.environment
        config = WorldConfig(
            backbone=backbone,
            size=size,
            frame_shape=tuple(replay.frame_shape),
            action_space=space_to_json(replay.action_space),
            environment=recipe,
            fps=replay.fps or 30.0,
            max_episode_steps=step_limit(replay),
            options=options,
            tokenizer=None if tokenizer is None else _described(tokenizer, replay),
        )
        world = cls(config)
        if tokenizer is not None:
            world.tokenizer.load_state_dict(tokenizer.views())
        world.take_starts(replay, starts, seed)
        return world

    # ---- facts ----

    @property
    def config(self) -> WorldConfig:
        return self._config

    @property
    def table(self) -> SlotTable:
        """The action space as slots."""
        return self._table

    @property
    def action_space(self) -> Any:
        return space_from_json(self._config.action_space)

    @property
    def observation_space(self) -> Any:
        from gymnasium.spaces import Box

        return Box(0, 255, self._config.frame_shape, np.uint8)

    @property
    def context(self) -> int:
        return self.dynamics.context

    # ---- learning ----

    def window(self, replay: Replay, batch: Batch) -> Window:
        """A replay's batch as tensors."""
        return Window.of(batch, replay.features(batch))

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """See Dynamics.losses."""
        return self.dynamics.losses(window, stream)

    # ---- acting ----

    def sampler(self, n: int, **options: Any) -> Sampler:
        """n imagined environments (see sampling.Sampler); options are the backbone's (steps=...)."""
        return self.dynamics.sampler(n, **options)

    def features(self, actions: Any) -> np.ndarray:
        """A batch of actions as Gymnasium gives them -> (n, F) float32."""
        return self._table.features_batch(actions)

    def quantize(
        self,
        replay: Replay | None = None,
        loss_db: float = 0.1,
        windows: int = 16,
        seed: int = 0,
        layers: Sequence[str] | None = None,
        numbers: Numbers = "int8",
    ) -> Choice:
        """Run products in int8 wherever predictions of the replay's frames stay as good: together they may
        lose loss_db of PSNR (see quantize.choose).  Samplers made from now on are faster; the choice is saved
        with the world.  A quantised world cannot be trained: quantize(layers=[]) brings float32 back.

        numbers: 'int8', or 'bf16': weights in bfloat16, multiplied as such where the processor can, else widened;
        slower than int8, and nearer to float32.  windows: of the replay, to measure with; layers: these and no
        others, without measuring.  Raises ValueError for a backbone without such products, an unknown layer, or
        another world's replay.
        """
        if layers is None:
            if replay is None:
                raise ValueError("quantize: wanted a replay to measure with, or layers")
            check_fits(self._config, replay)
            choice = choose(self, replay, loss_db, windows, seed, numbers)
        else:
            choice = Choice(tuple(layers), numbers=numbers)
        set_products(self.dynamics, choice.layers, numbers)
        self._config.int8 = list(choice.layers) if numbers == "int8" else []
        self._config.bf16 = list(choice.layers) if numbers == "bf16" else []
        return choice

    def take_starts(self, replay: Replay, count: int, seed: int = 0) -> None:
        """Keep up to count windows of the replay, drawn evenly, as places to start episodes from."""
        rng = np.random.default_rng(seed)
        batch = replay.sample(rng, count, self.context)
        whole = batch.frame_known.all(1) & batch.mask.all(1)
        features = replay.features(batch)
        led = np.zeros_like(features)
        led[:, 1:] = features[:, :-1]
        pick = np.flatnonzero(whole) if whole.any() else np.arange(len(whole))
        self._start_frames, self._start_actions = batch.frames[pick], led[pick]

    def adopt(self, replay: Replay, starts: int = 64, seed: int = 0) -> None:
        """Stand for the environment of a replay: its start frames, recipe, speed and step limit (worlds from other
        projects' weights know none).  Raises ValueError if frames or actions differ."""
        check_fits(self._config, replay)
        self._config = dataclasses.replace(
            self._config,
            environment=replay.environment,
            fps=replay.fps or self._config.fps,
            max_episode_steps=step_limit(replay),
        )
        self.take_starts(replay, starts, seed)

    @property
    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """(frames (S,context,H,W,C) uint8, action features that led to each (S,context,F))."""
        return self._start_frames, self._start_actions

    # ---- one file ----

    def save(
        self, path: str | os.PathLike[str], format: str = "worldmodel", policy: Any = None, **extra: Any
    ) -> None:
        """Write weights, spaces, start frames and settings to one safetensors file, atomically.

        format "torch-keys": the weights alone (and a policy's) under the names and in the layouts of the project
        whose family this world is, for that project to load (Open-Oasis: its autoencoder in `name.vae.safetensors`
        beside it).  Raises ValueError for a world without one.
        """
        if format == "torch-keys":
            from .pretrained.families import save_names

            return save_names(self, policy, path)
        if format != "worldmodel" or policy is not None:
            raise ValueError(f"World.save: format must be 'worldmodel' or 'torch-keys' (with a policy), got {format!r}")
        tensors = self.views()
        tensors["starts.frames"], tensors["starts.actions"] = self._start_frames, self._start_actions
        metadata = {
            "worldmodel": {
                "format": FORMAT,
                "kind": "world",
                "config": dataclasses.asdict(self._config),
                **extra,
            }
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> World:
        """Read a file of save, or of a project that `pretrained` knows by its keys (DIAMOND's agents, Open-Oasis).

        options: of that project's family (Oasis: vae=, storage=, steps=).  Raises FileNotFoundError, or ValueError
        saying what is wrong with the file."""
        from .pretrained import is_ours

        if not is_ours(path):
            from .pretrained.families import load_world

            return load_world(path, **options)
        if options:
            raise ValueError(f"{os.fspath(path)}: a world of this library takes no {', '.join(options)}")
        tensors, metadata = read_tensors(path, mapped=True)
        config = _config_of(os.fspath(path), metadata)
        frames, actions = tensors.pop("starts.frames", None), tensors.pop("starts.actions", None)
        try:
            with nn.blank(sum(a.size for a in tensors.values()) + 4096):
                world = cls(config)
            world.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: {error.args[0]}") from None
        world._set_starts(os.fspath(path), frames, actions)
        return world

    def _set_starts(self, path: str, frames: np.ndarray | None, actions: np.ndarray | None) -> None:
        for name, got, like in (
            ("frames", frames, self._start_frames),
            ("actions", actions, self._start_actions),
        ):
            if got is None or got.shape[1:] != like.shape[1:] or got.dtype != like.dtype:
                raise ValueError(
                    f"{path}: starts.{name} must be (S, {', '.join(map(str, like.shape[1:]))}) {like.dtype}, "
                    f"got {'nothing' if got is None else (got.shape, str(got.dtype))}"
                )
        assert frames is not None and actions is not None
        if len(frames) != len(actions):
            raise ValueError(f"{path}: {len(frames)} start frames and {len(actions)} start actions")
        self._start_frames, self._start_actions = np.array(frames), np.array(actions)


def make_tokenizer(frame_shape: Sequence[int], described: dict[str, Any]) -> Tokenizer:
    """What a world's file says of its tokenizer, made anew.  Raises ValueError for an unknown kind or setting."""
    settings = dict(described)
    kind = settings.pop("kind", None)
    if kind not in TOKENIZERS:
        raise ValueError(f"World: tokenizer must be one of {sorted(TOKENIZERS)}, got {kind!r}")
    try:
        return _class_of(TOKENIZERS[kind])(tuple(frame_shape), **settings)
    except TypeError as error:
        raise ValueError(f"World: tokenizer {kind}: {error.args[0]}") from None


def _class_of(place: tuple[str, str]) -> Any:
    return getattr(import_module(place[0]), place[1])


def _described(tokenizer: Tokenizer, replay: Replay) -> dict[str, Any]:
    """Kind and settings, JSON-able."""
    if tokenizer.frame_shape != tuple(replay.frame_shape):
        raise ValueError(
            f"World.create: the tokenizer is for frames {tokenizer.frame_shape}, {replay.path} has "
            f"{tuple(replay.frame_shape)}"
        )
    return {"kind": tokenizer.kind, **tokenizer.settings}


def check_fits(config: Any, replay: Replay) -> None:
    """Raise ValueError unless a replay's frames and actions are those of a world's config."""
    shape, space = tuple(replay.frame_shape), replay.action_space
    if shape != tuple(config.frame_shape):
        raise ValueError(f"the world has frames {tuple(config.frame_shape)}, {replay.path} has {shape}")
    ours = space_from_json(config.action_space)
    if space != ours:
        raise ValueError(f"the world takes actions of {ours}, {replay.path} has {space}")


def step_limit(replay: Replay) -> int | None:
    """Steps after which the real environment truncates: as it declares, else the length of the longest
    truncated episode.
    """
    from .data.environment import declared_limit

    declared = declared_limit(replay.environment) if replay.environment else None
    if declared is not None:
        return declared
    cut = [len(e) for e in replay if len(e) and e.truncated[-1] and not e.terminated[-1]]
    return max(cut) if cut and max(cut) >= replay.lengths.max() else None


def _config_of(path: str, metadata: dict[str, Any]) -> WorldConfig:
    about = metadata.get("worldmodel")
    if not isinstance(about, dict) or about.get("kind") != "world":
        raise ValueError(f"{path}: not a world of this library (no 'worldmodel' metadata of kind 'world')")
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: model format {about.get('format')!r}, this version reads {FORMAT}")
    config = about.get("config")
    names = {f.name for f in dataclasses.fields(WorldConfig)}
    if not isinstance(config, dict) or set(config) - names:
        found = sorted(set(config) - names) if isinstance(config, dict) else config
        raise ValueError(f"{path}: its config is damaged: {found!r}")
    try:
        return WorldConfig(**{**config, "frame_shape": checked_shape(config.get("frame_shape"))})
    except ValueError as error:
        raise ValueError(f"{path}: {error.args[0]}") from None
