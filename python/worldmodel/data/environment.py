"""environment: a real Gymnasium environment as frames, prepared the same way for collecting and for
evaluating.

    environment("VizdoomBasic-v1", frames=(64, 64), frame_skip=4)   observations: uint8 (64,64,3)

Pixels come from the observation if it is an image (uint8, see `image_layout`), from the image
in a Dict observation ("screen", "image", "pixels", "rgb" first), else from render(); they are resized by
exact area averaging. Numbers beside the image (or instead of it) become the proprioception vector, float32.

Two repairs, both for ViZDoom, whose last observation is black and whose time limit also sets `terminated`:
the last picture is repeated (and info["frame_known"] is False), and a time limit without a death is
`truncated` alone.
"""

from __future__ import annotations

import difflib
import math
import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .extras import need
from .resize import resize_area

# Where ids come from: start of the id, module that registers them, extra that installs it.
PROVIDERS = (
    ("ALE/", "ale_py", "atari"),
    ("Vizdoom", "vizdoom.gymnasium_wrapper", "doom"),
    ("MiniGrid-", "minigrid", "minigrid"),
    ("BabyAI-", "minigrid", "minigrid"),
    ("gym_pusht/", "gym_pusht", "pusht"),
)
# Environments that skip frames and stick to actions by themselves: module, their names for it.
NATIVE = {"ale_py": ("frameskip", "repeat_action_probability"), "vizdoom": ("frame_skip", None)}
IMAGE_KEYS = ("screen", "image", "pixels", "rgb", "observation", "obs")
SMALLEST_IMAGE = 16
LARGEST_PROPRIO = 4096


