"""report: what a world is worth, in numbers and pictures, and a demo's report.md and report.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import write_atomically
from ..data import Batch, Replay
from ..data.render import enlarge, save_gif, save_mp4, save_png
from ..metrics import action_shuffle_ratio, decibels, derangement, drift_curves, grouped_probe, mse, rollout_curves
from ..models.dynamics import Window
from ..world import World

PICTURES = {
    "real-against-imagined.png": "real above, imagined below",
    "curves.png": "PSNR by steps ahead",
    "drift.png": "drift of a long roll-out",
    "returns.png": "returns of real episodes",
}
HORIZONS = (1, 2, 3, 4, 5, 15, 50)


def windows(world: World, replay: Replay, count: int, horizon: int, seed: int) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Up to count windows of context + horizon real frames: (batch, rows of it that are whole, features of
    the action that led
    to each frame)."""
    batch = replay.sample(np.random.default_rng(seed), 8 * count, world.context + horizon)
    whole = (batch.mask & batch.frame_known).all(1)
    _, first = np.unique(np.stack([batch.episode, batch.start], 1), axis=0, return_index=True)
    rows = np.sort([i for i in first if whole[i]])[:count]
    return batch, rows, Window.of(batch, replay.features(batch)).actions.numpy()


def imagine(
    world: World, frames: np.ndarray, actions: np.ndarray, horizon: int, seed: int, **options: Any
) -> np.ndarray:
    """Self-fed roll-outs from the first `context` frames (N,T,H,W,C) by the actions that led to each (N,T,F):
    uint8 (N,horizon,H,W,C)."""
    n = world.context
    sampler = world.sampler(len(frames), **options)
    sampler.reset(frames[:, :n], actions[:, :n], seeds=np.arange(len(frames)) + seed)
    return np.stack([sampler.step(actions[:, n + t]).frames for t in range(horizon)], 1)


def teacher_forced(world: World, frames: np.ndarray, actions: np.ndarray, horizon: int, seed: int) -> np.ndarray:
    """The next frame from the real ones before it, at each of `horizon` steps: mean squared errors
    (horizon,)."""
    n = world.context
    sampler = world.sampler(len(frames))
    errors = []
    for t in range(horizon):
        sampler.reset(frames[:, t : n + t], actions[:, t : n + t], seeds=np.arange(len(frames)) + seed)
        errors.append(mse(sampler.step(actions[:, n + t]).frames, frames[:, n + t]).mean())
    return np.array(errors)


