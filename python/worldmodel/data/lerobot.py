"""lerobot: datasets of LeRobot's layouts (Hugging Face), versions 2.0, 2.1 and 3.0, from a local folder.

    meta/info.json                                            fps, features, path templates
    2.x   meta/episodes.jsonl                                 one line an episode
          data/chunk-000/episode_000000.parquet               one file an episode
          videos/chunk-000/<camera>/episode_000000.mp4
    3.0   meta/episodes/chunk-000/file-000.parquet            one row an episode: its files, its place in the films
          data/chunk-000/file-000.parquet                     many episodes a file
          videos/<camera>/chunk-000/file-000.mp4              from_timestamp + timestamp is a frame's time

Row t holds what was seen at t and the action taken there, so N rows are N frames and N - 1 steps: the last action led
to a picture nobody kept.  Where the data has `next.reward` or `next.done` that step is kept, with the last picture
repeated and marked unknown (`last_frame_known`).
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .convert import LossyPixels, _place, from_arrays
from .extras import need
from .replay import Replay
from .resize import resize_area
from .video import is_exact

NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


def from_lerobot(
    folder: str | Path,
    path: str | Path | None = None,
    *,
    frames: tuple[int, int] | None = (64, 64),
    camera: str | None = None,
    action_space: Any = None,
    proprio: Sequence[str] | None = None,
    episodes: Sequence[int] | None = None,
    done_means: str = "terminated",
) -> Replay:
    """A new replay from a LeRobot dataset on disk (what `huggingface-cli download` leaves, or LeRobot recorded).

    Args:
        folder: the one that holds meta/info.json.
        path: a new folder; None: runs/<name of the folder>/replay.
        frames: (height, width) to resize to; None keeps the size.
        camera: which video or image feature; None: the only one.
        action_space: space of the actions; None: a Box of the range that occurs, for whole numbers Discrete or
            MultiDiscrete, for bools MultiBinary.
        proprio: vectors to keep as proprioception; None: every `observation.*` vector of numbers.
        episodes: their numbers; None: all.
        done_means: "terminated" or "truncated", where `next.done` is true and no `next.truncated` says which.

    Lossy films and pictures are read with a `LossyPixels` warning.  Tasks (the words) are not kept.
    Raises ImportError without pyarrow or PyAV; FileNotFoundError for a missing file; ValueError, naming file or
    episode, for another version, a missing feature, a wrong length, a film without the frame.
    """
    for package in ("pyarrow.parquet", "av"):
        need(package, "from_lerobot", "lerobot")
    if done_means not in ("terminated", "truncated"):
        raise ValueError(f'from_lerobot: done_means is "terminated" or "truncated", got {done_means!r}')
    source = _Source(Path(folder))
    source.choose(camera, proprio)
    chosen = source.episodes if episodes is None else [source.entry(i) for i in episodes]
    if not chosen:
        raise ValueError(f"{folder}: no episodes")
    space = source.action_space(chosen) if action_space is None else action_space
    given = (_episode(source, entry, frames, done_means) for entry in chosen)
    options = {"proprio": source.parts(), "fps": source.fps}
    replay = from_arrays(_place(path, Path(folder).resolve().name), space, given, **options)
    if source.lossy:
        index = replay._store.index
        index.lossy = True
        index.save(replay.path)
        warnings.warn(f"{folder}: {source.camera} went through a lossy codec", LossyPixels, stacklevel=2)
    return replay


@dataclass
class Entry:
    """An episode: its number, rows, and the parts of its files' names; begin: its time in the film, seconds."""

    number: int
    rows: int
    data: dict[str, int]
    video: dict[str, int]
    begin: float = 0.0

    @property
    def name(self) -> str:
        return f"episode {self.number}"