def image_layout(space: Any) -> str | None:
    """How the pixels of a Box uint8 lie, None if it holds none: sides are 16 pixels at least.

    "HW", "HWC" (C of 1, 3 or 4), "CHW" (C of 3), "SHW" and "SHWC" (S stacked frames, fewer than 16, the
    newest last).
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return None
    big = [n >= SMALLEST_IMAGE for n in space.shape]
    if big == [True, True]:
        return "HW"
    if big == [True, True, False] and space.shape[2] in (1, 3, 4):
        return "HWC"
    if big == [False, True, True]:
        return "CHW" if space.shape[0] == 3 else "SHW"
    return "SHWC" if big == [False, True, True, False] and space.shape[3] in (1, 3, 4) else None


def is_image(space: Any) -> bool:
    """Does a space hold pixels?  See `image_layout`."""
    return image_layout(space) is not None


def upright(image: np.ndarray, layout: str) -> np.ndarray:
    """Pixels in a layout of `image_layout` -> (H,W,C), a view; of stacked frames the newest."""
    image = image[-1] if layout[0] == "S" else image.transpose(1, 2, 0) if layout == "CHW" else image
    return image[:, :, None] if image.ndim == 2 else image


class Camera:
    """How frames and proprioception are read from one environment's observations.

    `source`: "observation", a key of the Dict observation, or "render".  `parts`: (name, size) of the
    proprio vector.
    """

    def __init__(
        self,
        space: spaces.Space,
        pixels: str = "auto",
        frames: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.frames = None if frames is None else (int(frames[0]), int(frames[1]))
        inner = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
        self.source = pixels if pixels != "auto" else _find_image(space, inner)
        if self.source == "observation" and not is_image(space):
            raise ValueError(
                f'pixels="observation": the observation is no image but {space}; use "render" or a key'
            )
        if self.source not in ("observation", "render") and not is_image(inner.get(self.source)):
            raise ValueError(f"pixels={self.source!r}: no image of that name in the observation {space}")
        image = space if self.source == "observation" else inner.get(self.source)
        self.layout = image_layout(image) or "HWC"  # render() gives (H,W,C)
        self.crop = None if crop is None else tuple(int(n) for n in crop)
        self.shape = None if image is None else self._cut(upright(np.empty(image.shape, np.uint8), self.layout)).shape
        others = {k: s for k, s in inner.items() if k != self.source} if inner else {"": space}
        if self.source == "observation":
            others = {}
        self._numbers = {k: s for k, s in sorted(others.items()) if _is_vector(s)}
        self.parts = [(k or "observation", _size(s)) for k, s in self._numbers.items()]

    @property
    def proprio_size(self) -> int:
        return sum(size for _, size in self.parts)

    def _cut(self, image: np.ndarray) -> np.ndarray:
        """The part of the picture that is wanted, a view."""
        if self.crop is None:
            return image
        top, left, height, width = self.crop
        if top + height > image.shape[0] or left + width > image.shape[1]:
            raise ValueError(f"crop: {self.crop} (top, left, height, width) leaves the picture, {image.shape[:2]}")
        return image[top : top + height, left : left + width]

    def picture(self, observation: Any, rendered: Any = None) -> np.ndarray:
        """The frame, (H,W,C) uint8, cropped and resized; a fresh array."""
        if self.source == "render":
            image = np.asarray(rendered)
        else:
            image = observation if self.source == "observation" else observation[self.source]
        image = upright(np.asarray(image), self.layout)
        if image.dtype != np.uint8 or image.ndim != 3:
            raise ValueError(
                f"wanted uint8 pixels (H,W,C) from {self.source}, got {image.dtype} {image.shape}"
            )
        image = self._cut(image)
        return image.copy() if self.frames is None else resize_area(np.ascontiguousarray(image), self.frames)

    def proprio(self, observation: Any) -> np.ndarray | None:
        """The numbers of an observation, (P,) float32; a Discrete is one-hot; None if there are none."""
        if not self.parts:
            return None
        out = []
        for key, space in self._numbers.items():
            value = observation[key] if key else observation
            discrete = isinstance(space, spaces.Discrete)
            out.append(np.arange(space.n) == int(value) - space.start if discrete else np.ravel(value))
        with np.errstate(over="ignore"):
            return np.concatenate(out).astype(np.float32)


def _size(space: Any) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape, dtype=np.int64))


def _is_vector(space: Any) -> bool:
    plain = isinstance(space, (spaces.Box, spaces.Discrete)) and not is_image(space)
    return plain and 0 < _size(space) <= LARGEST_PROPRIO


def _find_image(space: Any, inner: dict[str, Any]) -> str:
    if is_image(space):
        return "observation"
    images = [k for k, s in inner.items() if is_image(s)]
    return next((k for k in IMAGE_KEYS if k in images), images[0] if images else "render")


class Environment(gym.Wrapper):
    """A real environment whose observation is the prepared frame; made by `environment`.

    info holds "proprio" (P,) float32 where there is one, and "frame_known": False where the picture had to
    be repeated. `recipe` is a JSON-able dict from which `environment(**recipe)` makes the same again.
    """

    def __init__(
        self, env: gym.Env, camera: Camera, recipe: dict[str, Any], repeat: int, sticky: float
    ) -> None:
        super().__init__(env)
        self.camera, self.recipe = camera, recipe
        self._repeat, self._sticky, self._noop_max = repeat, sticky, int(recipe["noop_max"])
        self._doom = type(env.unwrapped).__module__.startswith("vizdoom")
        self._rng = np.random.default_rng()
        self._last_action: Any = None
        self._last_frame, self._last_proprio = np.zeros(0, np.uint8), None
        self.observation_space = spaces.Box(0, 255, self._frame_shape(), np.uint8)

    def _frame_shape(self) -> tuple[int, int, int]:
        if self.camera.source == "render":
            self.env.reset(seed=0)
            return self.camera.picture(None, self.env.render()).shape
        return (*(self.camera.frames or self.camera.shape[:2]), self.camera.shape[2])

    @property
    def fps(self) -> float | None:
        """Actions a second in real time, if the environment says so."""
        inner = self.env.unwrapped
        if type(inner).__module__.startswith("ale_py"):  # 60 ticks a second, whatever its metadata say
            return 60.0 / inner._frameskip if isinstance(inner._frameskip, int) else None
        ticks = (self.env.metadata or {}).get("render_fps")
        known = isinstance(ticks, (int, float)) and ticks > 0
        return float(ticks) / (self.recipe["frame_skip"] or 1) if known else None

    @property
    def spec(self) -> gym.envs.registration.EnvSpec:
        """What `gymnasium.make` needs to make the same again: JSON-able, since the recipe is."""
        entry = "worldmodel.data.environment:environment"
        options = {"kwargs": self.recipe, "disable_env_checker": True, "order_enforce": False}
        return gym.envs.registration.EnvSpec("worldmodel/Real-v0", entry, **options)

    def _look(self, observation: Any, info: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        info = dict(info)
        proprio = self.camera.proprio(observation)
        if proprio is not None:
            info["proprio"] = proprio
        if self._doom and self.env.unwrapped.state is None:  # over: no picture, zeros instead of numbers
            info["frame_known"] = False
            if proprio is not None:
                info["proprio"] = self._last_proprio.copy()
            return self._last_frame.copy(), info
        rendered = self.env.render() if self.camera.source == "render" else None
        self._last_frame = self.camera.picture(observation, rendered)
        self._last_proprio = proprio
        return self._last_frame.copy(), info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """(H,W,C) uint8 frame and info; `seed` also seeds sticky actions and no-op starts."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 0x57A7])
        observation, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self._rng.integers(0, self._noop_max + 1)) if self._noop_max else 0):
            observation, _, terminated, truncated, info = self.env.step(self.action_space.start)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        self._last_action = None
        return self._look(observation, info)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """frame (H,W,C) uint8, summed reward, terminated, truncated, info."""
        if self._sticky and self._last_action is not None and self._rng.random() < self._sticky:
            action = self._last_action
        self._last_action = action
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        if self._doom and truncated and terminated:
            terminated = bool(self.env.unwrapped.game.is_player_dead())
        frame, info = self._look(observation, info)
        return frame, total, bool(terminated), bool(truncated), info


