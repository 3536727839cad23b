"""batch: windows of experience for training, drawn by a counter-based law and read ahead by one thread.

Windows: an episode of n frames has n + L - 1 windows of L frames that show any of it; draw one uniformly
among those of all episodes, then shift it into its episode.  No padding is wasted on long episodes, and
first and last frames (rewards, ends) are seen as often as the others.  Episodes shorter than L are padded at
the end.  One 64-bit word w
decides: floor(w S / 2^64) of the S windows.

Batches: the word of sample number n is Philox4x32-10 (Salmon et al. 2011) of counter n under the key `seed`,
so the order depends only on seed and position: not on the batch size, threads or how often it was
interrupted.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .replay import Replay


@dataclass
class Batch:
    """B windows of T frames.  The action of frame t leads to frame t+1, as everywhere.

    frames (B,T,H,W,C) uint8 · actions (B,T,R) uint8, packed, 0 where not known (`Replay.features`, `unpack`)
    · rewards (B,T) float64 and terminated, truncated (B,T) bool: of the step that leaves frame t ·
    mask (B,T): the frame exists (else it repeats the last one) · acted: a step leaves this frame (false at
    the last frame of an episode) · known: and its action is known · frame_known: the picture is the
    environment's own (see `Episode.last_frame_known`) · is_first: first frame of its episode · proprio
    (B,T,P) float32 or None · episode, start (B,) int64: where the windows come from.
    """

    frames: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    acted: np.ndarray
    known: np.ndarray
    frame_known: np.ndarray
    is_first: np.ndarray
    proprio: np.ndarray | None
    episode: np.ndarray
    start: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """terminated or truncated, (B,T) bool."""
        return self.terminated | self.truncated

    def arriving(self) -> dict[str, np.ndarray]:
        """The same steps seen from the frame they lead to: row t holds the step t-1 -> t; row 0 is empty.

        actions (B,T,R), rewards (B,T), terminated (B,T), truncated (B,T), stepped (B,T): the step exists,
        known (B,T).
        """
        parts = {k: getattr(self, k) for k in ("actions", "rewards", "terminated", "truncated", "known")}
        out = {}
        for name, array in (parts | {"stepped": self.acted}).items():
            out[name] = np.zeros_like(array)
            out[name][:, 1:] = array[:, :-1]
        return out


class Windows:
    """The law of drawing windows of `length` frames from episodes of `frames` (E,) frames each."""

    def __init__(self, frames: np.ndarray, length: int) -> None:
        if length < 1:
            raise ValueError(f"windows: length must be at least 1, got {length}")
        if len(frames) == 0:
            raise ValueError("windows: the replay has no episodes yet")
        self.frames, self.length = np.asarray(frames, np.int64), int(length)
        self.stop = np.cumsum(self.frames + self.length - 1)
        if int(self.stop[-1]) >= 2**53:
            raise ValueError(f"windows: {self.stop[-1]} windows are too many to number")

    def draw(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """words (B,) uint64 -> which episode (B,), first frame within it (B,)."""
        number = ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 * int(self.stop[-1])).astype(
            np.int64
        )
        which = np.searchsorted(self.stop, number, side="right")
        frames = self.frames[which]
        start = number - self.stop[which] + frames
        return which, np.clip(start, 0, np.maximum(frames - self.length, 0))


def philox(seed: int, counter: np.ndarray) -> np.ndarray:
    """Philox4x32-10: words 0 and 1 of the block at each 64-bit counter (B,), under a 64-bit key -> (B,)
    uint64.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    key0, key1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    counter = np.asarray(counter, np.uint64)
    c0, c1 = counter & low, counter >> shift
    c2 = c3 = np.zeros_like(counter)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(key0),
            p1 & low,
            (p0 >> shift) ^ c3 ^ np.uint64(key1),
            p0 & low,
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0 | (c1 << shift)


class Batches:
    """An endless iterator of `Batch`, read ahead by one thread.  Close it, or use it in a `with` block.

    The episodes are those present when it was made; after appending, make another one.
    """

    def __init__(self, replay: Replay, batch: int, length: int, seed: int, prefetch: int = 2) -> None:
        if batch < 1 or not 0 <= seed < 2**64:
            raise ValueError(f"batches: wanted batch >= 1 and a seed of 64 bits, got {batch} and {seed}")
        self.replay, self.batch, self.length, self.seed, self.prefetch = replay, batch, length, seed, prefetch
        self._windows = replay.windows(length)
        self._position = 0  # samples handed out
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._queue: queue.Queue = queue.Queue()

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self.prefetch < 1:
            out = self._read(self._position)
        else:
            if self._thread is None:
                self._begin()
            out = self._queue.get()
            if isinstance(out, BaseException):
                self.close()
                raise out
        self._position += self.batch
        return out

    def state(self) -> dict[str, int]:
        """Where we are: batches handed out count, batches read ahead do not.  Plain numbers, ready for
        JSON.
        """
        frames = self._windows.frames
        place = {"seed": self.seed, "position": self._position, "length": self.length}
        return place | {"episodes": len(frames), "frames": int(frames.sum())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state()` was taken.  Raises ValueError if the replay or the window
        length differ.
        """
        own = self.state()
        for key in ("length", "episodes", "frames"):
            if state.get(key) != own[key]:
                raise ValueError(
                    f"batches: the state is of {key} {state.get(key)}, this replay has {own[key]}"
                )
        self.close()
        self.seed, self._position = int(state["seed"]), int(state["position"])

    def close(self) -> None:
        """Stop reading ahead; the next batch starts it again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _read(self, position: int) -> Batch:
        words = philox(self.seed, np.arange(position, position + self.batch, dtype=np.uint64))
        return self.replay.gather(*self._windows.draw(words), self.length)

    def _begin(self) -> None:
        self._stop, self._queue = threading.Event(), queue.Queue(self.prefetch)
        args = (self._position, self._stop, self._queue)
        self._thread = threading.Thread(
            target=self._read_ahead, args=args, name="worldmodel-batches", daemon=True
        )
        self._thread.start()

    def _read_ahead(self, position: int, stop: threading.Event, out: queue.Queue) -> None:
        while not stop.is_set():
            try:
                item = self._read(position)
            except BaseException as error:  # handed to the reader, which raises it
                item = error
            position += self.batch
            while not stop.is_set():
                try:
                    out.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