class _Source:
    """A dataset's folder, read as it is asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        file = folder / "meta" / "info.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not there; wanted the folder of a LeRobot dataset")
        try:
            self.info = json.loads(file.read_text())
            self.features = {str(k): v | {"shape": list(v["shape"])} for k, v in self.info["features"].items()}
            self.version = str(self.info["codebase_version"]).lstrip("v")
            self.fps, self.data_path = float(self.info["fps"]), str(self.info["data_path"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not LeRobot's info.json ({type(error).__name__}: {error})") from None
        if not self.version.startswith(("2.", "3.")) or not self.fps > 0:
            raise ValueError(f"{file}: versions 2.0 to 3.0 are read, this one says {self.version}, {self.fps} frames/s")
        self.lossy = False
        self._table: tuple[Path, Any] | None = None

    # ---- which features ----

    def choose(self, camera: str | None, proprio: Sequence[str] | None) -> None:
        cameras = [k for k, f in self.features.items() if f.get("dtype") in ("video", "image") and not _depth(f)]
        if camera is None and len(cameras) != 1 or camera is not None and camera not in cameras:
            what = f"camera {camera!r} is not" if camera else "say which camera"
            raise ValueError(f"{self.folder}: {what}: there are {', '.join(cameras) or 'none'}")
        self.camera = camera or cameras[0]
        self.entries = self._old_entries() if self.version.startswith("2.") else self._new_entries()
        if "action" not in self.features:
            raise ValueError(f"{self.folder}: no feature 'action', only {', '.join(self.features)}")
        vectors = [
            k
            for k, f in self.features.items()
            if k.startswith("observation.") and f.get("dtype") in NUMBERS and len(f["shape"]) == 1
        ]
        wrong = [k for k in proprio or () if k not in vectors]
        if wrong:
            raise ValueError(f"{self.folder}: proprio {', '.join(wrong)}: wanted of {', '.join(vectors) or 'none'}")
        self.vectors = vectors if proprio is None else list(proprio)

    def parts(self) -> list[tuple[str, int]]:
        """(name, size) of the proprioception's parts."""
        return [(k.removeprefix("observation."), self.features[k]["shape"][0]) for k in self.vectors]

    @property
    def episodes(self) -> list[Entry]:
        return [self.entries[i] for i in sorted(self.entries)]

    def entry(self, number: int) -> Entry:
        if number not in self.entries:
            raise ValueError(f"{self.folder}: no episode {number}; there are {len(self.entries)}")
        return self.entries[number]

    def _old_entries(self) -> dict[int, Entry]:
        file, found = self.folder / "meta" / "episodes.jsonl", {}
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not there")
        chunk = int(self.info.get("chunks_size") or 1000)
        for number, line in enumerate(file.read_text().splitlines()):
            if line.strip():
                try:
                    row = json.loads(line)
                    i, rows = int(row["episode_index"]), int(row["length"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{file}, line {number + 1}: {error}") from None
                where = {"episode_chunk": i // chunk, "episode_index": i}
                found[i] = Entry(i, rows, where, where)
        return found

    def _new_entries(self) -> dict[int, Entry]:
        files = sorted((self.folder / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise FileNotFoundError(f"{self.folder / 'meta' / 'episodes'}: no parquet files in it")
        keys = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        film = [f"videos/{self.camera}/{k}" for k in ("chunk_index", "file_index", "from_timestamp")]
        keys += film if self.features[self.camera]["dtype"] == "video" else []
        found = {}
        for file in files:
            for row in self.read(file, keys).to_pylist():
                if any(v is None for v in row.values()):
                    raise ValueError(f"{file}: episode {row['episode_index']}: a number is missing")
                i, rows, chunk, index, *more = (row[k] for k in keys)
                video = {"chunk_index": more[0], "file_index": more[1]} if more else {}
                place = {"chunk_index": chunk, "file_index": index}
                found[i] = Entry(i, rows, place, video, more[2] if more else 0.0)
        return found

    # ---- files ----

    def file(self, template: Any, **parts: Any) -> Path:
        """The file that a template of info.json names; it must lie in the folder."""
        try:
            name = PurePosixPath(str(template).format(**parts))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"{self.folder}: the path {template!r} of info.json: {error!r}") from None
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{self.folder}: the path {name} of info.json leaves the folder")
        file = self.folder / name
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not there")
        return file

    def read(self, file: Path, columns: list[str]) -> Any:
        """These columns of a parquet file."""
        import pyarrow
        import pyarrow.parquet

        try:
            there = pyarrow.parquet.read_schema(file).names
            missing = [c for c in columns if c not in there]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}")
            return pyarrow.parquet.read_table(file, columns=columns)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None

    def rows(self, entry: Entry) -> Any:
        """The table of an episode's rows, in order; the file read last is kept."""
        import pyarrow.compute as compute

        file = self.file(self.data_path, **entry.data)
        if self._table is None or self._table[0] != file:
            extra = [k for k in ("next.reward", "next.done", "next.truncated") if k in self.features]
            extra += [self.camera] if self.features[self.camera]["dtype"] == "image" else []
            keys = ["episode_index", "frame_index", "timestamp", "action", *self.vectors, *extra]
            self._table = (file, self.read(file, keys))
        table = self._table[1]
        table = table.filter(compute.equal(table["episode_index"], entry.number)).sort_by("frame_index")
        if len(table) != entry.rows or len(table) < 2:
            raise ValueError(f"{file}: {entry.name}: {entry.rows} rows wanted, at least 2, got {len(table)}")
        return table

    def column(self, table: Any, key: str, entry: Entry) -> np.ndarray:
        """A feature of an episode, (N, *shape), a single number (N,)."""
        feature, N = self.features[key], len(table)
        shape = [] if feature["shape"] in ([1], []) else feature["shape"]
        if feature.get("dtype") not in NUMBERS:
            raise ValueError(f"{self.folder}: {key} must be numbers, it is {feature.get('dtype')}")
        try:
            values = np.array(table[key].to_pylist(), feature["dtype"])
            return values.reshape(N, *shape)
        except (ValueError, TypeError) as error:
            wanted = f"{key} must be {feature['dtype']} {shape}"
            raise ValueError(f"{self.folder}: {entry.name}: {wanted}: {error}") from None

    def action_space(self, chosen: list[Entry]) -> Any:
        """A space that holds every action of these episodes."""
        from gymnasium import spaces

        low = high = None
        for entry in chosen:
            actions = self.column(self.rows(entry), "action", entry)
            if not np.isfinite(actions).all():
                raise ValueError(f"{self.folder}: {entry.name}: an action is not finite")
            low = actions.min(0) if low is None else np.minimum(low, actions.min(0))
            high = actions.max(0) if high is None else np.maximum(high, actions.max(0))
        if low.dtype == np.bool_:
            return spaces.MultiBinary(low.shape or 1)
        if low.dtype.kind in "iu":
            n, start = (high.astype(np.int64) - low + 1), low.astype(np.int64)
            return spaces.Discrete(int(n), start=int(start)) if n.ndim == 0 else spaces.MultiDiscrete(n, start=start)
        low, high = (np.atleast_1d(a).astype(np.float32) for a in (low, high))
        still = low == high  # what never moved may still move
        return spaces.Box(np.where(still, low - 1, low), np.where(still, high + 1, high), dtype=np.float32)

    # ---- pictures ----

    def pictures(self, entry: Entry, table: Any) -> Iterator[np.ndarray]:
        """The episode's frames, (H,W,3) uint8, one a row."""
        if self.features[self.camera]["dtype"] == "image":
            return self._stills(entry, table)
        file = self.file(self.info.get("video_path"), video_key=self.camera, **entry.video)
        return self._film(file, entry, np.array(table["timestamp"].to_pylist(), np.float64).reshape(-1) + entry.begin)

    def _film(self, file: Path, entry: Entry, times: np.ndarray) -> Iterator[np.ndarray]:
        """The frames of a film at these times (seconds, rising)."""
        import av

        within = 0.25 / self.fps
        try:
            with av.open(str(file)) as container:
                stream = container.streams.video[0]
                self.lossy |= not is_exact(stream)
                container.seek(max(0, int((times[0] - within) / stream.time_base)), stream=stream)
                i = 0
                for frame in container.decode(stream):
                    if frame.time is None or frame.time < times[i] - within:
                        continue
                    if frame.time > times[i] + within:
                        break
                    yield frame.to_ndarray(format="rgb24")
                    i += 1
                    if i == len(times):
                        return
        except (av.error.FFmpegError, IndexError) as error:
            raise ValueError(f"{file}: not a video that can be decoded ({error})") from None
        raise ValueError(f"{file}: {entry.name}: no frame at {times[i]:.3f} s (row {i} of {len(times)})")

    def _stills(self, entry: Entry, table: Any) -> Iterator[np.ndarray]:
        import av

        for i, cell in enumerate(table[self.camera].to_pylist()):
            data = (cell or {}).get("bytes") if isinstance(cell, dict) else None
            if not data:
                raise ValueError(f"{self.folder}: {entry.name}: row {i} of {self.camera} holds no picture")
            try:
                with av.open(io.BytesIO(data)) as container:
                    self.lossy |= not is_exact(container.streams.video[0])
                    yield next(container.decode(video=0)).to_ndarray(format="rgb24")
            except (av.error.FFmpegError, IndexError, StopIteration) as error:
                raise ValueError(f"{self.folder}: {entry.name}: row {i}: not a picture ({error})") from None


def _depth(feature: dict[str, Any]) -> bool:
    about = feature.get("info") or {}
    return bool(about.get("video.is_depth_map") or about.get("is_depth_map"))


def _episode(source: _Source, entry: Entry, size: tuple[int, int] | None, done_means: str) -> dict[str, Any]:
    """An episode as from_arrays takes it."""
    table = source.rows(entry)
    seen: Iterable[np.ndarray] = source.pictures(entry, table)
    frames = np.stack([p if size is None else resize_area(p, size) for p in seen])
    actions = source.column(table, "action", entry)
    if actions.ndim == 1 and actions.dtype.kind == "f":
        actions = actions[:, None]
    numbers = [source.column(table, k, entry).reshape(len(table), -1) for k in source.vectors]
    proprio = np.concatenate(numbers, 1).astype(np.float32) if numbers else None
    ends = {
        k: source.column(table, f"next.{k}", entry)
        for k in ("reward", "done", "truncated")
        if f"next.{k}" in source.features
    }
    out: dict[str, Any] = {"name": f"{entry.name} of {source.folder.name}"}
    if not ends:
        return out | {"frames": frames, "actions": actions[:-1], "proprio": proprio}
    out |= {"frames": np.concatenate([frames, frames[-1:]]), "actions": actions, "last_frame_known": False}
    out["proprio"] = None if proprio is None else np.concatenate([proprio, proprio[-1:]])
    out["rewards"] = ends.get("reward")
    done = ends.get("done", np.zeros(len(table), bool)).astype(bool)
    late = ends["truncated"].astype(bool) if "truncated" in ends else done & (done_means == "truncated")
    return out | {"terminated": done & ~late, "truncated": late}
