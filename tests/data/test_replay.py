"""replay: the format on disk, its checks, crash-safe appends, flat memory."""

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel import data
from worldmodel.data import ArraySpec, Episode, Replay

H, W = 4, 6
MIXED = spaces.Dict({"move": spaces.Discrete(3, start=-1), "aim": spaces.Box(-1, 1, (2,), np.float32)})


def episode(replay, T=5, seed=0, **changes):
    rng = np.random.default_rng(seed)
    rows = (
        np.zeros((T, 0), np.uint8)
        if replay.table is None
        else replay.pack([replay.table.sample(rng) for _ in range(T)])
    )
    ends = np.zeros((2, T), bool)
    ends[seed % 2, -1] = True
    frames = rng.integers(0, 256, (T + 1, *replay.frame_shape), np.uint8)
    parts = {
        "frames": frames,
        "actions": rows,
        "rewards": rng.normal(size=T),
        "terminated": ends[0],
        "truncated": ends[1],
    }
    size = sum(s for _, s in replay.proprio_parts)
    if size:
        parts["proprio"] = rng.normal(size=(T + 1, size)).astype(np.float32)
    return Episode(**(parts | changes))


def filled(path, lengths=(5, 3, 8), space=None, **options):
    space = space or spaces.Discrete(4)
    replay = Replay.create(path, space, (H, W, 3), **options)
    for i, T in enumerate(lengths):
        replay.append(episode(replay, T, seed=i))
    return replay


def same(a, b):
    for key in ("frames", "actions", "rewards", "terminated", "truncated", "proprio"):
        x, y = getattr(a, key), getattr(b, key)
        assert (x is None) == (y is None)
        assert x is None or (np.array_equal(x, y) and x.dtype == y.dtype), key


def test_replay_returns_what_was_appended(tmp_path):
    extras = {"lives": ArraySpec("int32", (), "step"), "seen": ArraySpec("bool", (2,), "frame")}
    options = {
        "proprio": [("health", 1), ("ammo", 2)],
        "extras": extras,
        "fps": 8.75,
        "environment": {"env_id": "X"},
    }
    replay = Replay.create(tmp_path / "r", MIXED, (H, W, 3), **options)
    given = []
    for i, T in enumerate((4, 1, 9)):
        extra = {
            "lives": np.arange(T, dtype=np.int32),
            "seen": np.random.default_rng(i).random((T + 1, 2)) < 0.5,
        }
        given.append(episode(replay, T, i, extras=extra, name=f"take {i}"))
        assert replay.append(given[-1]) == i
    again = Replay.open(tmp_path / "r")
    assert (len(again), again.num_steps, again.num_frames) == (3, 14, 17) and list(again.lengths) == [4, 1, 9]
    assert again.fps == 8.75 and again.environment == {"env_id": "X"} and again.action_space == MIXED
    assert again.proprio_parts == [("health", 1), ("ammo", 2)]
    for i, before in enumerate(given):
        after = again.episode(i)
        same(before, after)
        assert after.name == f"take {i}" and np.array_equal(after.extras["lives"], before.extras["lives"])
        assert (
            np.array_equal(after.extras["seen"], before.extras["seen"]) and after.extras["seen"].dtype == bool
        )
    actions = again.unpack(again.episode(0).actions)
    assert np.array_equal(again.pack(actions), given[0].actions) and actions["move"].min() >= -1
    assert np.array_equal(again.start(2), given[2].frames[0]) and again.start(2).flags.writeable


def test_episode_frames_are_views_of_the_file_and_read_only(tmp_path):
    replay = filled(tmp_path / "r")
    frames = replay.episode(1).frames
    assert not frames.flags.owndata and not frames.flags.writeable
    kept = frames.copy()
    replay.append(episode(replay, 4, seed=9))  # an old view stays valid
    assert np.array_equal(frames, kept) and np.array_equal(
        replay.episode(-1).frames, episode(replay, 4, seed=9).frames
    )
    with pytest.raises(IndexError):
        replay.episode(4)


