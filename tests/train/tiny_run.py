"""tiny_run: one short training of a tiny world, also as a program that tests kill: `python tiny_run.py
FOLDER`.
"""

import sys
import time
from pathlib import Path

import numpy as np
import worldmodel as wm
from gymnasium import spaces
from worldmodel.train import WorldLearner, loop

STEPS = 12
SETTINGS = {
    "steps": STEPS,
    "batch": 2,
    "rare": 1,
    "outcome_batch": 4,
    "warmup": 3,
    "evaluate_every": 5,
    "rollouts": 4,
    "horizon": 2,
    "save_every": 2,
    "quiet": True,
}


def make_replay(path, episodes=6, steps=10):
    """Bright squares that move by the action; reward where they arrive at the left edge."""
    if (Path(path) / "meta.json").exists():
        return wm.Replay.open(path)
    rng = np.random.default_rng(0)

    def episode(i):
        actions = rng.integers(0, 2, steps + i)
        at = np.clip(np.cumsum([8, *(4 * actions - 2)]), 0, 12)
        frames = np.zeros((len(at), 16, 16, 3), np.uint8)
        for t, x in enumerate(at):
            frames[t, 6:10, x : x + 4] = 250
        return {
            "frames": frames,
            "actions": actions,
            "rewards": (at[1:] == 0).astype(float),
            "terminated": i % 2 == 0,
        }

    return wm.Replay.from_arrays(path, spaces.Discrete(2), (episode(i) for i in range(episodes)))


def make_world(replay):
    wm.seed(3)
    return wm.World.create(replay, backbone="unet", size="T", widths=(8, 16), depths=(1, 1), cond=16)


def train(folder, slow=0.0, tensorboard=False, **fields):
    """-> (world, result); slow: seconds each update takes longer, to be killed in.  tensorboardX may take
    long to import (it imports PyTorch where that is installed).
    """
    folder = Path(folder)
    replay = make_replay(folder / "replay")
    world = make_world(replay)
    if slow:
        update = WorldLearner.update

        def slower(self, rate):
            time.sleep(slow)
            return update(self, rate)

        WorldLearner.update = slower
    events, loop._events = loop._events, loop._events if tensorboard else lambda folder: None
    try:
        result = wm.train_world(world, replay, **{**SETTINGS, "run": str(folder / "run"), **fields})
    finally:
        loop._events = events
    return world, result


if __name__ == "__main__":
    wm.set_threads(1)
    made, about = train(sys.argv[1], slow=0.05)
    made.save(Path(sys.argv[1]) / "world.safetensors")
    print("stopped" if about["stopped"] else "finished")
