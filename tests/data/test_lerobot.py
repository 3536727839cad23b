"""lerobot: both layouts come in with every frame, action and end where it belongs; faults name file and episode."""

import io
import json
import warnings
from fractions import Fraction

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.data import Replay
from worldmodel.data.convert import LossyPixels

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install worldmodel[lerobot]")
av = pytest.importorskip("av", reason="PyAV is not installed: pip install worldmodel[lerobot]")
parquet = pytest.importorskip("pyarrow.parquet")

DONE = {"dtype": "bool", "shape": [1]}
FPS, CAMERA, LENGTHS = 10, "observation.images.top", (6, 4, 5)


def pictures(i, n, size=(32, 48)):
    """Frame t of episode i says so, in blocks that a lossy codec keeps too."""
    out = np.full((n, *size, 3), 40, np.uint8)
    out[:, :16, :16] = 60 * i
    for t in range(n):
        out[t, :16, 16:32] = 30 * t
    return out


def film(path, frames, lossless=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        codec = "libx264rgb" if lossless else "libx264"
        stream = file.add_stream(codec, rate=Fraction(FPS), options={"crf": "0" if lossless else "20", "g": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def png(frame):
    out = io.BytesIO()
    with av.open(out, "w", format="image2pipe") as file:
        stream = file.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "rgb24"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return out.getvalue()


def columns(i, n, at, kind, ends):
    rng = np.random.default_rng(i)
    action = {"float": rng.normal(size=(n, 2)).astype(np.float32), "int": rng.integers(2, 5, n)}[kind]
    rows = {
        "action": list(action),
        "observation.state": list(np.stack([np.arange(n), np.full(n, i), np.ones(n)], 1).astype(np.float32)),
        "timestamp": np.arange(n, dtype=np.float32) / FPS,
        "frame_index": np.arange(n),
        "episode_index": np.full(n, i),
        "index": np.arange(at, at + n),
        "task_index": np.zeros(n, np.int64),
    }
    if ends:
        rows |= {"next.reward": np.arange(n, dtype=np.float32), "next.done": np.arange(n) == n - 1}
    return rows


def write(root, version="2.1", kind="float", ends=False, lossless=True, stills=False, cameras=(CAMERA,), break_at=None):
    """A dataset of three episodes in a layout; returns the columns of each."""
    new, root = version == "3.0", root / "toy"
    features = {
        "action": {"dtype": "float32", "shape": [2]} if kind == "float" else {"dtype": "int64", "shape": [1]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
    }
    features |= {c: {"dtype": "image" if stills else "video", "shape": [32, 48, 3]} for c in cameras}
    if ends:
        features |= {"next.reward": {"dtype": "float32", "shape": [1]}, "next.done": DONE}
    index = "chunk-{chunk_index:03d}/file-{file_index:03d}", "chunk-{episode_chunk:03d}", "episode_{episode_index:06d}"
    info = {"codebase_version": f"v{version}", "fps": FPS, "chunks_size": 2, "features": features}
    info["data_path"] = f"data/{index[0]}.parquet" if new else f"data/{index[1]}/{index[2]}.parquet"
    old = f"videos/{index[1]}/{{video_key}}/{index[2]}.mp4"
    info["video_path"] = f"videos/{{video_key}}/{index[0]}.mp4" if new else old
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    at, tables, films, meta, begin = 0, [], [], [], 0.0
    for i, n in enumerate(LENGTHS):
        rows = columns(i, n, at, kind, ends)
        tables.append(rows)
        cells = [{"bytes": png(f), "path": None} for f in pictures(i, n)] if stills else None
        films.append(pictures(i, n)[: None if break_at != i else n - 2])
        table = pa.table({k: list(v) for k, v in rows.items()} | ({CAMERA: cells} if stills else {}))
        if not new:
            where = root / "data" / f"chunk-{i // 2:03d}" / f"episode_{i:06d}.parquet"
            where.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, where)
            if not stills:
                film(root / "videos" / f"chunk-{i // 2:03d}" / CAMERA / f"episode_{i:06d}.mp4", films[-1], lossless)
        entry = {"episode_index": i, "length": n, "tasks": ["toy"]}
        place = {"data/chunk_index": 0, "data/file_index": int(i == 2)}
        for c in cameras:
            place |= {f"videos/{c}/chunk_index": 0, f"videos/{c}/file_index": int(i == 2)}
            place |= {f"videos/{c}/from_timestamp": begin if i < 2 else 0.0}
        begin += n / FPS
        meta.append(entry | (place if new else {}))
        if new and i in (1, 2):  # the first two share their files
            parts = tables[:2] if i == 1 else tables[2:]
            where = root / "data" / "chunk-000" / f"file-{int(i == 2):03d}.parquet"
            where.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.concat_tables([pa.table({k: list(v) for k, v in p.items()}) for p in parts]), where)
            joined = np.concatenate(films[:2] if i == 1 else films[2:])
            film(root / "videos" / CAMERA / "chunk-000" / f"file-{int(i == 2):03d}.mp4", joined, lossless)
        at += n
    if new:
        where = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        where.parent.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(meta), where)
    else:
        (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(m) + "\n" for m in meta))
    return root, tables


