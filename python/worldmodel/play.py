"""play: step into a world with the keyboard, in a window or in the terminal, or let a policy play; recorded
if asked.

The key map of a Discrete space is one key an action, in order (`keys="wasd"`, digits by default); of a
MultiBinary space one key a button.  Nothing pressed is action 0.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .data import save_mp4
from .envs import Imagined
from .train.evaluate import check_acts_in
from .world import World

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def keys_of(space: Any, keys: str | None) -> str:
    """The key of each action (Discrete) or button (MultiBinary).  Raises ValueError for another space or too
    few keys.
    """
    kind = type(space).__name__
    if kind == "Discrete":
        count = int(space.n)
    elif kind == "MultiBinary":
        count = int(np.prod(space.shape))
    else:
        raise ValueError(f"play: keys can press Discrete and MultiBinary actions, not {space}; give a policy")
    keys = keys or DIGITS[:count]
    if len(keys) < count or len(set(keys)) < len(keys):
        raise ValueError(f"play: {count} different keys wanted, got {keys!r}")
    return keys[:count]


def action_for(space: Any, keys: str, pressed: Callable[[str], bool]) -> Any:
    """The action of the keys that are down."""
    down = [pressed(k) for k in keys]
    if type(space).__name__ == "Discrete":
        return space.start + np.int64(down.index(True) if any(down) else 0)
    return np.array(down, space.dtype).reshape(space.shape)


def play(
    world: World,
    keys: str | None = None,
    terminal: bool = False,
    record: str | None = None,
    steps: int = 1000,
    fps: float | None = None,
    seed: int | None = None,
    policy: Any = None,
) -> int:
    """Play until `steps`, Escape, 'q' in the terminal or Ctrl-C; returns the steps played.

    record: an mp4 of all frames, written whatever ends the game.  Raises ValueError where keys cannot press
    the actions, or the policy is another world's; ImportError naming the extra that is missing.
    """
    env = Imagined(world)
    if policy:
        check_acts_in(policy, env)
    keys = "" if policy else keys_of(env.action_space, keys)
    screen: Any = _Terminal() if terminal else _window(keys)
    film: list[np.ndarray] = []
    pace = 1 / (fps or min(30.0, world.config.fps))
    played = 0
    try:
        frame, _ = env.reset(seed=seed)
        state, first, total = None, True, 0.0
        while played < steps:
            began = time.monotonic()
            film.append(frame)
            screen.show(frame)
            if screen.closed:
                break
            if policy:
                actions, state = policy(frame[None], np.array([first]), state)
                action = actions[0]
            else:
                action = action_for(env.action_space, keys, screen.down)
            frame, reward, terminated, truncated, _ = env.step(action)
            played, first, total = played + 1, False, total + reward
            if terminated or truncated:
                print(f"episode over after {played} steps, imagined return {total:.1f}", file=sys.stderr)
                frame, _ = env.reset()
                state, first, total = None, True, 0.0
            time.sleep(max(0.0, pace - (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass
    finally:
        screen.close()
        env.close()
        if record and film:
            save_mp4(record, film, fps=1 / pace, scale=4, lossless=False)
    return played


def _window(keys: str) -> Any:
    from .envs.window import Window

    return Window(f"worldmodel: keys {' '.join(keys)}, Escape ends")


class _Terminal:
    """Half-block characters in 24-bit colour; keys are read without waiting, 'q' ends.

    Where the input is no terminal (a file, a pipe) each frame takes one character of it, a blank for no key,
    and its end ends the game.
    """

    def __init__(self) -> None:
        self.closed, self._held, self._old = False, "", None
        self._interactive = sys.stdin.isatty()
        if self._interactive:
            import termios
            import tty

            self._old = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        print("\x1b[2J", end="")

    def show(self, frame: np.ndarray) -> None:
        print("\x1b[H" + picture(frame), end="", flush=True)
        if not self._interactive:
            self._held = sys.stdin.read(1)
            self.closed = self._held in ("", "q")
        while self._interactive and select.select([sys.stdin], [], [], 0)[0]:
            self._held = sys.stdin.read(1)
            self.closed |= self._held == "q"

    def down(self, key: str) -> bool:
        pressed = self._held == key
        if pressed:
            self._held = ""
        return pressed

    def close(self) -> None:
        if self._old is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._old)
        print("\x1b[0m")


def picture(frame: np.ndarray) -> str:
    """(H,W,C) uint8 as text: each character shows two pixels, one above the other."""
    rgb = np.broadcast_to(frame, (*frame.shape[:2], 3))
    rgb = rgb[: len(rgb) // 2 * 2]
    lines = []
    for above, below in zip(rgb[::2], rgb[1::2], strict=True):
        pairs = zip(above, below, strict=True)
        cells = (f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m\u2580" for a, b in pairs)
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)
