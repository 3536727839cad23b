"""collect: steps of a real environment -> a replay.

    views -> policy -> actions -> lanes -> outcomes -> recorders -> episodes -> disk

Whatever stops it (Ctrl-C, an error in the environment or the policy, a full disk), the steps so far are kept.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ..spaces import SlotTable
from .environment import Camera, Environment, environment
from .lanes import Recorder, SingleLane, VectorLanes
from .replay import Replay

# policy(frames (N,H,W,C) uint8, first (N,) bool, state) -> (N actions, state)
Policy = Callable[[np.ndarray, np.ndarray, Any], tuple[Any, Any]]

PIECE = 16_384  # a longer episode is stored in pieces of so many steps, to bound memory
COMMIT_SECONDS = 5.0


class RandomPolicy:
    """Random actions, each held for 1 to `hold` steps; one random stream a lane, fixed by the seed.

    Holding makes better footage where single steps cancel out (walking, steering).
    """

    def __init__(self, action_space: gym.Space, lanes: int = 1, hold: int = 1, seed: int = 0) -> None:
        if hold < 1:
            raise ValueError(f"hold: wanted at least 1, got {hold}")
        self.table, self.hold = SlotTable.of(action_space), hold
        self._rng = [np.random.default_rng([seed, i]) for i in range(lanes)]
        self._left = [0] * lanes
        self._action: list[Any] = [None] * lanes

    def __call__(self, frames: np.ndarray, first: np.ndarray, state: Any = None) -> tuple[list[Any], Any]:
        for i, rng in enumerate(self._rng):
            if first[i] or self._left[i] == 0:
                self._left[i] = int(rng.integers(1, self.hold + 1)) if self.hold > 1 else 1
                self._action[i] = self.table.sample(rng)
            self._left[i] -= 1
        return list(self._action), state


def collect(
    env: str | gym.Env | gym.vector.VectorEnv,
    steps: int,
    frames: tuple[int, int] | None = (64, 64),
    *,
    path: str | Path | None = None,
    policy: Policy | None = None,
    hold: int = 1,
    frame_skip: int | None = None,
    sticky: float | None = None,
    noop_max: int = 0,
    pixels: str = "auto",
    vector: int = 0,
    processes: bool = False,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    progress: bool = True,
) -> Replay:
    """Play `steps` steps of a real environment and store them, exactly.

    Args:
        env: a Gymnasium id, an environment or a vector environment (in any autoreset mode).
        steps: transitions to store, over all lanes; an unfinished last episode is kept, without an end.
        frames: (height, width) to resize to by area averaging; None keeps the environment's own size.
        path: a folder; an existing replay of the same spaces is continued.  None: runs/<id>/replay, numbered.
        policy: called as policy(frames (N,H,W,C) uint8, first (N,) bool, state) -> (actions, state), where
        `first` marks
            lanes that have just been reset, `state` is whatever it returned last (None at first), and
            actions are a list of N, or Gymnasium's batched form.  None: `RandomPolicy`.
        hold: random actions are held for 1 to `hold` steps.
        frame_skip, sticky, noop_max, pixels, env_kwargs, crop: see `environment`.
        vector: play so many copies side by side; `processes=True`: each in its own process.
        seed: lane i is reset with seed + i; the random policy draws from streams of it.
        progress: a tqdm bar, where the output is a terminal.

    Raises:
        ValueError: unknown id, wrong option, wrong action, or a replay of other spaces at `path`.
        ImportError: a missing extra, with its pip command.
    On Ctrl-C or an error the steps so far are stored first, and where they are is printed.
    """
    if steps < 1 or vector < 0:
        raise ValueError(f"collect: wanted steps >= 1 and vector >= 0, got {steps} and {vector}")
    options = {"frames": frames, "frame_skip": frame_skip, "sticky": sticky, "noop_max": noop_max}
    options |= {"pixels": pixels, "env_kwargs": env_kwargs, "crop": crop}
    lanes, recipe, fps = _lanes(env, options, vector, processes)
    try:
        views = lanes.reset(seed)
        replay = _open(path, lanes, recipe, fps, views[0].frame.shape, env)
        act = policy or RandomPolicy(lanes.action_space, lanes.count, hold, seed)
        with _bar(steps, progress) as bar, _Interrupt() as interrupt:
            _play(lanes, views, replay, act, steps, seed, bar, interrupt)
    finally:
        if isinstance(env, str):
            (lanes.env if isinstance(lanes, SingleLane) else lanes.envs).close()
    return replay


def _play(
    lanes: Any,
    views: list,
    replay: Replay,
    policy: Policy,
    steps: int,
    seed: int,
    bar: Any,
    interrupt: _Interrupt,
) -> None:
    recorders = [Recorder(view, seed + i) for i, view in enumerate(views)]
    first, state, done, saved = np.ones(lanes.count, bool), None, 0, time.monotonic()
    before = replay.num_steps
    try:
        while done < steps:
            interrupt.check()
            actions, state = policy(np.stack([view.frame for view in views]), first, state)
            rows = replay.pack(actions)
            outcomes = lanes.step(replay.unpack(rows))
            first = np.zeros(lanes.count, bool)
            for i, outcome in enumerate(outcomes):
                views[i] = outcome.fresh or outcome.after
                first[i] = outcome.fresh is not None
                if outcome.real and done < steps:
                    recorders[i].add(rows[i], outcome)
                    done += 1
                    bar.update(1)
                _store(replay, recorders[i], outcome)
            if time.monotonic() - saved > COMMIT_SECONDS:
                replay.commit()
                saved = time.monotonic()
    except BaseException as error:
        _keep(replay, recorders)
        kept = replay.num_steps - before
        print(
            f"collect: stopped by {type(error).__name__}; {kept} steps are kept in {replay.path}",
            file=sys.stderr,
        )
        raise
    _keep(replay, recorders)


def _store(replay: Replay, recorder: Recorder, outcome: Any) -> None:
    """Write a lane's episode if it has ended, restarted or grown too long."""
    over = outcome.terminated or outcome.truncated
    if len(recorder) and (over or len(recorder) >= PIECE):
        replay.append(recorder.finish(outcome.fresh), commit=False)
    elif outcome.fresh is not None:
        recorder.restart(outcome.fresh)