@pytest.mark.parametrize("version", ["2.1", "3.0"])
def test_a_dataset_comes_in_exactly(tmp_path, version):
    root, tables = write(tmp_path, version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay = Replay.from_lerobot(root, tmp_path / "r", frames=None)
    assert list(replay.lengths) == [n - 1 for n in LENGTHS] and replay.fps == FPS and not replay.lossy
    assert replay.proprio_parts == [("state", 3)] and isinstance(replay.action_space, spaces.Box)
    for i, (episode, rows) in enumerate(zip(replay, tables, strict=True)):
        assert np.array_equal(episode.frames, pictures(i, LENGTHS[i]))
        assert np.array_equal(replay.unpack(episode.actions), np.stack(rows["action"])[:-1])
        assert np.array_equal(episode.proprio, np.stack(rows["observation.state"]))
        assert not episode.ends.any() and episode.name == f"episode {i} of toy"
    every = np.concatenate([np.stack(t["action"]) for t in tables])
    assert np.array_equal(replay.action_space.low, every.min(0))
    assert np.array_equal(replay.action_space.high, every.max(0))


@pytest.mark.parametrize("version", ["2.1", "3.0"])
def test_rewards_and_ends_keep_the_last_step(tmp_path, version):
    root, tables = write(tmp_path, version, kind="int", ends=True)
    replay = Replay.from_lerobot(root, tmp_path / "r", frames=(16, 24), episodes=[1, 2])
    assert list(replay.lengths) == [4, 5] and replay.frame_shape == (16, 24, 3)
    assert replay.action_space == spaces.Discrete(3, start=2)
    for i, episode in zip((1, 2), replay, strict=True):
        assert np.array_equal(replay.unpack(episode.actions), tables[i]["action"])
        assert np.array_equal(episode.rewards, np.arange(LENGTHS[i]))
        assert episode.terminated[-1] and not episode.last_frame_known
        assert np.array_equal(episode.frames[-1], episode.frames[-2])
        assert episode.frames[0, 0, 0, 0] == 60 * i and list(episode.frames[:-1, 0, 10, 0]) == [
            30 * t for t in range(LENGTHS[i])
        ]
    late = Replay.from_lerobot(root, tmp_path / "s", episodes=[0], done_means="truncated").episode(0)
    assert late.truncated[-1] and not late.terminated.any()


def test_stills_in_the_table(tmp_path):
    root, _ = write(tmp_path, stills=True)
    replay = Replay.from_lerobot(root, tmp_path / "r", frames=None)
    assert not replay.lossy
    for i, episode in enumerate(replay):
        assert np.array_equal(episode.frames, pictures(i, LENGTHS[i]))


def test_lossy_films_are_read_with_a_warning_and_in_place(tmp_path):
    root, _ = write(tmp_path, "3.0", lossless=False)
    with pytest.warns(LossyPixels, match="went through a lossy codec"):
        replay = Replay.from_lerobot(root, tmp_path / "r", frames=None, proprio=())
    assert replay.lossy and Replay.open(tmp_path / "r").lossy and replay.proprio_parts == []
    for i, episode in enumerate(replay):
        assert np.abs(episode.frames[:, 4, 24].astype(int) - pictures(i, LENGTHS[i])[:, 4, 24]).max() < 6


def edit(root, change):
    file = root / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda i: i.update(codebase_version="v1.6"), ValueError, "versions 2.0 to 3.0 are read, this one says 1.6"),
        (lambda i: i.pop("fps"), ValueError, "info.json: not LeRobot's info.json .*fps"),
        (lambda i: i["features"].pop(CAMERA), ValueError, "say which camera: there are none"),
        (lambda i: i["features"].pop("action"), ValueError, "no feature 'action'"),
        (lambda i: i["features"]["action"].update(dtype="string"), ValueError, "action must be numbers"),
        (lambda i: i["features"]["action"].update(shape=[3]), ValueError, r"0: action must be float32 \[3\]"),
        (lambda i: i["features"].update({"next.done": DONE}), ValueError, "no column next.done"),
        (lambda i: i.update(data_path="../{episode_index}.parquet"), ValueError, "leaves the folder"),
        (lambda i: i.update(data_path="data/{nothing}.parquet"), ValueError, "path .* of info.json"),
        (lambda i: i.update(video_path="videos/{video_key}.mp4"), FileNotFoundError, "top.mp4: not there"),
    ],
)
def test_a_fault_is_one_error_and_leaves_nothing_behind(tmp_path, change, error, message):
    root, _ = write(tmp_path)
    edit(root, change)
    with pytest.raises(error, match=message):
        Replay.from_lerobot(root, tmp_path / "r")
    assert [f.name for f in tmp_path.iterdir()] == ["toy"]