def environment(
    env_id: str | gym.Env,
    frames: tuple[int, int] | None = None,
    frame_skip: int | None = None,
    sticky: float | None = None,
    noop_max: int = 0,
    pixels: str = "auto",
    env_kwargs: dict[str, Any] | None = None,
    crop: tuple[int, int, int, int] | None = None,
) -> Environment:
    """A real environment as prepared frames.

    Args:
        env_id: a Gymnasium id, or an environment (then skips and stickiness are added around it).
        frames: (height, width) to resize to; None keeps the environment's own size.
        frame_skip: game ticks an action lasts (rewards are summed); the environment's own option is used
        where it has
            one.  None: the environment's default (4 for ALE v5 ids, 1 for ViZDoom).
        sticky: probability that the last action is repeated instead (ALE's own option there); None: the
        default.
        noop_max: up to so many no-op steps (action 0) after reset, for ALE; Discrete actions only.
        pixels: "auto", "observation", "render", or the key of an image in a Dict observation.
        env_kwargs: more keyword arguments for `gymnasium.make`.
        crop: (top, left, height, width) of the part of the picture to keep, in its own pixels, before resizing.

    Raises:
        ValueError: unknown id, or no image where `pixels` says.  ImportError: a missing extra, with its pip
        command.
    """
    recipe = {
        "env_id": env_id,
        "frames": None if frames is None else [int(n) for n in frames],
        "frame_skip": frame_skip,
    }
    recipe |= {
        "sticky": sticky,
        "noop_max": int(noop_max),
        "pixels": pixels,
        "env_kwargs": dict(env_kwargs or {}),
        "crop": None if crop is None else [int(n) for n in crop],
    }
    _check(frames, frame_skip, sticky, noop_max, crop)
    if isinstance(env_id, str):
        env, repeat, stick = _make(env_id, frame_skip, sticky, recipe["env_kwargs"])
    else:
        env, repeat, stick = env_id, frame_skip or 1, sticky or 0.0
        recipe["env_id"] = env.spec.id if env.spec else type(env.unwrapped).__name__
        recipe["env_kwargs"] = dict(env.spec.kwargs) if env.spec else {}
    if noop_max and not isinstance(env.action_space, spaces.Discrete):
        raise ValueError(
            f"noop_max: needs a Discrete action space, {recipe['env_id']} has {env.action_space}"
        )
    camera = Camera(env.observation_space, pixels, frames, crop)
    if camera.source == "render" and env.render_mode != "rgb_array":
        if not isinstance(env_id, str):
            raise ValueError('pixels from render(): make the environment with render_mode="rgb_array"')
        env.close()
        env, repeat, stick = _make(
            env_id, frame_skip, sticky, recipe["env_kwargs"] | {"render_mode": "rgb_array"}
        )
    try:
        return Environment(env, camera, recipe, repeat, stick)
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f'{env_id}: {error} (pip install "worldmodel[classic]")') from error


