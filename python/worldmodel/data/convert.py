"""convert: experience from elsewhere into a replay, and out again.

    from_arrays   NumPy arrays, or Episodes            from_video   files, with or without actions
    from_minari   a Minari dataset with images         to_minari    a local Minari dataset, pixels exact

A new replay is made beside its place and renamed into it when complete, so a fault in the input leaves
nothing half done. Pixels that went through a lossy codec are taken with a warning and marked `lossy`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .environment import Camera
from .episode import Episode
from .extras import need
from .replay import Replay
from .video import read_video


class LossyPixels(UserWarning):
    """The source does not hold the pixels as they were."""


def from_arrays(
    path: str | Path,
    action_space: Any,
    episodes: Iterable[dict[str, Any] | Episode],
    *,
    proprio: Sequence[tuple[str, int]] = (),
    environment: dict[str, Any] | None = None,
    fps: float | None = None,
    lossy: bool = False,
) -> Replay:
    """A new replay from arrays in memory (or a generator of them).

    Args:
        path: a folder that holds no replay yet.
        action_space: Gymnasium space of the actions; None if there are none.
        episodes: dicts of frames (T+1,H,W,C) or (T+1,H,W) uint8; actions (T of them, batched form or a list;
        absent or
            None: not known); rewards (T,), zeros if absent; terminated, truncated: a bool, or (T,); proprio
            (T+1,P); name; seed; last_frame_known.  Or `Episode`s.
        proprio: (name, size) of the parts of the proprioception vector; found from the first episode if
        absent. environment, fps, lossy: see `Replay.create`.

    Raises:
        ValueError: a wrong length, dtype or range, with the episode's name.  FileExistsError: a replay is
        there.
    """

    def fill(folder: Path) -> None:
        replay, parts = None, list(proprio)
        for i, given in enumerate(episodes):
            if replay is None:
                frames = (
                    given.frames
                    if isinstance(given, Episode)
                    else _pictures(given.get("frames"), _name(given, i))
                )
                numbers = given.proprio if isinstance(given, Episode) else given.get("proprio")
                if numbers is not None and not parts:
                    parts = [("proprio", int(np.shape(numbers)[-1]))]
                options = {"environment": environment, "fps": fps, "proprio": parts, "lossy": lossy}
                replay = Replay.create(folder, action_space, frames.shape[1:], **options)
            episode = given if isinstance(given, Episode) else _episode(replay, given, _name(given, i))
            replay.append(episode, commit=False)
        if replay is None:
            raise ValueError("from_arrays: no episodes")
        replay.close()

    return _whole(Path(path), fill)


def _name(given: dict[str, Any], i: int) -> str:
    return str(given.get("name") or f"episode {i}")


def _pictures(frames: Any, name: str) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or len(frames) < 2:
        raise ValueError(
            f"{name}: frames must be uint8 (T+1,H,W,C) with T of at least 1,"
            f" got {frames.dtype} {frames.shape}"
        )
    return frames[..., None] if frames.ndim == 3 else frames


def _episode(replay: Replay, given: dict[str, Any], name: str) -> Episode:
    """A dict of arrays as an Episode; lengths are compared here, values by `Episode.check`."""
    frames = _pictures(given["frames"], name)
    T = len(frames) - 1
    actions = given.get("actions")
    try:
        rows = None if actions is None else replay.pack(actions)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
    labelled = rows is not None and replay.table is not None
    if not labelled:
        rows = np.zeros((T, replay.table.row.itemsize if replay.table else 0), np.uint8)
    if len(rows) != T:
        raise ValueError(
            f"{name}: {len(frames)} frames want {T} actions, got {len(rows)}"
            " (actions[t] leads from frames[t] to frames[t+1])"
        )
    rewards = np.zeros(T) if given.get("rewards") is None else np.asarray(given["rewards"], np.float64)
    ends = [_flags(given.get(key, False), T) for key in ("terminated", "truncated")]
    numbers = given.get("proprio")
    numbers = None if numbers is None else np.asarray(numbers, np.float32)
    known = bool(given.get("last_frame_known", True))
    own_name = str(given.get("name") or "")
    return Episode(frames, rows, rewards, *ends, numbers, {}, own_name, given.get("seed"), labelled, known)


def _flags(value: Any, T: int) -> np.ndarray:
    """One bool for the last step, or one a step -> (T,) bool (another length is left for the check)."""
    value = np.asarray(value)
    if value.ndim:
        return value.astype(bool)
    out = np.zeros(T, bool)
    out[-1] = bool(value)
    return out


def _whole(path: Path, fill: Callable[[Path], None]) -> Replay:
    """Make a replay beside `path` and rename it there once complete; nothing is left of a failure."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path}: exists already; choose a new folder")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        fill(partial)
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Replay.open(path, check=False)


