"""convert: arrays, Minari and video in and out; exact pixels, warnings where they are not, faults by name."""

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.data import Replay, save_mp4
from worldmodel.data.convert import LossyPixels

NESTED = spaces.Dict(
    {
        "go": spaces.Tuple((spaces.Discrete(3), spaces.MultiBinary(2))),
        "aim": spaces.Box(-1, 1, (2,), np.float32),
    }
)


def moving(T, seed=0, size=(48, 64)):
    """T+1 smooth frames with a moving square, as films like them."""
    y, x = np.mgrid[: size[0], : size[1]]
    base = np.stack([y * 3 % 256, x * 2 % 256, (x + y) % 256], -1).astype(np.uint8)
    frames = np.repeat(base[None], T + 1, 0)
    for t in range(T + 1):
        frames[t, 5 + seed : 15 + seed, t : t + 10] = (250, 20, 90)
    return frames


def given(T=6, seed=0, space=None, **more):
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 4, T)
    if space is not None:
        space.seed(seed)
        actions = [space.sample() for _ in range(T)]
    out = {"frames": moving(T, seed), "actions": actions, "rewards": rng.normal(size=T), "terminated": True}
    return out | more


# ---- arrays ----


def test_arrays_come_back_as_given(tmp_path):
    source = [
        given(6, 0, NESTED, proprio=np.ones((7, 3))),
        given(2, 1, NESTED, proprio=np.zeros((3, 3)), name="b"),
    ]
    replay = Replay.from_arrays(tmp_path / "r", NESTED, source, fps=10)
    assert replay.fps == 10 and replay.episode(1).name == "b" and replay.proprio_parts == [("proprio", 3)]
    for i, before in enumerate(source):
        after = replay.episode(i)
        assert np.array_equal(after.frames, before["frames"]) and np.array_equal(
            after.rewards, before["rewards"]
        )
        assert after.terminated[-1] and not after.ends[:-1].any() and after.labelled
        for t, row in enumerate(after.actions):
            action = replay.table.unpack(row)
            assert action["go"][0] == before["actions"][t]["go"][0]
            assert np.array_equal(action["aim"], before["actions"][t]["aim"])


