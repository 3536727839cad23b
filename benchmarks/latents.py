"""A DiT on pixels against one on a tokenizer's latents: large frames, the same minutes (the tokenizer's included).

    python benchmarks/latents.py [--minutes M] [--frames H W] [--steps N] [--down 4 8] [--threads N] [--json FILE]

Real frames of ViZDoom Basic, random policy, a tenth of the episodes held out.  Shown for each: updates, PSNR of
self-fed roll-outs by steps ahead (and one step ahead by another window's actions), milliseconds of CPU time a step of
one environment (K = 4), and what the tokenizer alone loses there and back.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import worldmodel as wm
from worldmodel.metrics import decibels, mse
from worldmodel.train.tokenizer import psnr
from worldmodel.train.world import rollout_psnr

AHEAD = (1, 2, 3, 5, 10, 15)


def step_ms(world, steps: int = 40) -> float:
    sampler = world.sampler(1, steps=4)
    sampler.reset(world.starts[0][:1])
    action, times = world.features(np.zeros(1, int)), []
    for _ in range(steps):
        began = time.process_time()
        sampler.step(action)
        times.append(time.process_time() - began)
    return 1e3 * float(np.median(times))


def copy_last(test, context: int, count: int = 64) -> list[float]:
    """PSNR of the last given frame against those after it."""
    last = max(AHEAD)
    batch = test.sample(np.random.default_rng(7), 4 * count, context + last)
    frames = batch.frames[np.flatnonzero((batch.mask & batch.frame_known).all(1))[:count]]
    return [float(decibels(mse(frames[:, context - 1], frames[:, context - 1 + k]).mean())) for k in AHEAD]


def measured(replay, down: int, minutes: float) -> dict:
    """down 0: pixels."""
    wm.seed(0)
    test, tokenizer, row = replay.split(0.9, 0)[1], None, {"what": f"latents, 1/{down}" if down else "pixels"}
    if down:
        first = min(3.0, minutes / 4)
        tokenizer = wm.train_tokenizer(replay, minutes=first, down=down, channels=2 * down)
        row["there_and_back"] = psnr(tokenizer, test.sample(1, 128, 1).frames[:, 0])
        minutes -= first
    world = wm.World.create(replay, "S", "dit", tokenizer=tokenizer)
    row["updates"] = wm.train_world(world, replay, minutes=minutes, evaluate_every=0)["steps"]
    curve = rollout_psnr(world, test, 64, max(AHEAD), 7)
    row["psnr"] = [curve[k - 1] for k in AHEAD]
    row["shuffled"] = rollout_psnr(world, test, 64, 1, 7, shuffled=True)[0]
    row["ms"], row["tokens"], row["copy_last"] = step_ms(world), world.dynamics.tokens, copy_last(test, world.context)
    return row


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    cli.add_argument("--minutes", type=float, default=8.0)
    cli.add_argument("--frames", type=int, nargs=2, default=(120, 160))
    cli.add_argument("--steps", type=int, default=8000)
    cli.add_argument("--down", type=int, nargs="*", default=[4, 8])
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--json", metavar="FILE")
    o = cli.parse_args()
    wm.set_threads(o.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay"
        replay = wm.collect("VizdoomBasic-v1", steps=o.steps, frames=tuple(o.frames), frame_skip=4, path=path)
        rows = [measured(replay, down, o.minutes) for down in (0, *o.down)]
    title = f"{o.frames[0]}x{o.frames[1]}, {o.minutes:g} minutes"
    print(f"| {title} | PSNR {', '.join(map(str, AHEAD))} ahead | another action | there and back | a step | updates |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        back = f"{r['there_and_back']:.1f} dB" if "there_and_back" in r else ""
        curve = ", ".join(f"{v:.1f}" for v in r["psnr"])
        print(f"| {r['what']} | {curve} dB | {r['shuffled']:.1f} | {back} | {r['ms']:.1f} ms | {r['updates']} |")
    print(f"| the last frame | {', '.join(f'{v:.1f}' for v in rows[0]['copy_last'])} dB | | | | |")
    if o.json:
        Path(o.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
