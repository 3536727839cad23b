"""tiny_policy: one short training of a tiny policy, also a program that tests kill: `python tiny_policy.py FOLDER`."""

import sys
import time
from pathlib import Path

import tiny_run
import worldmodel as wm
from worldmodel.train import PolicyLearner, loop

ROUNDS = 14
SETTINGS = {"steps": ROUNDS, "lanes": 8, "horizon": 2, "minibatch": 8, "epochs": 1, "save_every": 3, "quiet": True}


def train(folder, slow=0.0, features=16, **fields):
    """-> the policy; slow: seconds each round takes longer, to be killed in."""
    folder = Path(folder)
    replay = tiny_run.make_replay(folder / "replay")
    world = tiny_run.make_world(replay)
    policy = wm.Policy.for_world(world, width=4, features=features)
    rounds, events = PolicyLearner.round, loop._events
    if slow:
        PolicyLearner.round = lambda *a: time.sleep(slow) or rounds(*a)
    loop._events = lambda folder: None
    try:
        return wm.train_policy(world, replay, policy=policy, **{**SETTINGS, "run": str(folder / "run"), **fields})
    finally:
        PolicyLearner.round, loop._events = rounds, events


if __name__ == "__main__":
    wm.set_threads(1)
    train(sys.argv[1], slow=0.05)
    print("finished")
