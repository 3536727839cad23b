"""loop: the only part the training recipes share: how long, what to log, where to save, how to go on.

A run is a folder: `log.jsonl` (one object a step logged; what is not finite is null), TensorBoard events if
tensorboardX is there, `state.safetensors` (everything needed to go on bit for bit), `settings.json`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import read_metadata, read_tensors, write_atomically, write_tensors


class Diverged(RuntimeError):
    """Training met NaN or infinity; the last good checkpoint is kept."""


class Budget:
    """How long: steps, minutes, or both (whichever ends first).  Iterating yields step numbers and shows
    progress."""

    def __init__(
        self,
        steps: int | None,
        minutes: float | None,
        name: str,
        done: int = 0,
        seconds: float = 0.0,
        quiet: bool = False,
    ):
        if steps is None and minutes is None:
            raise ValueError(f"{name}: say how long: steps or minutes")
        if (steps is not None and steps < 0) or (minutes is not None and not minutes >= 0):
            raise ValueError(f"{name}: steps and minutes must be at least 0, got {steps} and {minutes}")
        self.steps, self.minutes, self.name, self.quiet = steps, minutes, name, quiet
        self.done, self._before, self._began = done, seconds, time.monotonic()
        self.stopped = False
        self._paused = 0.0

    @property
    def seconds(self) -> float:
        """Spent so far, earlier runs of a resumed one included, pauses not."""
        return self._before + time.monotonic() - self._began - self._paused

    @property
    def fraction(self) -> float:
        """0 at the beginning, 1 when the budget is spent."""
        parts = [0.0]
        if self.steps:
            parts.append(self.done / self.steps)
        if self.minutes:
            parts.append(self.seconds / (60 * self.minutes))
        return min(1.0, max(parts))

    def spent(self) -> bool:
        return (self.steps is not None and self.done >= self.steps) or (
            self.minutes is not None and self.seconds >= 60 * self.minutes
        )

    def pause(self) -> _Pause:
        """`with budget.pause():` evaluation does not count as training time."""
        return _Pause(self)

    def __iter__(self) -> Iterator[int]:
        from tqdm import tqdm

        bar = tqdm(
            total=self.steps or round(60 * (self.minutes or 0)),
            initial=self.done if self.steps else round(self._before),
            unit="step" if self.steps else "s",
            desc=self.name,
            disable=self.quiet,
            dynamic_ncols=True,
            leave=True,
        )
        self.bar = bar
        with bar, _StopSignals(self):
            while not self.spent() and not self.stopped:
                self.done += 1  # before the step runs: what a step saves then counts it
                yield self.done - 1
                bar.update(1 if self.steps else max(0, min(round(self.seconds), bar.total) - bar.n))

    def note(self, **numbers: float) -> None:
        """Show numbers beside the bar."""
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in numbers.items()}, refresh=False)


class _Pause:
    def __init__(self, budget: Budget):
        self.budget = budget

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.budget._paused += time.monotonic() - self.began


class _StopSignals:
    """SIGTERM and the first Ctrl-C end the loop after the step at hand; the caller saves."""

    def __init__(self, budget: Budget):
        self.budget = budget

    def _stop(self, number: int, frame: Any) -> None:
        if self.budget.stopped:
            raise KeyboardInterrupt
        self.budget.stopped = True

    def __enter__(self) -> None:
        import threading

        self.old = {}
        if threading.current_thread() is threading.main_thread():
            self.old = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        for s, handler in self.old.items():
            signal.signal(s, handler)


class Run:
    """A run's folder: its log and its state."""

    def __init__(self, folder: str | os.PathLike[str] | None, settings: dict[str, Any]):
        self.folder = Path(folder) if folder is not None else None
        self._log: Any = None
        self._events: Any = None
        self.history: list[dict[str, float]] = []
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(
                self.folder / "settings.json", json.dumps(settings, indent=1, default=str).encode()
            )

    def log(self, step: int, **numbers: float) -> None:
        """One line; raises Diverged if a loss is not finite."""
        row = {"step": step, **{k: float(v) for k, v in numbers.items()}}
        self.history.append(row)
        if self.folder:
            if self._log is None:
                self._log = open(self.folder / "log.jsonl", "a")
                self._events = _events(self.folder)
            finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
            self._log.write(json.dumps(finite) + "\n")
            self._log.flush()
            if self._events:
                for k, v in numbers.items():
                    self._events.add_scalar(k, float(v), step)
        bad = [k for k, v in row.items() if not math.isfinite(v)]
        if bad:
            raise Diverged(f"step {step}: {', '.join(bad)} is not finite; the last good checkpoint is kept")

    @property
    def state_path(self) -> Path | None:
        return self.folder / "state.safetensors" if self.folder else None

    def save(self, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        if self.state_path:
            write_tensors(self.state_path, tensors, {"run": about})

    def load_about(self) -> dict[str, Any] | None:
        """What save wrote beside the tensors, or None."""
        there = self.state_path is not None and self.state_path.exists()
        return read_metadata(self.state_path)["run"] if there else None

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """What save wrote, or None."""
        if not self.state_path or not self.state_path.exists():
            return None
        tensors, about = read_tensors(self.state_path)
        return tensors, about["run"]

    def rewind(self, step: int) -> None:
        """Forget what was logged after a step: a killed run goes on from what it saved before."""
        path = self.folder / "log.jsonl" if self.folder else None
        if path and path.exists():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= step]
            if len(kept) < len(lines):
                self.close()
                write_atomically(path, "".join(line + "\n" for line in kept).encode())

    def close(self) -> None:
        if self._log:
            self._log.close()
            self._log = None
        if self._events:
            self._events.close()
            self._events = None


def _step(line: str) -> float:
    """The step of a line of the log; of a line that a kill cut short, infinity."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _events(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
