"""What fewer denoising steps and int8 cost: PSNR of self-fed roll-outs and the action-shuffle ratio of a trained world.

    python benchmarks/quality.py WORLD.safetensors REPLAY [--windows 64] [--horizon 15] [--loss-db 0.1] [--json FILE]
                                 [--markdown FILE]

Every row imagines the same windows of the replay with the same noise.  drop: PSNR of float32 at the same number of
denoising steps less this row's, at the last step, with a 95 % interval over windows (bootstrap, paired).  The replay
is split as training splits it: layers are chosen on the episodes that it learns from, rows measured on the held-out.
"""

import argparse
import json
from pathlib import Path

import measure
import numpy as np
import worldmodel as wm
from worldmodel.metrics import decibels, derangement, mse
from worldmodel.models.dynamics import Window
from worldmodel.world import World


def windows_of(world: World, replay: wm.Replay, count: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Real frames (n,context+horizon,H,W,C) and the actions that led to each."""
    batch = replay.sample(np.random.default_rng(1), 4 * count, world.context + horizon)
    good = np.flatnonzero((batch.mask & batch.frame_known).all(1))[:count]
    return batch.frames[good], Window.of(batch, replay.features(batch)).actions.numpy()[good]


def errors(world: World, frames: np.ndarray, led: np.ndarray, steps: int, shuffled: bool = False) -> np.ndarray:
    """Mean squared errors (n,horizon) of roll-outs by the true actions, or another window's."""
    n, context = len(frames), world.context
    sampler = world.sampler(n, steps=steps)
    sampler.reset(frames[:, :context], led[:, :context], seeds=np.arange(n))
    order = derangement(n, np.random.default_rng(2)) if shuffled else np.arange(n)
    made = [sampler.step(led[order, t]).frames for t in range(context, frames.shape[1])]
    return np.stack([mse(f, frames[:, context + t]) for t, f in enumerate(made)], 1)


def drop(worse: np.ndarray, better: np.ndarray) -> tuple[float, float, float]:
    """decibels of pooled errors (n,), better's less worse's, and the bounds of its 95 % interval."""
    rng = np.random.default_rng(3)
    picks = rng.integers(0, len(worse), (4000, len(worse)))
    draws = decibels(better[picks].mean(1)) - decibels(worse[picks].mean(1))
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(decibels(better.mean()) - decibels(worse.mean())), float(low), float(high)


def rows_of(world: World, replay: wm.Replay, calibration: wm.Replay, args: argparse.Namespace) -> list[dict]:
    frames, led = windows_of(world, replay, args.windows, args.horizon)
    rows, plain = [], {}
    for kind in ("float32", "int8"):
        choice = world.quantize(calibration, loss_db=args.loss_db) if kind == "int8" else world.quantize(layers=[])
        print(choice)
        for K in (4, 2, 1):
            e = errors(world, frames, led, K)
            plain.setdefault(K, e)
            other = errors(world, frames, led, K, shuffled=True)
            lost, low, high = drop(e[:, -1], plain[K][:, -1])
            curve = decibels(e.mean(0))
            rows.append({
                "kind": kind, "K": K, "windows": len(e), "psnr": curve.tolist(), "drop": lost, "drop_low": low,
                "drop_high": high, "shuffle_ratio": float(other[:, 0].mean() / e[:, 0].mean()),
            })  # fmt: skip
            print(line(rows[-1]), flush=True)
    return rows


def line(r: dict) -> str:
    at = [0, *range(4, len(r["psnr"]), 5)]
    curve = " / ".join(f"{r['psnr'][i]:.2f}" for i in at)
    return (
        f"| {r['kind']} | {r['K']} | {curve} | {r['drop']:.2f} [{r['drop_low']:.2f}, {r['drop_high']:.2f}] | "
        f"{r['shuffle_ratio']:.2f} |"
    )


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("world")
    parser.add_argument("replay", help="to imagine from; its other episodes choose the int8 layers")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=15)
    parser.add_argument("--loss-db", type=float, default=0.1)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    args = parser.parse_args()
    world, replay = World.load(args.world), wm.Replay.open(args.replay)
    calibration, held = replay.split(0.9)
    rows = rows_of(world, held, calibration, args)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": measure.machine(), "rows": rows}, indent=1))
    if args.markdown:
        head = "| numbers | denoising steps | PSNR 1 / 5 / 10 / 15 steps ahead | drop at the last, dB | shuffle ratio |"
        Path(args.markdown).write_text("\n".join([head, "|---|---|---|---|---|", *map(line, rows)]) + "\n")


if __name__ == "__main__":
    main()
