"""How well a world learns in given minutes: ours beside the same network in PyTorch, on the same frames.

    python benchmarks/learning.py [--minutes 12] [--threads 2] [--json FILE] [--quick] [--skip-peer] [--diamond]

Data: 8,000 frames of ViZDoom Basic at 48x64 by random actions, each held for 1 to 4 steps, and 1,500 more, of other
seeds, to score on.  Both sides train the UNet of size S by the same recipe (windows of 4 + 4 frames, half of them fed
their own guesses; AdamW, EMA) for the same minutes; the twin's weights are then loaded into our world, so that both
are scored by the same code: PSNR of the mean squared error of self-fed roll-outs, 1 to 4 steps ahead, and with the
actions of other windows.  Beside them: the last frame, and what a run of DIAMOND's own code and of a plain DiT in
PyTorch reached in 12 minutes on two such cores, on another 8,000 frames drawn the same way.  --diamond: also DIAMOND's
network and objective in our engine (backbone edm, 4.4M), 8 windows an update, its learning rate times 5.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import worldmodel as wm
from worldmodel import demo, machine
from worldmodel.data import collect
from worldmodel.sampling import streams
from worldmodel.train import TrainWorld, train_world
from worldmodel.train.recipes import DIAMOND_WORLD
from worldmodel.train.report import windows
from worldmodel.train.world import WorldLearner, rollout_psnr

PUBLISHED = {
    "DIAMOND's code (EDM UNet 4.4M, 3 steps), elsewhere": [28.2, 26.6, 25.9, 24.8],
    "a plain DiT 0.9M in PyTorch, elsewhere": [27.1, 25.0, 24.6, 24.1],
}
SETTINGS = TrainWorld(batch=8, rare=0, lr=2e-3, held_out=0, evaluate_every=0, rollouts=8, horizon=1, quiet=True)
HORIZON, COUNT = 4, 256


def frames(folder: Path, steps: int, seed: int) -> wm.Replay:
    return collect(
        "VizdoomBasic-v1", steps, (48, 64), path=folder, frame_skip=4, hold=4, seed=seed, progress=False
    )


def score(world: wm.World, replay: wm.Replay) -> dict[str, list[float]]:
    true, shuffled = (rollout_psnr(world, replay, COUNT, HORIZON, shuffled=s) for s in (False, True))
    return {"psnr": np.round(true, 2).tolist(), "shuffled": np.round(shuffled, 2).tolist()}


def copy_last(world: wm.World, replay: wm.Replay) -> list[float]:
    batch, rows, _ = windows(world, replay, COUNT, HORIZON, 0)
    n, real = world.context, batch.frames[rows].astype(np.float64)
    errors = [np.square(real[:, n + t] - real[:, n - 1]).mean() for t in range(HORIZON)]
    return [round(float(10 * np.log10(255**2 / e)), 2) for e in errors]


def ours(replay: wm.Replay, minutes: float) -> tuple[wm.World, int]:
    world = wm.World.create(replay, size="S", backbone="unet")
    return world, train_world(world, replay, SETTINGS, minutes=minutes)["steps"]


def diamond(replay: wm.Replay, minutes: float) -> tuple[wm.World, int]:
    world = wm.World.create(replay, size="atari", backbone="edm")
    few = {"batch": 8, "lr": 5e-4, "floor": 0.02, "ema": 0.995, "outcome_batch": 4}  # published: 32, 1e-4, none, none
    settings = dataclasses.replace(SETTINGS, **{**DIAMOND_WORLD, **few})
    return world, train_world(world, replay, settings, minutes=minutes)["steps"]


def peer(replay: wm.Replay, minutes: float, threads: int) -> tuple[wm.World, int]:
    """The same network, losses, batches and optimiser in PyTorch (channels last), eager."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "oracle"))
    import torch
    import unet_twin

    torch.set_num_threads(threads)
    world = wm.World.create(replay, size="S", backbone="unet")
    model, s = world.dynamics, SETTINGS
    weights = unet_twin.weights_of(model)
    twin = unet_twin.Twin(model, weights)
    parts = model.parts()
    names = {id(t): n for n, t in model.named_tensors()}
    groups = {part: [weights[names[id(t)]] for t in tensors] for part, tensors in parts.items()}
    optimisers = {
        part: torch.optim.AdamW(
            [
                {"params": [w for w in ws if w.ndim > 1], "weight_decay": s.weight_decay},
                {"params": [w for w in ws if w.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=s.lr,
            betas=s.betas,
            fused=True,
        )
        for part, ws in groups.items()
    }
    average = {n: w.detach().clone() for n, w in weights.items()}
    learner = WorldLearner(wm.World.create(replay, size="S", backbone="unet"), s)  # draws the same windows
    learner.train = replay
    H, W, C = world.config.frame_shape
    torch.manual_seed(0)
    began, step = time.monotonic(), 0
    with replay.batches(s.batch, model.window, seed=0) as batches:
        while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
            window = world.window(replay, next(batches))
            stream = streams(np.arange(s.batch, dtype=np.uint64))
            stream[:, 3] = step
            window = window.forgetful(np.random.default_rng(step), model._forget, model.context)
            R = model._rollout
            draws = {
                "tau": torch.rand(R, s.batch) * (torch.rand(R, s.batch) >= model._at_noise),
                "eps": torch.randn(R, s.batch, C, H, W),
                "fed": (torch.rand(s.batch) < model._self_fed).float(),
            }
            losses = unet_twin.losses(twin, window, draws)
            for optimiser in optimisers.values():
                optimiser.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            rate = s.lr * min(1.0, (step + 1) / s.warmup) * max(s.floor, 1 - share)
            for part, optimiser in optimisers.items():
                torch.nn.utils.clip_grad_norm_(groups[part], s.clip)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), [w.detach() for w in weights.values()], 1 - s.ema)
            step += 1
    model.load_state_dict({n: unet_twin.as_ours(n, w) for n, w in average.items()})
    return world, step


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=12.0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", type=Path)
    p.add_argument("--quick", action="store_true", help="10 seconds a side, 1,000 frames")
    p.add_argument("--skip-peer", action="store_true")
    p.add_argument("--diamond", action="store_true")
    a = p.parse_args()
    minutes, steps = (1 / 6, 1000) if a.quick else (a.minutes, 8000)
    machine.set_threads(a.threads)
    with tempfile.TemporaryDirectory() as folder:
        replay, unseen = frames(Path(folder) / "train", steps, 0), frames(Path(folder) / "test", steps * 3 // 16, 777)
        sides = {"ours": lambda: ours(replay, minutes)}
        if not a.skip_peer:
            sides["the same in PyTorch"] = lambda: peer(replay, minutes, a.threads)
        if a.diamond:
            sides["DIAMOND's network in our engine"] = lambda: diamond(replay, minutes)
        rows = {}
        for name, train in sides.items():
            world, updates = train()
            rows[name] = {"updates": updates, **score(world, unseen)}
            rows.setdefault("the last frame", {"psnr": copy_last(world, unseen)})
            print(name, rows[name], flush=True)
    rows |= {name: {"psnr": psnr} for name, psnr in PUBLISHED.items()}
    print(table(rows, minutes))
    if a.json:
        about = {"minutes": minutes, "machine": demo.machine_text(), "command": " ".join(sys.argv), "rows": rows}
        a.json.write_text(json.dumps(about, indent=1) + "\n")


def table(rows: dict, minutes: float) -> str:
    lines = [f"PSNR in dB after {minutes:g} minutes", "", "| | updates | 1 | 2 | 3 | 4 | actions shuffled, 1 |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [name, str(row.get("updates", "")), *(f"{v:.1f}" for v in row["psnr"])]
        lines += ["| " + " | ".join([*cells, f"{row['shuffled'][0]:.1f}" if "shuffled" in row else ""]) + " |"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
