"""statistics: what a replay holds, in numbers, from one scan that keeps memory flat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .replay import Replay

FRAMES_AT_ONCE = 256


def statistics(replay: Replay) -> dict[str, Any]:
    """One scan over a replay -> a JSON-able dict.

    episodes, steps, length {mean, min, max}, return {mean, std, min, max} (sum of rewards an episode),
    reward {mean, std, min, max}, terminated and truncated (episodes), unlabelled (episodes), pixel {mean,
    std} per channel in 0..255, changed (share of pixels that differ from one frame to the next), action
    {mean, std, min, max} per slot, proprio {mean, std, min, max} per number.  Values that cannot be had (no
    episodes) are absent.
    """
    out: dict[str, Any] = {"episodes": len(replay), "steps": replay.num_steps, "lossy": replay.lossy}
    if len(replay) == 0:
        return out
    returns, ends, unlabelled = [], np.zeros(2, int), 0
    pixels, changed, pairs = _Moments(), 0, 0
    rewards, actions, proprio = _Moments(), _Moments(), _Moments()
    for episode in replay:
        returns.append(float(episode.rewards.sum()))
        ends += [bool(episode.terminated[-1]), bool(episode.truncated[-1])]
        unlabelled += not episode.labelled
        rewards.add(episode.rewards[:, None])
        if episode.labelled and replay.table:
            actions.add(replay.table.encode_batch(replay.unpack(episode.actions)).raw)
        if episode.proprio is not None:
            proprio.add(episode.proprio)
        for at in range(0, len(episode.frames), FRAMES_AT_ONCE):
            part = episode.frames[at : at + FRAMES_AT_ONCE + 1]
            pixels.add_bytes(part[:FRAMES_AT_ONCE])
            changed += int((part[1:] != part[:-1]).any(-1).sum())
            pairs += (len(part) - 1) * part.shape[1] * part.shape[2]
    lengths = replay.lengths
    out["length"] = {"mean": float(lengths.mean()), "min": int(lengths.min()), "max": int(lengths.max())}
    out["return"] = _summary(np.array(returns))
    out["reward"] = {k: v[0] for k, v in rewards.summary().items()}
    out |= {"terminated": int(ends[0]), "truncated": int(ends[1]), "unlabelled": unlabelled}
    out["pixel"] = {k: v for k, v in pixels.summary().items() if k in ("mean", "std")}
    out["changed"] = changed / max(pairs, 1)
    if actions.count:
        out["action"] = actions.summary()
    if proprio.count:
        out["proprio"] = proprio.summary()
    return out


def _summary(x: np.ndarray) -> dict[str, float]:
    return {"mean": float(x.mean()), "std": float(x.std()), "min": float(x.min()), "max": float(x.max())}


class _Moments:
    """Count, mean, spread and range of each column, added up part by part (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.spread = 0, np.zeros(1), np.zeros(1)
        self.low, self.high = np.array(np.inf), np.array(-np.inf)

    def add(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        self._merge(len(rows), mean, ((rows - mean) ** 2).sum(0), rows.min(0), rows.max(0))

    def add_bytes(self, frames: np.ndarray) -> None:
        """The same for uint8 (..., C), by counting values: exact and small."""
        flat = frames.reshape(-1, frames.shape[-1])
        counts = np.stack([np.bincount(flat[:, c], minlength=256) for c in range(flat.shape[1])], 1)
        value = np.arange(256.0)[:, None]
        mean = (counts * value).sum(0) / len(flat)
        present = np.where(counts > 0, value, np.nan)
        self._merge(
            len(flat),
            mean,
            (counts * (value - mean) ** 2).sum(0),
            np.nanmin(present, 0),
            np.nanmax(present, 0),
        )

    def _merge(self, n: int, mean: np.ndarray, spread: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        total, delta = self.count + n, mean - self.mean
        self.spread = self.spread + spread + delta**2 * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.low, self.high, self.count = np.minimum(self.low, low), np.maximum(self.high, high), total

    def summary(self) -> dict[str, list[float]]:
        std = np.sqrt(self.spread / self.count)
        return {
            k: v.tolist()
            for k, v in (("mean", self.mean), ("std", std), ("min", self.low), ("max", self.high))
        }