def _place(path: str | Path | None, name: str) -> Path:
    slug = "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()
    return Path(path) if path is not None else Path("runs") / slug / "replay"


# ---- Minari ----


def from_minari(
    dataset: Any,
    path: str | Path | None = None,
    *,
    frames: tuple[int, int] | None = None,
    pixels: str = "auto",
) -> Replay:
    """A new replay from a Minari dataset whose observations hold images.

    Args:
        dataset: a local dataset's id, or a MinariDataset.
        path: a new folder; None: runs/<id>/replay.
        frames: (height, width) to resize to; None keeps the size.
        pixels: "auto", "observation", or the key of an image in a Dict observation.

    JPEG-encoded datasets (Minari's default) are read with a `LossyPixels` warning.
    Raises ImportError without Minari, ValueError if there are no images.
    """
    minari = need("minari", "from_minari", "minari")
    dataset = minari.load_dataset(dataset) if isinstance(dataset, str) else dataset
    camera = Camera(dataset.observation_space, pixels, frames)
    if camera.source == "render":
        raise ValueError(
            f"from_minari: {dataset.id} has no images in {dataset.observation_space};"
            " a world model needs frames"
        )
    lossy = _is_jpeg(dataset)
    if lossy:
        warnings.warn(
            f"{dataset.id} stores its images as JPEG: small frames differ by up to 147 of 255",
            LossyPixels,
            stacklevel=2,
        )
    spec = dataset.env_spec
    recipe = (
        {"env_id": spec.id, "env_kwargs": {}, "frames": list(frames) if frames else None, "pixels": pixels}
        if spec
        else None
    )
    given = (_from_minari_episode(e, camera) for e in dataset.iterate_episodes())
    options = {"proprio": camera.parts, "environment": recipe, "lossy": lossy}
    return from_arrays(_place(path, dataset.id), dataset.action_space, given, **options)


def _is_jpeg(dataset: Any) -> bool:
    from minari.dataset.minari_storage import is_image_space

    space = dataset.observation_space
    images = [s for s in (space, *getattr(space, "spaces", {}).values()) if is_image_space(s)]
    return bool(images) and bool(getattr(dataset.storage, "jpeg_encoding", True))


def _from_minari_episode(episode: Any, camera: Camera) -> dict[str, Any]:
    seen, T = episode.observations, len(episode.rewards)
    each = [{k: v[t] for k, v in seen.items()} if isinstance(seen, dict) else seen[t] for t in range(T + 1)]
    numbers = [camera.proprio(o) for o in each] if camera.parts else None
    out = {
        "frames": np.stack([camera.picture(o) for o in each]),
        "actions": episode.actions,
        "proprio": numbers,
    }
    out |= {"rewards": episode.rewards, "name": f"minari episode {episode.id}"}
    return out | {"terminated": episode.terminations, "truncated": episode.truncations}


def to_minari(replay: Replay, dataset_id: str, **metadata: Any) -> Any:
    """Export to a new local Minari dataset (HDF5), with every pixel exact (`jpeg_encoding=False`).

    `dataset_id` is "namespace/name-v0", each part of two characters at least; `metadata` (author,
    description, algorithm_name, ...) goes to `minari.create_dataset_from_buffers`.  Observations are frames,
    or a Dict of "frames" and "proprio" where there is a vector.  Returns the MinariDataset.
    Raises ImportError without Minari and h5py, ValueError without actions.
    """
    minari = need("minari", "to_minari", "minari")
    need("h5py", "to_minari", "minari")
    from gymnasium import spaces

    if replay.action_space is None or any(not e.labelled for e in replay):
        raise ValueError("to_minari: Minari wants actions, and this replay has episodes without")
    image = spaces.Box(0, 255, replay.frame_shape, np.uint8)
    size = sum(size for _, size in replay.proprio_parts)
    vector = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    space = spaces.Dict({"frames": image, "proprio": vector}) if size else image
    buffers = []
    for i, episode in enumerate(replay):
        seen = {"frames": episode.frames, "proprio": episode.proprio} if size else episode.frames
        parts = {
            "rewards": episode.rewards,
            "terminations": episode.terminated,
            "truncations": episode.truncated,
        }
        actions = replay.unpack(episode.actions)
        buffers.append(minari.data_collector.EpisodeBuffer(i, episode.seed, None, seen, actions, **parts))
    options = {"action_space": replay.action_space, "observation_space": space, "data_format": "hdf5"}
    return minari.create_dataset_from_buffers(
        dataset_id, buffers, jpeg_encoding=False, **(options | metadata)
    )


# ---- video ----