def test_the_replay_written_by_hand_in_the_readme_opens(tmp_path, monkeypatch):
    readme = Path(data.__file__).with_name("README.md").read_text()
    example = readme.split("```python\n")[-1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(example, made)
    assert len(example.splitlines()) <= 25
    replay = Replay.open("mine")
    assert replay.action_space == spaces.Discrete(4) and len(replay) == 2
    assert np.array_equal(replay.episode(1).frames, made["frames"][1])
    assert np.array_equal(replay.unpack(replay.episode(1).actions), made["actions"][1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frames": np.zeros((5, H, W, 3), np.uint8)}, "take: frames must have shape"),
        ({"frames": np.zeros((6, H, W, 3), np.float32)}, "take: frames must be uint8"),
        ({"frames": np.zeros((6, H, W, 1), np.uint8)}, "take: frames must have shape"),
        ({"rewards": np.full(5, np.nan)}, "take: reward 0 is not finite"),
        ({"rewards": np.zeros(5, np.float32)}, "take: rewards must be float64"),
        ({"terminated": np.array([0, 1, 0, 0, 0], bool)}, "take: ends at step 1 of 5"),
        ({"actions": np.full((5, 8), 255, np.uint8)}, "take: action"),
        ({"actions": np.zeros((4, 8), np.uint8)}, "take: actions must have shape"),
        ({"proprio": np.zeros((6, 2), np.float32)}, "take: has proprio"),
    ],
)
def test_append_refuses_a_wrong_episode_and_names_it(tmp_path, changes, message):
    replay = filled(tmp_path / "r")
    with pytest.raises(ValueError, match=message):
        replay.append(episode(replay, 5, 0, name="take", **changes))
    assert len(Replay.open(tmp_path / "r")) == 3


def poke(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    "name, offset, data, message",
    [
        ("actions.bin", 8 * 6, b"\x09", "episode 1.*action"),
        ("rewards.bin", 8 * 9, np.array([np.inf]).tobytes(), "episode 2.*reward 1 is not finite"),
        ("terminated.bin", 3, b"\x01", "episode 0.*ends at step 3 of 5"),
        ("truncated.bin", 7, b"\x07", "episode 1.*truncated must be 0 or 1"),
        (
            "proprio.bin",
            4 * 6,
            np.array([np.nan], np.float32).tobytes(),
            "episode 1.*proprio is NaN at frame 0",
        ),
    ],
)
def test_open_refuses_a_wrong_value_and_names_the_episode(tmp_path, name, offset, data, message):
    filled(tmp_path / "r", proprio=[("x", 1)]).close()
    poke(tmp_path / "r" / name, offset, data)
    with pytest.raises(ValueError, match=message):
        Replay.open(tmp_path / "r")


@pytest.mark.parametrize("name", ["frames", "actions", "rewards", "terminated", "truncated"])
def test_open_refuses_a_file_that_is_too_short(tmp_path, name):
    filled(tmp_path / "r").close()
    file = tmp_path / "r" / f"{name}.bin"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{name}.bin: episode 2: the file ends"):
        Replay.open(tmp_path / "r")
    file.unlink()
    with pytest.raises(ValueError, match=rf"{name}.bin: episode 0: the file ends after 0 rows"):
        Replay.open(tmp_path / "r")


HOSTILE = [
    "", "[]", "{", "null", '{"format": "other"}', "[" * 100_000, "\xff", '{"format": NaN}',
    {"version": 2}, {"version": True}, {"version": None}, {"version": 10**400},
    {"frame_shape": [4, 6]}, {"frame_shape": [4, -6, 3]},
    {"frame_shape": [2**31, 2**31, 3]}, {"frame_shape": "4x6"},
    {"frame_shape": [4.0, 6, 3]}, {"frame_shape": [4, 6, 3000]}, {"frame_shape": [0, 6, 3]},
    {"action_space": 3}, {"action_space": {}},
    {"action_space": {"type": "Discrete", "n": -1, "start": 0, "dtype": "int64"}},
    {"action_space": {"type": "os.system"}}, {"observation_space": []}, {"environment": "x"},
    {"fps": -1}, {"fps": "fast"}, {"fps": 1e300}, {"lossy": 1}, {"alignment": "actions[t] led to frames[t]"},
    {"proprio": {}}, {"proprio": [{"name": "x", "size": -4}]}, {"proprio": [1]},
    {"proprio": [{"name": "x", "size": 2**60}]},
    {"extras": {"../../etc/passwd": {"dtype": "uint8", "shape": [], "per": "step"}}},
    {"extras": {"frames": {"dtype": "uint8", "shape": [], "per": "step"}}},
    {"extras": {"x": {"dtype": "object", "shape": [], "per": "step"}}},
    {"extras": {"x": {"dtype": "uint8", "shape": [2**30, 2**30], "per": "step"}}},
    {"extras": {"x": {"dtype": "uint8", "shape": [], "per": "day"}}}, {"extras": {"x": 3}},
    {"episodes": {}}, {"episodes": [3]}, {"episodes": [{"steps": 0}]},
    {"episodes": [{"steps": 2**30}] * 50},
    {"episodes": [{"steps": 10**30}]},
    {"episodes": [{"steps": 5.0}]}, {"episodes": [{"steps": 5, "name": 3}]},
    {"episodes": [{"steps": 5, "labelled": "no"}]}, {"episodes": [{}]},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda c: str(c)[:40])
def test_a_hostile_index_is_a_value_error(tmp_path, change):
    filled(tmp_path / "r").close()
    meta = tmp_path / "r" / "meta.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(meta.read_text()) | change)
    meta.write_bytes(change.encode("latin-1"))
    with pytest.raises(ValueError):
        Replay.open(tmp_path / "r")


def test_random_damage_to_the_index_never_crashes(tmp_path):
    filled(tmp_path / "r").close()
    meta, rng = tmp_path / "r" / "meta.json", np.random.default_rng(0)
    good = meta.read_bytes()
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(32, 127)
        meta.write_bytes(bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged) + 1)]))
        try:
            Replay.open(tmp_path / "r")
        except ValueError:
            continue


