"""store: the columns of one replay and what its index says of them; shared by all splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import SlotTable, space_from_json
from .columns import Column
from .episode import Episode
from .index import FRAME, STEP, Index

CHECKED_AT_ONCE = 65_536  # steps read at a time while a replay is checked


class Store:
    """The files of one replay, shared by all its splits."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self.table = None if index.action_space is None else read_space(folder, index.action_space)
        width = self.table.row.itemsize if self.table else 0
        steps = sum(e.steps for e in index.episodes)
        frames = steps + len(index.episodes)
        layout = {
            "frames": ("uint8", index.frame_shape, frames),
            "actions": ("uint8", (width,), steps),
            "rewards": ("float64", (), steps),
            "terminated": ("uint8", (), steps),
            "truncated": ("uint8", (), steps),
        }
        if index.proprio:
            layout["proprio"] = ("float32", (index.proprio_width,), frames)
        for name, extra in index.extras.items():
            dtype = "uint8" if extra.dtype == "bool" else extra.dtype
            layout[name] = (dtype, extra.shape, steps if extra.per == STEP else frames)
        self.first_step = [0]
        for entry in index.episodes:
            self.first_step.append(self.first_step[-1] + entry.steps)
        self.columns = {name: self._column(name, *part) for name, part in layout.items()}
        self.dirty = False

    def _column(self, name: str, dtype: str, shape: tuple[int, ...], count: int) -> Column:
        column = Column(self.folder, name, dtype, shape, count)
        there = column.rows_on_disk()
        if there < count:
            ends = [self.span(i, self.per(name))[1] for i in range(len(self.index.episodes))]
            owner = self.name(int(np.searchsorted(ends, there, side="right")))
            per = "T+1 an episode of T steps" if self.per(name) == FRAME else "T an episode"
            raise ValueError(
                f"{column.path}: {owner}: the file ends after {there} rows; {count} are wanted ({per})"
            )
        return column

    def name(self, i: int) -> str:
        return self.index.episodes[i].name or f"episode {i}"

    def span(self, i: int, per: str) -> tuple[int, int]:
        """First and last+1 row of episode i in a column per step or per frame."""
        start, stop = self.first_step[i], self.first_step[i + 1]
        return (start, stop) if per == STEP else (start + i, stop + i + 1)

    def per(self, name: str) -> str:
        if name in self.index.extras:
            return self.index.extras[name].per
        return FRAME if name in ("frames", "proprio") else STEP

    def read(self, i: int, names: Sequence[str]) -> dict[str, np.ndarray]:
        out = {}
        for name in names:
            rows = self.columns[name].rows(*self.span(i, self.per(name)))
            out[name] = rows.view(np.bool_) if self.logical(name) else rows
        return out

    def check(self) -> None:
        """Raise ValueError, naming the episode, where a value is out of its range."""
        for name in self.columns:
            if self.logical(name):
                self._check_logical(name)
        names = [n for n in ("actions", "rewards", "terminated", "truncated", "proprio") if n in self.columns]
        for i, entry in enumerate(self.index.episodes):
            episode = Episode(frames=None, labelled=entry.labelled, **self.read(i, names))
            episode.check_values(self.table, f"{self.folder}: {self.name(i)}")

    def _check_logical(self, name: str) -> None:
        column = self.columns[name]
        for at in range(0, column.count, CHECKED_AT_ONCE):
            bad = column.rows(at, min(at + CHECKED_AT_ONCE, column.count)) > 1
            if bad.any():
                row = at + int(np.argwhere(bad)[0][0])
                ends = [self.span(i, self.per(name))[1] for i in range(len(self.index.episodes))]
                owner = self.name(int(np.searchsorted(ends, row, side="right")))
                raise ValueError(f"{self.folder}: {owner}: {name} must be 0 or 1")

    def logical(self, name: str) -> bool:
        extra = self.index.extras.get(name)
        return name in ("terminated", "truncated") or (extra is not None and extra.dtype == "bool")


def read_space(folder: Path, space: dict[str, Any]) -> SlotTable:
    try:
        return SlotTable.of(space_from_json(space))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'meta.json'}: action_space: {error}") from None