def _keep(replay: Replay, recorders: list[Recorder]) -> None:
    try:
        for recorder in recorders:
            if len(recorder):
                replay.append(recorder.finish(), commit=False)
    finally:
        replay.commit()


def _lanes(
    env: Any, options: dict[str, Any], vector: int, processes: bool
) -> tuple[Any, dict | None, float | None]:
    """The lanes, the recipe that makes the environment again, and frames a second."""
    if isinstance(env, gym.vector.VectorEnv):
        if any(options[k] for k in ("frame_skip", "sticky", "noop_max", "env_kwargs")):
            raise ValueError(
                "collect: frame_skip, sticky, noop_max and env_kwargs are for ids;"
                " set them when making the vector environment"
            )
        camera = Camera(env.single_observation_space, options["pixels"], options["frames"], options["crop"])
        if camera.source == "render" and env.render_mode != "rgb_array":
            raise ValueError(
                f"collect: no image in {env.single_observation_space};"
                ' make the vector environment with render_mode="rgb_array"'
            )
        return VectorLanes(env, camera), None, None
    one = env if isinstance(env, Environment) else environment(env, **options)
    fps = one.fps
    if not vector:
        again = isinstance(env, (str, Environment)) or env.spec is not None
        return SingleLane(one), _jsonable(one.recipe) if again else None, fps
    if not isinstance(env, str):
        raise ValueError("collect: vector needs an id; for your own environments pass a VectorEnv")
    recipe, parts = one.recipe, one.camera.parts
    one.close()
    make = functools.partial(environment, **recipe)
    kind = gym.vector.AsyncVectorEnv if processes else gym.vector.SyncVectorEnv
    envs = kind([make] * vector, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    return (
        VectorLanes(envs, Camera(envs.single_observation_space, "observation"), parts),
        _jsonable(recipe),
        fps,
    )


def _jsonable(recipe: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return json.loads(json.dumps(recipe, allow_nan=False))
    except (TypeError, ValueError):
        warnings.warn(
            f"the environment's arguments are not plain JSON, so the replay cannot rebuild it: {recipe}",
            stacklevel=3,
        )
        return None


def _open(
    path: Any, lanes: Any, recipe: dict | None, fps: float | None, shape: tuple[int, int, int], env: Any
) -> Replay:
    """Continue the replay at `path`, or make it."""
    if path is None:
        name = recipe["env_id"] if recipe else type(getattr(env, "unwrapped", env)).__name__
        slug = "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()
        path = Path("runs") / slug / "replay"
        for number in range(2, 10**6):
            if not path.exists():
                break
            path = Path("runs") / slug / f"replay-{number}"
    if not (Path(path) / "meta.json").exists():
        return Replay.create(
            path, lanes.action_space, shape, environment=recipe, fps=fps, proprio=lanes.parts
        )
    replay = Replay.open(path)
    for what, ours, theirs in (
        ("action space", lanes.action_space, replay.action_space),
        ("frame shape", tuple(shape), replay.frame_shape),
        ("proprio", lanes.parts, replay.proprio_parts),
    ):
        if ours != theirs:
            raise ValueError(f"{path}: holds a replay whose {what} is {theirs}, the environment's is {ours}")
    return replay


class _Interrupt:
    """The first Ctrl-C waits for the end of the step (`check` raises it); a second one does not."""

    def __enter__(self) -> _Interrupt:
        self._asked, self._before = False, None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def __exit__(self, *exception: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _bar(steps: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", desc="collect", disable=None if progress else True, leave=False)