def test_open_and_create_say_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no replay here"):
        Replay.open(tmp_path / "nothing")
    filled(tmp_path / "r")
    with pytest.raises(FileExistsError, match="holds a replay"):
        Replay.create(tmp_path / "r", spaces.Discrete(2), (H, W, 3))


def test_an_interrupted_append_leaves_the_last_good_state(tmp_path):
    replay = filled(tmp_path / "r")
    before = [replay.episode(i).frames.copy() for i in range(3)]
    replay.append(episode(replay, 7, seed=5), commit=False)  # arrays written, index not: a kill here
    del replay
    again = Replay.open(tmp_path / "r")
    assert len(again) == 3
    again.append(episode(again, 2, seed=6))  # goes over the tail that does not count
    final = Replay.open(tmp_path / "r")
    assert list(final.lengths) == [5, 3, 8, 2]
    for i, frames in enumerate([*before, episode(again, 2, seed=6).frames]):
        assert np.array_equal(final.episode(i).frames, frames)


def test_a_kill_at_any_moment_leaves_a_replay_that_opens(tmp_path):
    script = f"""
        import sys, numpy as np
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_replay import episode
        from gymnasium import spaces
        from worldmodel.data import Replay
        replay = Replay.create({str(tmp_path / "r")!r}, spaces.Discrete(4), (32, 32, 3))
        print("go", flush=True)
        i = 0
        while True:
            replay.append(episode(replay, 30, seed=i)); i += 1
    """
    for wait in (0.05, 0.15, 0.3):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        replay = Replay.open(tmp_path / "r")
        for i in range(len(replay)):
            assert np.array_equal(replay.episode(i).frames, episode(replay, 30, seed=i).frames)
        for file in (tmp_path / "r").iterdir():
            file.unlink()


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit on this system")
def test_a_full_disk_is_one_error_and_nothing_is_lost(tmp_path):
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_replay import episode
        from gymnasium import spaces
        from worldmodel.data import Replay
        replay = Replay.create({str(tmp_path / "r")!r}, spaces.Discrete(4), (32, 32, 3))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            for i in range(99):
                replay.append(episode(replay, 30, seed=i))
        except OSError as error:
            print("kept", len(replay), type(error).__name__)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout.split() == ["kept", "3", "OSError"], done.stderr
    replay = Replay.open(tmp_path / "r")
    assert len(replay) == 3 and np.array_equal(replay.episode(2).frames, episode(replay, 30, seed=2).frames)