def world_report(
    world: World, replay: Replay, folder: Path, count: int = 64, drift: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Score a world on a replay it has not seen; writes pictures and films into the folder.

    Returns psnr, ssim and psnr_changing by horizon, each beside copy_last, action_shuffle_ratio, the
    self-fed gap, drift.
    """
    about: dict[str, Any] = {
        "psnr": {},
        "copy_last": {},
        "psnr_changing": {},
        "copy_last_changing": {},
        "ssim": {},
        "copy_last_ssim": {},
    }
    curves: dict[str, np.ndarray] = {}
    longest = 0
    for horizon in (4, 15, 50):
        batch, rows, actions = windows(world, replay, count, horizon, seed)
        if len(rows) < 2:
            continue
        n, frames, led = world.context, batch.frames[rows], actions[rows]
        imagined = imagine(world, frames, led, horizon, seed)
        curves = rollout_curves(frames[:, n:], imagined, frames[:, n - 1])
        for name, key in (
            ("psnr", "psnr"),
            ("copy_last", "copy_last_psnr"),
            ("psnr_changing", "psnr_changing"),
            ("ssim", "ssim"),
            ("copy_last_changing", "copy_last_psnr_changing"),
            ("copy_last_ssim", "copy_last_ssim"),
        ):
            if key in curves:
                about[name] |= {str(h): round(float(curves[key][h - 1]), 3) for h in HORIZONS if longest < h <= horizon}
        if horizon == 4 or "action_shuffle_ratio" not in about:
            about |= _control(world, frames, led, imagined, horizon, seed)
        longest = horizon
        about[f"rollouts_{horizon}"] = len(rows)
        if horizon <= 15:
            _show(world, frames, imagined, folder)
    if curves:
        _plot_curves(curves, folder / "curves.png")
    about["drift"] = _drift(world, replay, drift, folder, seed)
    if probe := state_probe(world, replay, seed):
        about["state_probe_r2"] = probe
    return about


def state_probe(
    world: World, replay: Replay, seed: int = 0, count: int = 512, steps: tuple[int, ...] = (1, 4)
) -> dict[str, Any] | None:
    """How much of the real state (the replay's proprioception) a linear map reads, R^2 of each number on episodes that
    the map has not seen; None where there is no such state, or too little of it.

    {"names": of the numbers, "real": {"1": [...], "4": [...]}, "imagined": ..., "features": ...}: from the last two
    real frames, from the last two imagined ones so many steps ahead by the same map, and from the features that the
    world left for its heads at that step.  NaN for a number that does not change.
    """
    batch, rows, led = windows(world, replay, count, max(steps), seed)
    episodes = batch.episode[rows]
    if batch.proprio is None or len(rows) < 32 or len(np.unique(episodes)) < 5:
        return None
    n, sampler = world.context, world.sampler(len(rows))
    sampler.reset(batch.frames[rows, :n], led[rows, :n], seeds=np.arange(len(rows)) + seed)
    real, imagined = batch.frames[rows], batch.frames[rows]
    names = [name if size == 1 else f"{name} {k}" for name, size in replay.proprio_parts for k in range(size)]
    found: dict[str, Any] = {"names": names, "real": {}, "imagined": {}, "features": {}}
    for t in range(max(steps)):
        step, state = sampler.step(led[rows, n + t]), batch.proprio[rows, n + t]
        imagined[:, n + t] = step.frames
        if t + 1 in steps:
            before, after = (x[:, n + t - 1 : n + t + 1].reshape(len(rows), -1) for x in (real, imagined))
            pictures = grouped_probe(before, state, episodes, (after,), each=False)
            read = (*pictures, *grouped_probe(step.features, state, episodes))
            for kind, r2 in zip(("real", "imagined", "features"), read, strict=True):
                found[kind][str(t + 1)] = [round(float(v), 3) for v in r2]
    return found


def _control(
    world: World, frames: np.ndarray, led: np.ndarray, imagined: np.ndarray, horizon: int, seed: int
) -> dict[str, Any]:
    """Do the actions matter, and what does feeding on itself cost?"""
    n = world.context
    other = led.copy()
    other[:, n:] = led[derangement(len(led), np.random.default_rng(seed)), n:]
    true, wrong = (mse(x, frames[:, n:]) for x in (imagined, imagine(world, frames, other, horizon, seed)))
    forced = teacher_forced(world, frames, led, horizon, seed)
    return {
        "action_shuffle_ratio": round(float(action_shuffle_ratio(true, wrong)[0]), 3),
        "action_shuffle_ratio_by_step": [round(float(x), 3) for x in action_shuffle_ratio(true, wrong)],
        "psnr_shuffled": [round(float(decibels(e)), 3) for e in wrong.mean(0)],
        "self_fed_gap_db": round(float(decibels(forced[-1]) - decibels(true.mean(0)[-1])), 3),
    }


def _show(world: World, frames: np.ndarray, imagined: np.ndarray, folder: Path) -> None:
    """real-against-imagined.png (.mp4, .gif): real above, imagined below."""
    n, T = world.context, imagined.shape[1]
    rows = [
        np.concatenate([np.concatenate(list(frames[i, n : n + T]), 1), np.concatenate(list(imagined[i]), 1)], 0)
        for i in range(min(3, len(frames)))
    ]
    save_png(folder / "real-against-imagined.png", enlarge(np.concatenate(rows, 0), 2))
    film = [
        np.concatenate([np.concatenate([frames[i, n + t], imagined[i, t]], 0) for i in range(min(6, len(frames)))], 1)
        for t in range(T)
    ]
    for write, name, how in (
        (save_mp4, "real-against-imagined.mp4", {"lossless": False}),
        (save_gif, "real-against-imagined.gif", {}),
    ):
        try:
            write(folder / name, film, fps=min(8.0, world.config.fps), scale=2, **how)
        except ImportError:
            pass


def _drift(world: World, replay: Replay, steps: int, folder: Path, seed: int) -> dict[str, Any]:
    """A long roll-out by random actions against the look of real frames."""
    rng, lanes = np.random.default_rng(seed), 4
    batch, rows, led = windows(world, replay, lanes, 1, seed)
    if len(rows) < 1:
        return {}
    sampler = world.sampler(len(rows))
    sampler.reset(
        batch.frames[rows, : world.context],
        led[rows, : world.context],
        seeds=rng.integers(0, 2**63, len(rows), np.uint64),
    )
    film = np.empty((len(rows), steps, *world.config.frame_shape), np.uint8)
    for t in range(steps):
        if t % 4 == 0:
            actions = world.features(world.table.sample_batch(rng, len(rows)))
        film[:, t] = sampler.step(actions).frames
    reference = batch.frames[:, 0]
    curves = drift_curves(film, reference)
    _plot_drift(curves, folder / "drift.png")
    marks = [t for t in (1, 10, 100, 300, 1000) if t <= steps]
    return {name: {str(t): round(float(c[t - 1]), 3) for t in marks} for name, c in curves.items()}


# ---- pictures and the two files -------------------------------------------------------------------------


def _axes(width: float = 7, height: float = 3, columns: int = 1) -> Any:
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width, height), constrained_layout=True)


def _write(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot_curves(curves: dict[str, np.ndarray], path: Path) -> None:
    made = _axes()
    if made is None:
        return
    figure, axes = made
    steps = np.arange(1, len(curves["psnr"]) + 1)
    for key, label in (
        ("psnr", "imagined"),
        ("copy_last_psnr", "copy of the last frame"),
        ("psnr_changing", "imagined, changing pixels"),
        ("copy_last_psnr_changing", "copy, changing pixels"),
    ):
        axes.plot(steps, curves[key], label=label, linestyle="--" if key.startswith("copy") else "-")
    axes.set(xlabel="steps ahead", ylabel="PSNR, dB")
    axes.legend(fontsize=8)
    _write(figure, path)


def _plot_drift(curves: dict[str, np.ndarray], path: Path) -> None:
    made = _axes(9, 2.6, 3)
    if made is None:
        return
    figure, axes = made
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        axis.plot(np.arange(1, len(curve) + 1), curve)
        axis.set(title=name, xlabel="imagined steps")
    _write(figure, path)


def _plot_returns(about: dict[str, Any], path: Path) -> None:
    made = _axes()
    returns = [s.get("collected") for s in about.get("stages", {}).values() if s.get("collected") is not None]
    if made is None or not about.get("real_returns"):
        return
    figure, axes = made
    axes.hist(about["real_returns"], bins=20, label="policy, real episodes")
    axes.axvline(about["real_return_mean"], color="black", label="mean")
    if about.get("random_return_mean") is not None:
        axes.axvline(about["random_return_mean"], color="grey", linestyle="--", label="random")
    if returns:
        axes.set_title(f"collected on the way: {', '.join(f'{r:.0f}' for r in returns)}", fontsize=8)
    axes.set(xlabel="return")
    axes.legend(fontsize=8)
    _write(figure, path)


def write_report(folder: Path, about: dict[str, Any]) -> None:
    """report.json and report.md, each atomically, and the picture of returns."""
    _plot_returns(about, folder / "returns.png")
    write_atomically(folder / "report.json", json.dumps(about, indent=1).encode())
    write_atomically(folder / "report.md", _markdown(folder, about).encode())


def _probe_table(probe: dict[str, Any]) -> list[str]:
    """What a linear map reads of the state from real and imagined pictures."""
    names = ", ".join(probe["names"])
    lines = [f"The real state ({names}) read by a linear map, R^2 of each number on episodes it has not seen:", ""]
    lines += ["| steps ahead | real frames | imagined frames | the world's features |", "|---|---|---|---|"]
    for steps in probe["real"]:
        cells = (", ".join(f"{v:.2f}" for v in probe[k][steps]) for k in ("real", "imagined", "features"))
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return [*lines, ""]


def _markdown(folder: Path, about: dict[str, Any]) -> str:
    lines = [f"# {about['env']}", ""]
    if "real_return_mean" in about:
        low, high = about["real_return_ci95"]
        lines += [
            f"Real return **{about['real_return_mean']:.1f}** (95 % interval {low:.1f} to {high:.1f}, "
            f"n = {about['real_episodes']}; {about['real_length_mean']:.0f} steps an episode) "
            f"after {about['real_steps']:,} real steps, the policy trained on imagined frames only.",
            "",
        ]
        if about.get("random_return_mean") is not None:
            rl, rh = about["random_return_ci95"]
            lines += [
                f"Random actions: {about['random_return_mean']:.1f} "
                f"({rl:.1f} to {rh:.1f}, n = {about['random_episodes']}).",
                "",
            ]
    lines += [
        "| steps ahead | PSNR | copy last | PSNR, changing pixels | copy last | SSIM | copy last |",
        "|---|---|---|---|---|---|---|",
    ]
    for h, v in about["psnr"].items():
        cells = [
            v,
            *(
                about[k].get(h, float("nan"))
                for k in ("copy_last", "psnr_changing", "copy_last_changing", "ssim", "copy_last_ssim")
            ),
        ]
        lines.append(f"| {h} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")
    lines += [
        "",
        f"Action-shuffle ratio one step ahead {about.get('action_shuffle_ratio')} (1: actions are ignored); "
        f"self-fed against teacher-forced: {about.get('self_fed_gap_db')} dB.",
        "",
    ]
    if probe := about.get("state_probe_r2"):
        lines += _probe_table(probe)
    if other := about.get("counterfactual"):
        lines += [
            f"Futures of other actions from {other['states']} states, each action held (the real environment put back "
            "and asked), 1, 2, ... steps ahead:",
            "",
            f"- PSNR against the true future of the same action {other['psnr']}, of another action "
            f"{other['other_action']}, copy of the last frame {other['copy_last']}",
            f"- nearer to its own future than to any other action's: {other['told_apart']} of "
            f"{len(other['actions'])} (chance {1 / len(other['actions']):.2f})",
            "",
        ]
    lines += [f"![{text}]({name})" for name, text in PICTURES.items() if (folder / name).exists()]
    lines += [
        "",
        f"Seconds: {about.get('seconds')}, in all {about.get('seconds_total')}.",
        "",
        f"`{about.get('command')}` on {about.get('machine')}.",
        "",
    ]
    return "\n".join(lines)