def _check(frames: Any, frame_skip: int | None, sticky: float | None, noop_max: int, crop: Any) -> None:
    if crop is not None and (len(crop) != 4 or min(crop) < 0 or min(crop[2:]) < 1):
        raise ValueError(f"crop: wanted (top, left, height, width), got {crop}")
    if frames is not None and (len(frames) != 2 or min(frames) < 1):
        raise ValueError(f"frames: wanted (height, width), got {frames}")
    if frame_skip is not None and frame_skip < 1:
        raise ValueError(f"frame_skip: wanted at least 1, got {frame_skip}")
    if sticky is not None and not 0 <= sticky < 1:
        raise ValueError(f"sticky: wanted a probability below 1, got {sticky}")
    if noop_max < 0:
        raise ValueError(f"noop_max: wanted 0 or more, got {noop_max}")


def declared_limit(recipe: dict[str, Any]) -> int | None:
    """The steps after which `environment(**recipe)` truncates an episode, where its registration says so,
    else None.
    """
    try:
        provide(recipe["env_id"])
        spec = gym.spec(recipe["env_id"])
    except (ImportError, gym.error.Error):
        return None
    limit = recipe.get("env_kwargs", {}).get("max_episode_steps", spec.max_episode_steps)
    own = NATIVE.get(str(spec.entry_point).split(".")[0], (None, None))[0]
    repeat = 1 if own else recipe.get("frame_skip") or 1
    return math.ceil(limit / repeat) if limit and limit > 0 else None


def provide(env_id: str) -> None:
    """Import the package that registers an id.  Raises ImportError with the pip command if it is not
    installed.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    for start, module, extra in PROVIDERS:
        if env_id.startswith(start):
            need(module, env_id, extra)


def _make(
    env_id: str, frame_skip: int | None, sticky: float | None, kwargs: dict
) -> tuple[gym.Env, int, float]:
    """The bare environment, and how often to repeat and stick around it (1 and 0 where it does so itself)."""
    provide(env_id)
    try:
        entry = gym.spec(env_id).entry_point
    except gym.error.Error as error:
        near = difflib.get_close_matches(env_id, list(gym.registry), n=3)
        raise ValueError(
            f"unknown environment {env_id!r}{', did you mean ' + ' or '.join(near) if near else ''} ({error})"
        ) from None
    skip_name, stick_name = NATIVE.get(str(entry).split(".")[0], (None, None))
    own = {}
    if skip_name and frame_skip is not None:
        own[skip_name], frame_skip = frame_skip, 1
    if str(entry).startswith("vizdoom"):  # else it leaves its settings in the working folder
        own["doom_config_path"] = os.devnull
    if stick_name and sticky is not None:
        own[stick_name], sticky = sticky, 0.0
    try:
        env = gym.make(env_id, disable_env_checker=True, **(own | kwargs))
    except gym.error.DependencyNotInstalled as error:
        raise ImportError(f"{env_id}: {error}") from error
    return env, frame_skip or 1, sticky or 0.0