def from_video(
    files: str | Path | Sequence[str | Path],
    path: str | Path | None = None,
    *,
    frames: tuple[int, int] | None = (64, 64),
    actions: Sequence[Any] | None = None,
    action_space: Any = None,
    alignment: str = "between",
    every: int = 1,
    piece: int = 4096,
) -> Replay:
    """A new replay from video files, one episode a file (in pieces of `piece` steps where it is longer).

    Args:
        files: one file or several: anything FFmpeg reads.
        path: a new folder; None: runs/<name of the first file>/replay.
        frames: (height, width) to resize to; None keeps the size, which must then be the same in all files.
        actions: for each file an array of actions, or a file: .npy, .npz (array "actions"), .csv (a line an
        action), .json
            (a list); None for a file without.  None: no actions at all.
        action_space: space of the actions; wanted where there are any.
        alignment: "between": one action less than frames, actions[t] leads from frame t to t+1; "leaving":
        one a frame,
            taken at frame t (the last is dropped); "arriving": one a frame, the one that led to it (the
            first is dropped).
        every: keep each `every`-th frame; only without actions.

    Lossy codecs are read with a `LossyPixels` warning.
    Raises ImportError without PyAV, ValueError where a length or an action is wrong, naming the file.
    """
    need("av", "from_video", "video")
    files = [Path(files)] if isinstance(files, (str, Path)) else [Path(f) for f in files]
    if not files:
        raise ValueError("from_video: no files")
    if actions is not None and (action_space is None or len(actions) != len(files) or every != 1):
        raise ValueError(
            "from_video: with actions, give action_space, every=1, and one entry for each"
            f" of the {len(files)} files"
        )
    if alignment not in ("between", "leaving", "arriving"):
        raise ValueError(f'from_video: alignment is "between", "leaving" or "arriving", got {alignment!r}')
    lossy: list[Path] = []
    rates: list[float] = []

    def given() -> Iterable[dict[str, Any]]:
        for i, file in enumerate(files):
            video = read_video(file, frames, every)
            lossy.extend([file] if video.lossy else [])
            rates.append(video.fps)
            taken = None if actions is None or actions[i] is None else _read_actions(actions[i])
            yield from _pieces(file, video.frames, taken, alignment, piece)

    place = _place(path, files[0].stem)
    replay = from_arrays(place, action_space, given())
    index = replay._store.index
    index.lossy, index.fps = bool(lossy), min(rates) if min(rates) > 0 else None
    index.save(replay.path)
    if lossy:
        warnings.warn(
            f"{', '.join(map(str, lossy[:3]))}: a lossy codec; frames differ from the source",
            LossyPixels,
            stacklevel=2,
        )
    return replay


def _read_actions(source: Any) -> Any:
    if not isinstance(source, (str, Path)):
        return source
    file = Path(source)
    try:
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return arrays["actions"]
        if file.suffix == ".csv":
            table = np.loadtxt(file, delimiter=",", ndmin=2)
            table = table.astype(np.int64) if (table == np.rint(table)).all() else table
            return table[:, 0] if table.shape[1] == 1 else table
        if file.suffix == ".json":
            import json

            return json.loads(file.read_text())
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{file}: no actions in it ({error})") from None
    raise ValueError(f"{file}: actions come from .npy, .npz, .csv or .json files")


def _pieces(
    file: Path, frames: Iterable[np.ndarray], actions: Any, alignment: str, piece: int
) -> Iterable[dict[str, Any]]:
    """A file's frames as episodes of at most `piece` steps; neighbours share a frame, so that no step is
    lost.
    """
    if actions is not None:
        actions = actions if isinstance(actions, (np.ndarray, list)) else list(actions)
        actions = {"between": actions, "leaving": actions[:-1], "arriving": actions[1:]}[alignment]
    gathered, at, number = [], 0, 0
    for frame in frames:
        gathered.append(frame)
        if len(gathered) == piece + 1:
            yield _piece(file, number, gathered, None if actions is None else actions[at : at + piece])
            gathered, at, number = gathered[-1:], at + piece, number + 1
    if number == 0 and len(gathered) < 2:
        raise ValueError(f"{file}: {len(gathered)} frames; two are wanted at least")
    if actions is not None and len(actions) != at + len(gathered) - 1:
        raise ValueError(
            f"{file}: {at + len(gathered)} frames want {at + len(gathered) - 1} actions between them,"
            f" got {len(actions)};"
            ' if the file has one action a frame, say alignment="leaving" or "arriving"'
        )
    if len(gathered) > 1:
        yield _piece(file, number, gathered, None if actions is None else actions[at:])


def _piece(file: Path, number: int, frames: list[np.ndarray], actions: Any) -> dict[str, Any]:
    return {
        "frames": np.stack(frames),
        "actions": actions,
        "name": f"{file.name}#{number}" if number else file.name,
    }
