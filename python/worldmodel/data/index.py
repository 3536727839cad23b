"""index: meta.json, the one file that says what a replay holds.  Read with suspicion, written atomically.

Everything in it is checked against a plain description before it is used, so a corrupt or hostile file is a
ValueError. It is written to a temporary file, synced and renamed over the old one: a kill at any moment
leaves the old or the new.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import write_atomically

FORMAT = "worldmodel-replay"
VERSION = 1
ALIGNMENT = "actions[t] leads from frames[t] to frames[t+1]"
DTYPES = {"uint8": 1, "bool": 1, "int32": 4, "int64": 8, "float32": 4, "float64": 8}
LARGEST = 2**31  # rows, and elements of a row
LARGEST_FILE = 2**28  # bytes of meta.json: some five million episodes
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
STEP, FRAME = "step", "frame"
CORE = ("frames", "actions", "rewards", "terminated", "truncated", "proprio")


@dataclass
class ArraySpec:
    """An extra column: dtype name, shape of a row, and whether a row belongs to a step (T an episode) or
    a frame (T+1).
    """

    dtype: str
    shape: tuple[int, ...]
    per: str


@dataclass
class EpisodeEntry:
    """What the index says about one episode."""

    steps: int
    name: str = ""
    seed: int | None = None
    labelled: bool = True
    last_frame_known: bool = True


@dataclass
class Index:
    """The content of meta.json."""

    frame_shape: tuple[int, int, int]
    action_space: dict[str, Any] | None
    observation_space: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    fps: float | None = None
    proprio: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, ArraySpec] = field(default_factory=dict)
    episodes: list[EpisodeEntry] = field(default_factory=list)
    lossy: bool = False

    @property
    def proprio_width(self) -> int:
        return sum(part["size"] for part in self.proprio)

    def save(self, folder: Path) -> None:
        """Write meta.json atomically: temporary file, fsync, rename."""
        episodes = []
        for entry in self.episodes:
            kept = {"steps": entry.steps, "name": entry.name, "seed": entry.seed}
            kept |= {"labelled": entry.labelled, "last_frame_known": entry.last_frame_known}
            default = vars(EpisodeEntry(entry.steps))
            episodes.append({k: v for k, v in kept.items() if k == "steps" or v != default[k]})
        extras = {
            name: {"dtype": a.dtype, "shape": list(a.shape), "per": a.per} for name, a in self.extras.items()
        }
        data = {
            "format": FORMAT,
            "version": VERSION,
            "alignment": ALIGNMENT,
            "frame_shape": list(self.frame_shape),
        }
        for key in ("action_space", "observation_space", "environment", "fps", "proprio", "lossy"):
            data[key] = getattr(self, key)
        text = json.dumps(data | {"extras": extras, "episodes": []}, indent=1, allow_nan=False)
        lines = ",\n  ".join(json.dumps(e, allow_nan=False) for e in episodes)
        text = text.replace('"episodes": []', f'"episodes": [\n  {lines}\n ]' if lines else '"episodes": []')
        write_atomically(folder / "meta.json", text.encode())


def load_index(folder: Path) -> Index:
    """Read and check meta.json.  Raises FileNotFoundError or ValueError, naming the file and the field."""
    path = folder / "meta.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no replay here (meta.json is missing)")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: larger than {LARGEST_FILE} bytes")
    try:
        data = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    try:
        return _parse(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed")


def _want(data: dict, key: str, kinds: tuple[type, ...], default: Any = ...) -> Any:
    value = data.get(key, default)
    if value is ...:
        raise ValueError(f"{key} is missing")
    if type(value) not in kinds and not (default is None and value is None):
        raise ValueError(f"{key} must be {' or '.join(k.__name__ for k in kinds)}, got {str(value)[:60]!r}")
    return value


def _sizes(value: Any, what: str, smallest: int) -> tuple[int, ...]:
    good = (
        isinstance(value, list)
        and len(value) <= 8
        and all(type(n) is int and smallest <= n < LARGEST for n in value)
    )
    if not good or math.prod(value) >= LARGEST:
        raise ValueError(f"{what} must be a list of sizes, got {str(value)[:60]}")
    return tuple(value)


def _parse(data: Any) -> Index:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'not a {FORMAT} (the field "format" says otherwise)')
    version = _want(data, "version", (int,))
    if version != VERSION:
        raise ValueError(f"format version {version}; this library reads version {VERSION}")
    if data.get("alignment", ALIGNMENT) != ALIGNMENT:
        raise ValueError(f'alignment must be "{ALIGNMENT}", got {str(data["alignment"])[:80]!r}')
    shape = _sizes(data.get("frame_shape"), "frame_shape", 1)
    if len(shape) != 3 or shape[2] > 4:
        raise ValueError(f"frame_shape must be [H, W, C] with C at most 4, got {list(shape)}")
    fps = _want(data, "fps", (int, float), None)
    if fps is not None and not 0 < fps < 1e6:
        raise ValueError(f"fps must be positive, got {fps}")
    index = Index(
        shape,
        *(_want(data, k, (dict,), None) for k in ("action_space", "observation_space", "environment")),
        fps,
    )
    index.lossy = _want(data, "lossy", (bool,), False)
    index.proprio = [_proprio(part) for part in _want(data, "proprio", (list,), [])]
    index.extras = {name: _extra(name, part) for name, part in _want(data, "extras", (dict,), {}).items()}
    index.episodes = [_episode(i, part) for i, part in enumerate(_want(data, "episodes", (list,)))]
    return index


def _proprio(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise ValueError(f"proprio: wanted an object, got {str(part)[:60]!r}")
    size = _want(part, "size", (int,))
    if not 0 < size < LARGEST:
        raise ValueError(f"proprio: size must be positive, got {size}")
    return {"name": _want(part, "name", (str,)), "size": size}


def _extra(name: str, part: Any) -> ArraySpec:
    if not NAME.fullmatch(name) or name in CORE or not isinstance(part, dict):
        raise ValueError(f"extras: bad entry {name[:80]!r}")
    dtype, per = _want(part, "dtype", (str,)), _want(part, "per", (str,))
    if dtype not in DTYPES or per not in (STEP, FRAME):
        raise ValueError(f"extras: {name}: dtype {dtype[:40]!r} per {per[:40]!r} is not known")
    return ArraySpec(dtype, _sizes(part.get("shape"), f"extras: {name}: shape", 0), per)


def _episode(i: int, part: Any) -> EpisodeEntry:
    if not isinstance(part, dict):
        raise ValueError(f"episode {i}: wanted an object, got {str(part)[:60]!r}")
    try:
        steps = _want(part, "steps", (int,))
        if not 0 < steps < LARGEST:
            raise ValueError(f"steps must be positive, got {steps}")
        flags = (_want(part, key, (bool,), True) for key in ("labelled", "last_frame_known"))
        return EpisodeEntry(steps, _want(part, "name", (str,), ""), _want(part, "seed", (int,), None), *flags)
    except ValueError as error:
        raise ValueError(f"episode {i}: {error}") from None