def test_arrays_without_actions_or_color(tmp_path):
    replay = Replay.from_arrays(tmp_path / "gray", None, [{"frames": np.zeros((4, 20, 20), np.uint8)}])
    assert replay.frame_shape == (20, 20, 1) and replay.action_space is None
    batch = replay.sample(0, 3, 4)
    assert not batch.known.any() and replay.features(batch).shape == (3, 4, 0)
    mixed = Replay.from_arrays(tmp_path / "mixed", spaces.Discrete(4), [given(), {"frames": moving(3)}])
    assert [mixed.episode(i).labelled for i in range(2)] == [True, False]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": moving(6)[:-1]}, r"b: 6 frames want 5 actions, got 6 \(actions\[t\] leads from"),
        ({"frames": moving(6).astype(np.float32)}, "b: frames must be uint8"),
        ({"frames": moving(6, size=(48, 60))}, "b: frames must have shape"),
        ({"actions": np.full(6, 4)}, "b: action, row 0: wanted 0 .. 3, got 4"),
        ({"actions": np.full(6, 0.5)}, "b: action: wanted int64"),
        ({"rewards": np.zeros(5)}, "b: rewards must have shape"),
        ({"rewards": [0, 0, np.nan, 0, 0, 0]}, "b: reward 2 is not finite"),
        ({"terminated": [0, 0, 1, 0, 0, 0]}, "b: ends at step 2"),
        ({"truncated": [0, 0]}, "b: truncated must have shape"),
    ],
)
def test_a_fault_names_the_episode_and_leaves_nothing_behind(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Replay.from_arrays(tmp_path / "r", spaces.Discrete(4), [given(), given(seed=1, name="b", **change)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_overwritten(tmp_path):
    Replay.from_arrays(tmp_path / "r", spaces.Discrete(4), [given()])
    with pytest.raises(FileExistsError):
        Replay.from_arrays(tmp_path / "r", spaces.Discrete(4), [given(), given()])
    assert len(Replay.open(tmp_path / "r")) == 1
    with pytest.raises(ValueError, match="no episodes"):
        Replay.from_arrays(tmp_path / "s", spaces.Discrete(4), [])


# ---- Minari ----


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    pytest.importorskip("h5py", reason="h5py is not installed: pip install worldmodel[minari]")
    return pytest.importorskip("minari", reason="Minari is not installed: pip install worldmodel[minari]")


@pytest.mark.parametrize("space", [spaces.Discrete(4), NESTED, spaces.Box(-2, 2, (3,), np.float32)], ids=str)
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_minari_and_back_is_exact(tmp_path, minari, space, vector):
    more = {"proprio": np.random.default_rng(0).normal(size=(7, 2))} if vector else {}
    replay = Replay.from_arrays(tmp_path / "r", space, [given(6, i, space, **more) for i in range(3)])
    dataset = replay.to_minari("wm/there-v0", author="nobody")
    assert dataset.total_episodes == 3 and dataset.total_steps == 18 and dataset.action_space == space
    stored = minari.load_dataset("wm/there-v0")
    seen = next(iter(stored.iterate_episodes([1]))).observations
    assert np.array_equal(seen["frames"] if vector else seen, replay.episode(1).frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LossyPixels)
        back = Replay.from_minari("wm/there-v0", tmp_path / "back")
    assert not back.lossy and back.action_space == space
    for a, b in zip(replay, back, strict=True):
        for key in ("frames", "actions", "rewards", "terminated", "truncated"):
            assert np.array_equal(getattr(a, key), getattr(b, key)), key
        assert not vector or np.array_equal(a.proprio, b.proprio)


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_jpeg_in_minari_is_read_with_a_warning(tmp_path, minari):
    flags = {"rewards": [0.0] * 6, "terminations": [False] * 6, "truncations": [False] * 6}
    buffer = minari.data_collector.EpisodeBuffer(observations=moving(6), actions=np.zeros(6, int), **flags)
    image = spaces.Box(0, 255, (48, 64, 3), np.uint8)
    options = {"action_space": spaces.Discrete(2), "observation_space": image, "data_format": "hdf5"}
    minari.create_dataset_from_buffers("wm/jpeg-v0", [buffer], **options)
    with pytest.warns(LossyPixels, match="JPEG"):
        replay = Replay.from_minari("wm/jpeg-v0", tmp_path / "r")
    assert replay.lossy and Replay.open(tmp_path / "r").lossy
    assert not np.array_equal(replay.episode(0).frames, moving(6))


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_minari_without_images_is_refused(tmp_path, minari):
    observations = np.zeros((4, 3), np.float32)
    flags = {"rewards": [0.0] * 3, "terminations": [False] * 3, "truncations": [False] * 3}
    buffer = minari.data_collector.EpisodeBuffer(observations=observations, actions=np.zeros(3, int), **flags)
    options = {"action_space": spaces.Discrete(2), "data_format": "hdf5"}
    options["observation_space"] = spaces.Box(-1, 1, (3,), np.float32)
    minari.create_dataset_from_buffers("wm/blind-v0", [buffer], **options)
    with pytest.raises(ValueError, match="has no images"):
        Replay.from_minari("wm/blind-v0", tmp_path / "r")


# ---- video ----


@pytest.fixture
def av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install worldmodel[video]")


@pytest.mark.parametrize("size", [(48, 64), (33, 47)], ids=str)
def test_a_lossless_film_comes_back_exactly(tmp_path, av, size):
    frames = np.random.default_rng(0).integers(0, 256, (12, *size, 3), np.uint8)
    save_mp4(tmp_path / "a.mp4", frames, fps=8.75)
    actions = np.random.default_rng(1).integers(0, 4, 11)
    np.save(tmp_path / "a.npy", actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"frames": None, "actions": [tmp_path / "a.npy"], "action_space": spaces.Discrete(4)}
        replay = Replay.from_video(tmp_path / "a.mp4", tmp_path / "r", **options)
    assert np.array_equal(replay.episode(0).frames, frames) and not replay.lossy and replay.fps == 8.75
    assert np.array_equal(replay.unpack(replay.episode(0).actions), actions)


def test_a_lossy_film_is_read_with_a_warning(tmp_path, av):
    save_mp4(tmp_path / "a.mp4", moving(9), lossless=False)
    with pytest.warns(LossyPixels, match="a.mp4"):
        replay = Replay.from_video([tmp_path / "a.mp4"], tmp_path / "r", frames=(24, 32))
    assert (
        replay.frame_shape == (24, 32, 3)
        and Replay.open(tmp_path / "r").lossy
        and not replay.episode(0).labelled
    )


def test_long_films_are_cut_and_no_step_is_lost(tmp_path, av):
    frames, actions = moving(25), np.arange(25)
    save_mp4(tmp_path / "a.mp4", frames)
    options = {"frames": None, "action_space": spaces.Discrete(30), "piece": 10}
    replay = Replay.from_video([tmp_path / "a.mp4"], tmp_path / "r", actions=[actions], **options)
    assert list(replay.lengths) == [10, 10, 5] and replay.episode(1).name == "a.mp4#1"
    got = np.concatenate([replay.unpack(e.actions) for e in replay])
    assert np.array_equal(got, actions)
    for i, episode in enumerate(replay):
        assert np.array_equal(episode.frames, frames[10 * i : 10 * i + len(episode) + 1])
    exact = Replay.from_video([tmp_path / "a.mp4"], tmp_path / "s", frames=None, piece=25)
    assert list(exact.lengths) == [25]
    third = Replay.from_video([tmp_path / "a.mp4"], tmp_path / "t", frames=None, every=3)
    assert np.array_equal(third.episode(0).frames, frames[::3]) and third.fps == 5


@pytest.mark.parametrize("alignment, kept", [("leaving", slice(0, 9)), ("arriving", slice(1, 10))])
def test_one_action_a_frame_is_aligned_as_told(tmp_path, av, alignment, kept):
    save_mp4(tmp_path / "a.mp4", moving(9))
    options = {"frames": None, "action_space": spaces.Discrete(30), "actions": [np.arange(10)]}
    with pytest.raises(
        ValueError, match=r"a.mp4: 10 frames want 9 actions between them, got 10; if.*alignment"
    ):
        Replay.from_video([tmp_path / "a.mp4"], tmp_path / "r", **options)
    replay = Replay.from_video([tmp_path / "a.mp4"], tmp_path / "r", alignment=alignment, **options)
    assert np.array_equal(replay.unpack(replay.episode(0).actions), np.arange(10)[kept])


def test_action_files_of_every_kind(tmp_path, av):
    save_mp4(tmp_path / "a.mp4", moving(4))
    aim = spaces.Box(-1, 1, (2,), np.float32)
    values = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", actions=values)
    np.savetxt(tmp_path / "a.csv", values, delimiter=",")
    (tmp_path / "a.json").write_text(json.dumps(values.tolist()))
    for kind in ("npy", "npz", "csv", "json"):
        options = {"frames": None, "action_space": aim, "actions": [tmp_path / f"a.{kind}"]}
        replay = Replay.from_video(tmp_path / "a.mp4", tmp_path / kind, **options)
        assert np.allclose(replay.unpack(replay.episode(0).actions), values)
    (tmp_path / "b.npy").write_bytes(b"not numbers")
    for file, message in (("b.npy", "no actions in it"), ("a.txt", "come from .npy")):
        options = {"action_space": aim, "actions": [tmp_path / file]}
        with pytest.raises(ValueError, match=message):
            Replay.from_video(tmp_path / "a.mp4", tmp_path / "bad", **options)


def test_what_is_no_film_is_one_clear_error(tmp_path, av):
    (tmp_path / "bad.mp4").write_bytes(b"no film" * 100)
    with pytest.raises(ValueError, match="bad.mp4: not a video"):
        Replay.from_video(tmp_path / "bad.mp4", tmp_path / "r")
    with pytest.raises(FileNotFoundError, match="none.mp4"):
        Replay.from_video(tmp_path / "none.mp4", tmp_path / "r")
    save_mp4(tmp_path / "one.mp4", moving(0))
    with pytest.raises(ValueError, match="one.mp4: 1 frames"):
        Replay.from_video(tmp_path / "one.mp4", tmp_path / "r")
    with pytest.raises(ValueError, match="give action_space"):
        Replay.from_video(tmp_path / "one.mp4", tmp_path / "r", actions=[[1]])
    assert not (tmp_path / "r").exists()


def test_missing_extras_name_their_pip_command(tmp_path, monkeypatch):
    import sys

    for module in ("av", "minari"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[video\]"'):
        Replay.from_video(tmp_path / "a.mp4", tmp_path / "r")
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[video\]"'):
        save_mp4(tmp_path / "a.mp4", moving(3))
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[minari\]"'):
        Replay.from_minari("wm/there-v0")
    with pytest.raises(ImportError, match=r'pip install "worldmodel\[minari\]"'):
        Replay.to_minari(SimpleNamespace(), "wm/there-v0")