def test_a_short_film_and_a_wrong_length_name_the_episode(tmp_path):
    root, _ = write(tmp_path, break_at=1)
    with pytest.raises(ValueError, match=r"episode_000001.mp4: episode 1: no frame at 0.200 s \(row 2 of 4\)"):
        Replay.from_lerobot(root, tmp_path / "r")
    file = root / "meta" / "episodes.jsonl"
    file.write_text(file.read_text().replace('"length": 6', '"length": 7'))
    with pytest.raises(ValueError, match="episode 0: 7 rows wanted, at least 2, got 6"):
        Replay.from_lerobot(root, tmp_path / "r")
    with pytest.raises(ValueError, match="no episode 9; there are 3"):
        Replay.from_lerobot(root, tmp_path / "r", episodes=[9])
    with pytest.raises(ValueError, match="camera 'side' is not: there are observation.images.top"):
        Replay.from_lerobot(root, tmp_path / "r", camera="side")
    with pytest.raises(FileNotFoundError, match="wanted the folder of a LeRobot dataset"):
        Replay.from_lerobot(tmp_path, tmp_path / "r")


def test_several_cameras_want_a_choice(tmp_path):
    root, _ = write(tmp_path, cameras=(CAMERA, "observation.images.wrist"))
    with pytest.raises(ValueError, match="say which camera: there are .*top, observation.images.wrist"):
        Replay.from_lerobot(root, tmp_path / "r")
    assert len(Replay.from_lerobot(root, tmp_path / "r", camera=CAMERA)) == 3


def test_without_pyarrow_the_pip_command_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[lerobot\]"'):
        Replay.from_lerobot(tmp_path, tmp_path / "r")
