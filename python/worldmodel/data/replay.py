"""replay: episodes on disk, exact pixels, larger than memory.

Format, version 1.  A replay is a folder of raw little-endian arrays, one file each, and an index:

    meta.json        what is here: see below; written last and atomically
    frames.bin       uint8    (N+E,H,W,C)   T+1 frames an episode, episodes one after another
    actions.bin      packed   (N,)          actions[t] leads from frames[t] to frames[t+1]; see below
    rewards.bin      float64  (N,)          for step t
    terminated.bin   uint8    (N,)          0 or 1; 1 only at the last step of an episode
    truncated.bin    uint8    (N,)          likewise
    proprio.bin      float32  (N+E,P)       only if meta.json lists "proprio"
    <extra>.bin      as listed in "extras": any further array, per "step" or per "frame"

N steps and E episodes in all.  An action is R bytes: the parts of the action space one after another (Dict
keys sorted), each in its own dtype and shape; a Discrete is one int64, a Box its numbers: see
`SlotTable.row`.  meta.json: {"format": "worldmodel-replay", "version": 1, "alignment": ..., "frame_shape":
[H, W, C], "action_space": {...} or null (no actions: R is 0), "observation_space", "environment" (what
`environment(**it)` rebuilds), "fps", "proprio": [{"name", "size"}, ...], "extras": {name: {"dtype", "shape",
"per"}}, "lossy", "episodes": [{"steps": T, "name", "seed", "labelled", "last_frame_known"}, ...]}.  Only
format, version, frame_shape, action_space and episodes are required, in an episode only "steps".

Invariants: (1) bytes beyond what the index counts mean nothing, so an interrupted append loses only itself;
(2) lengths and values are checked when a replay is opened, and a fault names the episode; (3) one process
writes at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import SlotTable, space_from_json, space_to_json
from .batch import Batch, Batches, Windows
from .episode import Episode
from .index import FRAME, ArraySpec, EpisodeEntry, Index, load_index
from .store import Store


class Replay:
    """Episodes of one environment (or video set).  Open with `Replay.open`, `create`, `from_arrays`,
    `from_minari`, `from_lerobot`, `from_video`.

    `len(replay)` is the number of episodes, `num_steps` of transitions.  `split` gives replays over the same
    files.
    """

    def __init__(self, store: Store, chosen: list[int] | None = None) -> None:
        self._store = store
        self._chosen = chosen  # None: all, also those appended later
        self._windows: dict[int, Windows] = {}

    # ---- making and opening ----

    @classmethod
    def open(cls, path: str | os.PathLike, check: bool = True) -> Replay:
        """Open a replay for reading and appending.

        Raises FileNotFoundError if nothing is there, ValueError (naming the episode) if the content is wrong.
        `check=False` skips the scan over actions, rewards and ends, not the check of lengths.
        """
        folder = Path(path)
        store = Store(folder, load_index(folder))
        if check:
            store.check()
        return cls(store)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        action_space: Any,
        frame_shape: tuple[int, int, int],
        *,
        observation_space: Any = None,
        environment: dict[str, Any] | None = None,
        fps: float | None = None,
        proprio: Sequence[tuple[str, int]] = (),
        extras: dict[str, ArraySpec] | None = None,
        lossy: bool = False,
    ) -> Replay:
        """An empty replay in a new folder.  `action_space=None`: no actions at all; `proprio`: (name, size)
        of its parts.

        Raises FileExistsError if a replay is there already.
        """
        folder = Path(path)
        if (folder / "meta.json").exists():
            raise FileExistsError(f"{folder}: holds a replay already; open it to append, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        spaces = [None if s is None else space_to_json(s) for s in (action_space, observation_space)]
        parts = [{"name": str(name), "size": int(size)} for name, size in proprio]
        shape = tuple(int(n) for n in frame_shape)
        Index(shape, *spaces, environment, fps, parts, dict(extras or {}), [], lossy).save(folder)
        return cls(Store(folder, load_index(folder)))

    @classmethod
    def from_arrays(cls, path: str | os.PathLike, action_space: Any, episodes: Any, **kwargs: Any) -> Replay:
        """A new replay from NumPy arrays: see `worldmodel.data.convert.from_arrays`."""
        from .convert import from_arrays

        return from_arrays(path, action_space, episodes, **kwargs)

    @classmethod
    def from_minari(cls, dataset: Any, path: str | os.PathLike | None = None, **kwargs: Any) -> Replay:
        """A new replay from a Minari dataset (its id, or the dataset): see
        `worldmodel.data.convert.from_minari`.
        """
        from .convert import from_minari

        return from_minari(dataset, path, **kwargs)

    @classmethod
    def from_video(cls, files: Any, path: str | os.PathLike | None = None, **kwargs: Any) -> Replay:
        """A new replay from video files, with or without actions: see
        `worldmodel.data.convert.from_video`.
        """
        from .convert import from_video

        return from_video(files, path, **kwargs)

    @classmethod
    def from_lerobot(cls, folder: Any, path: str | os.PathLike | None = None, **kwargs: Any) -> Replay:
        """A new replay from a LeRobot dataset's folder (versions 2.0, 2.1, 3.0): see
        `worldmodel.data.lerobot.from_lerobot`.
        """
        from .lerobot import from_lerobot

        return from_lerobot(folder, path, **kwargs)

    def to_minari(self, dataset_id: str, **kwargs: Any) -> Any:
        """Export to a local Minari dataset, pixels exact: see `worldmodel.data.convert.to_minari`."""
        from .convert import to_minari

        return to_minari(self, dataset_id, **kwargs)

    # ---- what is in it ----

    @property
    def path(self) -> Path:
        return self._store.folder

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self._store.index.frame_shape

    @property
    def action_space(self) -> Any:
        """The Gymnasium space of the actions, or None."""
        return self.table.space if self.table else None

    @property
    def table(self) -> SlotTable | None:
        """The slots of the action space; packs, unpacks and turns actions into features."""
        return self._store.table

    @property
    def observation_space(self) -> Any:
        """The space of the frames: Box uint8 (H,W,C), unless another was recorded."""
        if self._store.index.observation_space is not None:
            return space_from_json(self._store.index.observation_space)
        from gymnasium.spaces import Box

        return Box(0, 255, self.frame_shape, np.uint8)

    @property
    def proprio_parts(self) -> list[tuple[str, int]]:
        """(name, size) of the parts of the proprioception vector; empty if there is none."""
        return [(part["name"], part["size"]) for part in self._store.index.proprio]

    @property
    def environment(self) -> dict[str, Any] | None:
        """Keyword arguments for `worldmodel.data.environment` that rebuild the real environment, or None."""
        return self._store.index.environment

    @property
    def fps(self) -> float | None:
        """Frames a second at which the recording plays in real time, if known."""
        return self._store.index.fps

    @property
    def lossy(self) -> bool:
        """The pixels went through a lossy codec before they came here."""
        return self._store.index.lossy

    @property
    def episodes(self) -> list[int]:
        """Numbers of this replay's episodes within its files."""
        return list(range(len(self._store.index.episodes))) if self._chosen is None else self._chosen

    def __len__(self) -> int:
        return len(self._store.index.episodes) if self._chosen is None else len(self._chosen)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, (len(self),) int64."""
        entries = self._store.index.episodes
        return np.array([entries[i].steps for i in self.episodes], np.int64)

    @property
    def num_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_frames(self) -> int:
        return self.num_steps + len(self)

    def __repr__(self) -> str:
        H, W, C = self.frame_shape
        return f"Replay({str(self.path)!r}: {len(self)} episodes, {self.num_steps} steps, frames {H}x{W}x{C})"

    # ---- episodes ----

    def episode(self, i: int) -> Episode:
        """Episode i as read-only views of the files (nothing is copied).  Negative i counts from the end."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)}")
        number = self.episodes[i] if self._chosen is not None else i % len(self)
        entry = self._store.index.episodes[number]
        arrays = self._store.read(number, list(self._store.columns))
        extras = {name: arrays.pop(name) for name in self._store.index.extras}
        return Episode(
            **arrays,
            extras=extras,
            name=self._store.name(number),
            seed=entry.seed,
            labelled=entry.labelled,
            last_frame_known=entry.last_frame_known,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(i) for i in range(len(self)))

    def start(self, i: int) -> np.ndarray:
        """The first frame of episode i, (H,W,C) uint8, a copy."""
        return np.array(self.episode(i).frames[0])

    def pack(self, actions: Any) -> np.ndarray:
        """T actions (a list, or Gymnasium's batched form) -> rows (T,R) uint8.  Raises ValueError outside
        the space.
        """
        return self.table.pack_batch(actions) if self.table else np.zeros((len(actions), 0), np.uint8)

    def unpack(self, rows: np.ndarray) -> Any:
        """Rows (T,R) uint8 -> T actions in Gymnasium's batched form (an array for a flat space); None
        without actions.
        """
        return self.table.unpack_batch(rows) if self.table else None

    def features(self, batch: Batch) -> np.ndarray:
        """What a network reads of a batch's actions, (B,T,F) float32; zeros where they are not known."""
        B, T = batch.mask.shape
        if self.table is None:
            return np.zeros((B, T, 0), np.float32)
        actions = self.table.unpack_batch(batch.actions.reshape(B * T, -1))
        return self.table.features_batch(actions, batch.known.reshape(-1)).reshape(B, T, -1)

    # ---- writing ----

    def append(self, episode: Episode, commit: bool = True) -> int:
        """Add an episode (checked first) and return its number.  With `commit=False` it counts on disk from
        the next `commit`.

        Raises ValueError if the episode is wrong, OSError if the disk is full: what was there before stays.
        """
        if self._chosen is not None:
            raise ValueError("append: this is a split; append to the whole replay")
        store, index = self._store, self._store.index
        number = len(index.episodes)
        name = episode.name or f"episode {number}"
        episode.check(store.table, index.frame_shape, index.proprio_width, name)
        arrays = {n: getattr(episode, n) for n in store.columns if n not in index.extras}
        arrays |= {n: _extra_rows(n, spec, episode, name) for n, spec in index.extras.items()}
        if not episode.labelled:
            arrays["actions"] = np.zeros_like(episode.actions)
        kept_name = "" if name == f"episode {number}" else name
        entry = EpisodeEntry(
            len(episode), kept_name, episode.seed, episode.labelled, episode.last_frame_known
        )
        counts = {n: column.count for n, column in store.columns.items()}
        try:
            for n, rows in arrays.items():
                store.columns[n].append(rows)
            index.episodes.append(entry)
            store.first_step.append(store.first_step[-1] + len(episode))
        except BaseException:  # a full disk, Ctrl-C: as if it had never begun
            for n, count in counts.items():
                store.columns[n].count = count
            del index.episodes[number:], store.first_step[number + 1 :]
            raise
        store.dirty = True
        self._windows.clear()
        if commit:
            self.commit()
        return number

    def commit(self) -> None:
        """Make appended episodes durable: sync the arrays, then replace the index atomically."""
        if self._store.dirty:
            for column in self._store.columns.values():
                column.sync()
            self._store.index.save(self._store.folder)
            self._store.dirty = False

    def close(self) -> None:
        """Commit and let go of the files."""
        self.commit()
        for column in self._store.columns.values():
            column.close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    # ---- learning from it ----

    def windows(self, length: int) -> Windows:
        """The law by which windows of `length` frames are drawn; kept until the replay grows."""
        if length not in self._windows:
            self._windows[length] = Windows(self.lengths + 1, length)
        return self._windows[length]

    def sample(self, rng: np.random.Generator | int, batch: int, length: int) -> Batch:
        """Draw `batch` windows of `length` frames; see `Batch` for shapes and masks.

        One 64-bit word of `rng` decides each window, so a batch of 16 equals two of 8.  An int seeds a fresh
        generator.
        """
        rng = np.random.default_rng(rng) if isinstance(rng, (int, np.integer)) else rng
        return self.gather(*self.windows(length).draw(rng.integers(0, 2**64, batch, np.uint64)), length)

    def batches(
        self, batch: int, length: int, seed: int | np.random.Generator = 0, *, prefetch: int = 2
    ) -> Batches:
        """Endless batches, read ahead by one thread; order depends only on seed and position, and resumes
        bit for bit.

        See `Batches.state` and `Batches.set_state`.  `prefetch=0` reads in the calling thread.
        """
        if isinstance(seed, np.random.Generator):
            seed = int(seed.integers(0, 2**63))
        return Batches(self, batch, length, seed, prefetch)

    def gather(self, which: np.ndarray, start: np.ndarray, length: int) -> Batch:
        """The windows of `length` frames that begin at frame `start[b]` of this replay's episode
        `which[b]`.
        """
        store = self._store
        numbers = which if self._chosen is None else np.asarray(self._chosen, np.int64)[which]
        entries = [store.index.episodes[int(n)] for n in numbers]
        steps = np.array([e.steps for e in entries], np.int64)[:, None]
        first = np.array([store.first_step[int(n)] for n in numbers], np.int64)[:, None]
        time = np.asarray(start, np.int64)[:, None] + np.arange(length)
        if (time[:, 0] < 0).any() or (time[:, :1] > steps).any():
            raise ValueError("gather: a window begins outside its episode")
        mask, acted = time <= steps, time < steps
        labelled = np.array([e.labelled for e in entries], bool)[:, None]
        known_last = np.array([e.last_frame_known for e in entries], bool)[:, None]
        step_row = first + np.minimum(time, steps - 1)
        frame_row = first + numbers[:, None] + np.minimum(time, steps)
        fields = {
            n: store.columns[n].gather(step_row) for n in ("actions", "rewards", "terminated", "truncated")
        }
        known = acted & labelled
        fields["actions"][~known] = 0
        fields["rewards"][~acted] = 0
        proprio = store.columns["proprio"].gather(frame_row) if store.index.proprio else None
        return Batch(
            frames=self._frames(frame_row, mask),
            actions=fields["actions"],
            rewards=fields["rewards"],
            terminated=(fields["terminated"] != 0) & acted,
            truncated=(fields["truncated"] != 0) & acted,
            mask=mask,
            acted=acted,
            known=known,
            frame_known=mask & (known_last | acted),
            is_first=mask & (time == 0),
            proprio=proprio,
            episode=np.asarray(which, np.int64),
            start=np.asarray(start, np.int64),
        )

    def _frames(self, frame_row: np.ndarray, mask: np.ndarray) -> np.ndarray:
        B, T = frame_row.shape
        out = np.empty((B, T, *self.frame_shape), np.uint8)
        column = self._store.columns["frames"]
        for b, count in enumerate(mask.sum(1)):
            column.read_into(out[b, :count], int(frame_row[b, 0]))
            out[b, count:] = out[b, count - 1]
        return out

    def held_out(self, share: float, seed: int = 0) -> tuple[Replay, Replay]:
        """(for training, to measure with): split that keeps a share of the episodes back; of a share of 0, or a single
        episode, this replay twice."""
        return self.split(1 - share, seed) if share and len(self) > 1 else (self, self)

    def split(self, fraction: float, seed: int = 0) -> tuple[Replay, Replay]:
        """Two replays over the same files: about `fraction` of the episodes, and the rest; no episode is in
        both.

        With two episodes or more, neither is empty.  Raises ValueError unless 0 < fraction < 1 and there are
        two.
        """
        if not 0 < fraction < 1 or len(self) < 2:
            raise ValueError(
                f"split: wanted 0 < fraction < 1 of at least 2 episodes, got {fraction} of {len(self)}"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        cut = min(max(round(fraction * len(self)), 1), len(self) - 1)
        own = self.episodes
        first, second = (sorted(own[i] for i in part) for part in (order[:cut], order[cut:]))
        return Replay(self._store, first), Replay(self._store, second)

    def contact_sheet(self, path: str | os.PathLike | None = None, **kwargs: Any) -> np.ndarray:
        """Episodes down, time across, as a PNG: see `worldmodel.data.render.contact_sheet`."""
        from .render import contact_sheet

        return contact_sheet(self, path, **kwargs)

    def film(self, i: int, path: str | os.PathLike, **kwargs: Any) -> None:
        """Episode i as .mp4 (every pixel kept) or .gif: see `worldmodel.data.render.save_mp4`, `save_gif`.

        Raises ValueError on another kind of file, ImportError where PyAV or Pillow is missing.
        """
        from .render import save_gif, save_mp4

        kinds = {".mp4": save_mp4, ".gif": save_gif}
        save = kinds.get(Path(path).suffix)
        if save is None:
            raise ValueError(f"film: wanted a .mp4 or .gif file, got {path}")
        save(path, self.episode(i).frames, **({"fps": self.fps or 15.0} | kwargs))

    def statistics(self) -> dict[str, Any]:
        """Numbers of the whole replay: see `worldmodel.data.statistics.statistics`."""
        from .statistics import statistics

        return statistics(self)


def _extra_rows(name: str, spec: ArraySpec, episode: Episode, episode_name: str) -> np.ndarray:
    rows = episode.extras.get(name)
    wanted = (len(episode) + (spec.per == FRAME), *spec.shape)
    if not isinstance(rows, np.ndarray) or rows.shape != wanted or rows.dtype != np.dtype(spec.dtype):
        got = None if rows is None else f"{np.asarray(rows).dtype} {np.shape(rows)}"
        raise ValueError(f"{episode_name}: {name} must be {spec.dtype} {wanted}, got {got}")
    return rows.view(np.uint8) if spec.dtype == "bool" else rows