def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc")
def test_memory_stays_flat_on_a_replay_of_two_gigabytes(tmp_path):
    replay = Replay.create(tmp_path / "r", spaces.Discrete(4), (64, 64, 3))
    steps, count = 999, 180
    index = replay._store.index
    from worldmodel.data.index import EpisodeEntry

    index.episodes = [EpisodeEntry(steps) for _ in range(count)]
    index.save(tmp_path / "r")
    for name, row in (
        ("frames", 64 * 64 * 3),
        ("actions", 8),
        ("rewards", 8),
        ("terminated", 1),
        ("truncated", 1),
    ):
        with open(tmp_path / "r" / f"{name}.bin", "wb") as file:
            file.truncate(
                row * (steps * count + (count if name == "frames" else 0))
            )  # sparse: no disk is used
    big = Replay.open(tmp_path / "r")
    assert big.num_frames * 64 * 64 * 3 > 2 * 2**30
    big.episode(0).frames.sum()
    before = resident()
    highest = 0
    kept = []
    for each in big:
        assert each.frames[:, :, 0, 0].max() == 0  # touches every page
        kept.append(each.frames)  # views may be kept: their pages are given back all the same
        highest = max(highest, resident())
    for i in range(300):
        big.sample(i, 16, 16)
    highest = max(highest, resident())
    assert highest - before < 160 * 2**20, f"{(highest - before) / 2**20:.0f} MiB"


def test_split_is_by_episode_and_fixed_by_the_seed(tmp_path):
    replay = filled(tmp_path / "r", lengths=[3] * 10)
    train, test = replay.split(0.8, seed=1)
    assert sorted(train.episodes + test.episodes) == list(range(10)) and len(train) == 8
    assert [r.episodes for r in replay.split(0.8, seed=1)] == [train.episodes, test.episodes]
    assert [r.episodes for r in replay.split(0.8, seed=2)] != [train.episodes, test.episodes]
    assert np.array_equal(test.episode(1).frames, replay.episode(test.episodes[1]).frames)
    inner, _ = train.split(0.5)
    assert set(inner.episodes) < set(train.episodes)
    with pytest.raises(ValueError, match="split"):
        test.append(episode(replay))
    with pytest.raises(ValueError, match="0 < fraction < 1"):
        replay.split(1.0)


def test_statistics_are_those_of_the_arrays(tmp_path):
    replay = filled(tmp_path / "r", lengths=(5, 300, 8), space=MIXED, proprio=[("x", 3)])
    got = replay.statistics()
    all_ = [replay.episode(i) for i in range(3)]
    frames = np.concatenate([e.frames.reshape(-1, 3) for e in all_]).astype(float)
    assert np.allclose(got["pixel"]["mean"], frames.mean(0)) and np.allclose(
        got["pixel"]["std"], frames.std(0)
    )
    returns = [e.rewards.sum() for e in all_]
    assert np.isclose(got["return"]["mean"], np.mean(returns)) and np.isclose(
        got["return"]["std"], np.std(returns)
    )
    raw = np.concatenate([replay.table.encode_batch(replay.unpack(e.actions)).raw for e in all_])
    assert np.allclose(got["action"]["mean"], raw.mean(0)) and np.allclose(got["action"]["max"], raw.max(0))
    proprio = np.concatenate([e.proprio for e in all_])
    assert np.allclose(got["proprio"]["std"], proprio.std(0), rtol=1e-5)
    pairs = [(e.frames[1:] != e.frames[:-1]).any(-1) for e in all_]
    assert np.isclose(got["changed"], sum(p.sum() for p in pairs) / sum(p.size for p in pairs))
    assert (got["terminated"], got["truncated"], got["unlabelled"]) == (2, 1, 0)
    json.dumps(got)
