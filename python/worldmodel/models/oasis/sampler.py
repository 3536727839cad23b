"""sampler: Open-Oasis as n environments; those with as many frames behind them go through the network in one call.

Each environment is the latents of its window.  What the frames before leave (Past) is derived from them, one for all
rows of a call, and made again where it is missing: after a restore, or when the oldest frame has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import ops
from ...sampling import Sampler, Step
from ...tensor import Tensor
from .actions import NAMES
from .dit import Past

if TYPE_CHECKING:
    from .dynamics import Oasis

SALT_NOISE, SALT_CONTEXT, SALT_STEPS = 301, 302, 310
STABLE, LARGEST = 14, 20.0
"""The label of frames before; bounds of the first noise."""


class OasisSampler(Sampler):
    """steps: of DDIM; reuse=False: the whole window in every step, as the original does (slow; the same numbers);
    together: environments in one call at most (each keeps 0.6 GB of keys and values at full size)."""

    def __init__(self, model: Oasis, n: int, steps: int | None = None, reuse: bool = True, together: int = 8):
        super().__init__(n, model._action_features)
        if steps is not None and steps < 1 or together < 1:
            raise ValueError(f"sampler: steps and together must be at least 1, got {steps} and {together}")
        self.model, self.steps, self.reuse, self.together = model, steps or model._steps, reuse, together
        T = model.dit.window
        self.state["latents"] = Tensor(np.zeros((n, T, *model.dit.latent), np.float32), copy=True)
        self.state["actions"] = Tensor(np.zeros((n, T, len(NAMES)), np.float32), copy=True)
        self.state["frames"] = Tensor(np.zeros((n,), np.int32), copy=True)
        self._past: dict[tuple[int, ...], Past] = {}

    # ---- Sampler ----

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        keep = min(frames.shape[1], self.model.dit.window - 1)
        for i, row in enumerate(rows):
            latents = self.model.encode(frames[i, -keep:])
            self.state["latents"][row, :keep] = self.given(latents[None], [row])[0]
            self.state["actions"][row, :keep] = self.model.vectors(actions[i, -keep:])
            self.state["frames"][row] = keep
        self._forget(rows)

    def restore(self, snapshot: Any, rows: Any = None) -> None:
        super().restore(snapshot, rows)
        self._forget(range(self.n) if rows is None else rows)

    def fork(self, row: int, rows: Any, seeds: Any = None) -> None:
        super().fork(row, rows, seeds)
        others = [int(r) for r in rows if r != row]
        self._forget(others)
        if (one := self._gathered([row])) is not None:
            self._past |= {(other,): one for other in others}

    def advance(self, actions: np.ndarray) -> Step:
        vectors = self.model.vectors(actions)
        self.state["stream"][:, 3] = self.state["stream"].numpy()[:, 3] + 1
        clean = np.empty((self.n, *self.model.dit.latent), np.float32)
        for rows in self.groups():
            clean[rows] = self.next_latents(rows, vectors[rows])
        frames, zero = self.model.decode(clean), np.zeros(self.n, np.float32)
        return Step(frames, zero, zero > 0, zero, np.zeros((self.n, 1), np.float32))

    # ---- a frame ----

    def groups(self) -> list[np.ndarray]:
        """Rows with as many frames behind them, at most `together` of them."""
        held = np.minimum(self.state["frames"].numpy(), self.model.dit.window - 1)
        alike = [np.flatnonzero(held == count) for count in np.unique(held)]
        return [rows[i : i + self.together] for rows in alike for i in range(0, len(rows), self.together)]

    def next_latents(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The next frames' latents (B,h,w,C) of a group, by actions (B,25); they then belong to its windows."""
        T, shape = self.model.dit.window, self.model.dit.latent
        full = rows[self.state["frames"].numpy()[rows] == T]
        if len(full):  # the oldest frame leaves: what is left must be seen anew
            for name in ("latents", "actions"):
                self.state[name][full, :-1] = self.state[name].numpy()[full, 1:]
            self._forget(full)
        held = min(int(self.state["frames"].numpy()[rows[0]]), T - 1)
        self.state["actions"][rows, held] = actions
        latents, acts = (self.state[k].numpy()[rows] for k in ("latents", "actions"))
        noise = ops.normal(self._stream(rows), salt=SALT_NOISE, shape=(len(rows), 1, *shape))
        x = self.denoised(rows, ops.clamp(noise, -LARGEST, LARGEST), latents[:, :held], acts[:, : held + 1])
        self.state["latents"][rows, held] = self.given(x[:, None], rows)[:, 0]
        self.state["frames"][rows] = held + 1
        return x

    def given(self, latents: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Clean latents (B,T,h,w,C) as the frames after see them."""
        how, bar = self.model._given, float(self.model._bars[STABLE])
        if how == "labelled":
            return latents
        if how == "scaled":
            return latents * np.float32(bar**0.5)
        noise = ops.normal(self._stream(rows), salt=SALT_CONTEXT, shape=latents.shape).numpy()
        return latents * np.float32(bar**0.5) + noise * np.float32((1 - bar) ** 0.5)

    def denoised(
        self, rows: Sequence[int] | np.ndarray, x: Tensor, latents: np.ndarray, actions: np.ndarray
    ) -> np.ndarray:
        """From noise (B,1,h,w,C) to the latents (B,h,w,C) of the frames after latents (B,T,h,w,C), by actions
        (B,T+1,25)."""
        from .dynamics import levels_of

        levels, bars, B = levels_of(self.steps), self.model._bars, len(rows)
        stream = self._stream(rows) if self.model._eta else None
        past = self.seen(rows, latents, actions[:, :-1]) if self.reuse else None
        for k in reversed(range(1, self.steps + 1)):
            v = self.said(x, levels[k], latents, actions, past)
            now = Tensor(np.full((B, 1), bars[levels[k]], np.float32))
            then = Tensor(np.full((B, 1), 1.0 if k == 1 else bars[max(levels[k - 1], 0)], np.float32))
            x = ops.ddim_step(x, v, now, then, stream, target="v", eta=self.model._eta, salt=SALT_STEPS + k)
        return np.array(x.numpy()[:, 0])

    def said(self, x: Tensor, level: int, latents: np.ndarray, actions: np.ndarray, past: Past | None) -> Tensor:
        """v of the new frames x at a level."""
        dit, (B, T) = self.model.dit, latents.shape[:2]
        if past is not None or not T:
            last = Tensor(np.ascontiguousarray(actions[:, -1:]))
            v, _ = dit(x, Tensor(np.full((B, 1), level, np.float32)), last, past)
            return v
        whole = ops.concat(Tensor(np.ascontiguousarray(latents)), x, axis=1)
        labels = np.full((B, T + 1), STABLE, np.float32)
        labels[:, -1] = level
        v, _ = dit(whole, Tensor(labels), Tensor(np.ascontiguousarray(actions)))
        return ops.slice(v, 1, T, T + 1)

    # ---- what the frames before leave ----

    def seen(self, rows: Sequence[int] | np.ndarray, latents: np.ndarray, actions: np.ndarray) -> Past | None:
        """Of the frames before: those that the past lacks are seen once, at level STABLE."""
        past, T = self._gathered(rows), latents.shape[1]
        known = past.frames if past else 0
        if known < T:
            new, acts = (Tensor(np.ascontiguousarray(a[:, known:])) for a in (latents, actions))
            labels = Tensor(np.full((len(rows), T - known), STABLE, np.float32))
            _, more = self.model.dit(new, labels, acts, past, out=False)
            past = past.joined(more) if past else more
        self._forget(rows)
        if past is not None:
            self._past[tuple(int(r) for r in rows)] = past
        return past

    def _gathered(self, rows: Sequence[int] | np.ndarray) -> Past | None:
        """The past of these rows as one; None where one is missing, or they are of different lengths."""
        wanted = tuple(int(r) for r in rows)
        if wanted in self._past:
            return self._past[wanted]
        found = {r: (past, i) for key, past in self._past.items() for i, r in enumerate(key)}
        if any(r not in found for r in wanted) or len({found[r][0].frames for r in wanted}) != 1:
            return None
        return Past.stacked([found[r][0].row(found[r][1]) for r in wanted])

    def _forget(self, rows: Iterable[int]) -> None:
        """These rows have no past any more; the others keep theirs."""
        gone = {int(r) for r in rows}
        kept: dict[tuple[int, ...], Past] = {}
        for key, past in self._past.items():
            stay = [i for i, r in enumerate(key) if r not in gone]
            if len(stay) == len(key):
                kept[key] = past
            elif stay:
                kept[tuple(key[i] for i in stay)] = Past.stacked([past.row(i) for i in stay])
        self._past = kept

    def _stream(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        return Tensor(np.ascontiguousarray(self.state["stream"].numpy()[np.asarray(rows, np.int64)]))
