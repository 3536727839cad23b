"""pages: which frame of a cache's memory each slot of n environments is, so that what is the same is there once.

    table[i, s]   the page, one of n slots, that holds slot s of environment i
    users[p]      how many slots are page p

(1) A fork copies rows of the table, not frames.
(2) An environment writes into pages that are its own alone: where others use one too, it takes a free one instead.  It
    writes frames whole, so nothing is copied even then.
(3) There are as many pages as slots, so a page that k slots share leaves k - 1 free: one is always there.
"""

from __future__ import annotations

import numpy as np

from ..tensor import Tensor


class Pages:
    """table: (n,slots) int32, for ops.cache_write and ops.attention_cached."""

    def __init__(self, n: int, slots: int):
        self._where = np.arange(n * slots, dtype=np.int32).reshape(n, slots)
        self._users = np.ones(n * slots, np.int32)
        self.table = Tensor(self._where, copy=True)

    def share(self, row: int, rows: np.ndarray) -> None:
        """Environments rows have the frames of environment row from now on."""
        others = np.setdiff1d(rows, [row])
        np.subtract.at(self._users, self._where[others], 1)
        self._where[others] = self._where[row]
        self._users[self._where[row]] += len(others)
        self.table[...] = self._where

    def own(self, rows: np.ndarray, slots: np.ndarray) -> None:
        """Let environments rows write whole frames into slots, one or more of each: (rows,) or (rows,k)."""
        at = (rows.reshape(len(rows), *[1] * (slots.ndim - 1)), slots)
        if self._users[self._where[at]].max(initial=0) < 2:
            return
        pairs = np.broadcast_to(at[0], slots.shape).ravel(), slots.ravel()
        free = iter(np.flatnonzero(self._users == 0))
        for i, slot in zip(*pairs, strict=True):
            page = self._where[i, slot]
            if self._users[page] > 1:
                self._users[page] -= 1
                self._where[i, slot] = fresh = next(free)
                self._users[fresh] = 1
        self.table[...] = self._where

    def own_all(self, rows: np.ndarray) -> None:
        """The same for every slot: what they held is to be written over."""
        self.own(rows, np.broadcast_to(np.arange(self._where.shape[1]), (len(rows), self._where.shape[1])))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The pages of environments rows, (rows,slots)."""
        return self._where[rows]
