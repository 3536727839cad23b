"""What fewer denoising steps, bfloat16 and int8 cost: PSNR of self-fed roll-outs, the action-shuffle ratio and a
policy's return in a trained world.

    python benchmarks/quality.py RUN | WORLD.safetensors REPLAY [--policy FILE] [--windows 64] [--horizon 15]
                                 [--loss-db 0.1] [--episodes 100] [--longest 100] [--json FILE] [--markdown FILE]

RUN: a folder of `worldmodel demo`: world.safetensors, replay and policy.safetensors.  Every row imagines the same
windows of the replay with the same noise.  drop: PSNR of float32 at the same number of denoising steps less this row's,
at the last step, with a 95 % interval over windows (bootstrap, paired).  The replay is split as training splits it:
layers are chosen on the episodes that it learns from, rows measured on the held-out.  return: of the policy, whole
imagined episodes (of at most so many steps) from the same starts with the same random numbers; change: this row's less
float32's, with its interval over episodes (paired too).
"""

import argparse
import json
from pathlib import Path

import measure
import numpy as np
import worldmodel as wm
from worldmodel.envs import Imagined
from worldmodel.metrics import decibels, derangement, mse
from worldmodel.models.dynamics import Window
from worldmodel.train.evaluate import play_episodes
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


def change(ours: np.ndarray, plain: np.ndarray) -> tuple[float, float, float]:
    """Mean of ours less plain (n,), and the bounds of its 95 % interval."""
    rng = np.random.default_rng(4)
    less = ours - plain
    low, high = np.quantile(less[rng.integers(0, len(less), (4000, len(less)))].mean(1), (0.025, 0.975))
    return float(less.mean()), float(low), float(high)


def returns(world: World, policy: wm.Policy, steps: int, episodes: int, longest: int) -> np.ndarray:
    """Of imagined episodes (episodes,), each with a seed of its own."""
    return play_episodes(policy, Imagined(world, steps=steps), episodes, 20_000, longest=longest)[0]


def rows_of(world: World, replay: wm.Replay, calibration: wm.Replay, args: argparse.Namespace) -> list[dict]:
    frames, led = windows_of(world, replay, args.windows, args.horizon)
    policy = wm.Policy.load(args.policy) if args.policy else None
    rows, plain, earned = [], {}, {}
    for kind in ("float32", "bf16", "int8"):
        if kind == "float32":
            choice = world.quantize(layers=[])
        else:
            choice = world.quantize(calibration, loss_db=args.loss_db, numbers=kind)
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
            if policy:
                total = returns(world, policy, K, args.episodes, args.longest)
                less, low, high = change(total, earned.setdefault(K, total))
                rows[-1] |= {"return": float(total.mean()), "change": less, "change_low": low, "change_high": high}
            print(line(rows[-1]), flush=True)
    return rows


def line(r: dict) -> str:
    at = [0, *range(4, len(r["psnr"]), 5)]
    curve = " / ".join(f"{r['psnr'][i]:.2f}" for i in at)
    earned = ""
    if "return" in r:
        earned = f" {r['return']:.1f} | {r['change']:.1f} [{r['change_low']:.1f}, {r['change_high']:.1f}] |"
    return (
        f"| {r['kind']} | {r['K']} | {curve} | {r['drop']:.2f} [{r['drop_low']:.2f}, {r['drop_high']:.2f}] | "
        f"{r['shuffle_ratio']:.2f} |{earned}"
    )


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("world", help="its file, or the folder of a run")
    parser.add_argument("replay", nargs="?", help="to imagine from; its other episodes choose the layers")
    parser.add_argument("--policy", metavar="FILE", help="whose return is measured too")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--longest", type=int, default=100, help="steps of an episode")
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=15)
    parser.add_argument("--loss-db", type=float, default=0.1)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    args = parser.parse_args()
    run = Path(args.world)
    if run.is_dir():
        args.world, args.replay = run / "world.safetensors", args.replay or run / "replay"
        policy = run / "policy.safetensors"
        args.policy = args.policy or (policy if policy.exists() else None)
    elif not args.replay:
        parser.error("a world's file needs a replay")
    world, replay = World.load(args.world), wm.Replay.open(args.replay)
    calibration, held = replay.split(0.9)
    rows = rows_of(world, held, calibration, args)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": measure.machine(), "rows": rows}, indent=1))
    if args.markdown:
        head = "| numbers | denoising steps | PSNR 1 / 5 / 10 / 15 steps ahead | drop at the last, dB | shuffle ratio |"
        head += " return | change |" if args.policy else ""
        below = "|---" * (head.count("|") - 1) + "|"
        Path(args.markdown).write_text("\n".join([head, below, *map(line, rows)]) + "\n")


if __name__ == "__main__":
    main()
