"""batch: windows, masks, alignment, the law of drawing, and streams that resume bit for bit."""

import time

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.data import Episode, Replay, Windows
from worldmodel.data.batch import philox

FIELDS = ("frames", "actions", "rewards", "terminated", "truncated", "mask", "acted", "known", "frame_known")


def numbered(path, lengths, **options):
    """Frame t of episode e holds (e, t); the action of step t is t, its reward 100 e + t."""
    replay = Replay.create(path, spaces.Discrete(100, start=0), (2, 2, 3), **options)
    for e, T in enumerate(lengths):
        frames = np.zeros((T + 1, 2, 2, 3), np.uint8)
        frames[:, 0, 0, 0], frames[:, 0, 0, 1] = e, np.arange(T + 1)
        ends = np.zeros((2, T), bool)
        ends[e % 2, -1] = True
        rewards = 100.0 * e + np.arange(T)
        replay.append(Episode(frames, replay.pack(np.arange(T)), rewards, *ends, last_frame_known=e != 1))
    return replay


def same(a, b):
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in FIELDS)


def test_a_window_shows_one_episode_in_order_and_its_masks(tmp_path):
    lengths = [3, 1, 20]
    replay = numbered(tmp_path / "r", lengths)
    batch = replay.sample(0, 400, 6)
    assert batch.frames.shape == (400, 6, 2, 2, 3) and batch.frames.dtype == np.uint8
    actions = replay.unpack(batch.actions.reshape(-1, 8)).reshape(400, 6)
    for b in range(400):
        e, s = int(batch.episode[b]), int(batch.start[b])
        T = lengths[e]
        for t in range(6):
            at = s + t
            exists, acts = at <= T, at < T
            assert batch.mask[b, t] == exists and batch.acted[b, t] == acts and batch.known[b, t] == acts
            assert tuple(batch.frames[b, t, 0, 0, :2]) == (e, min(at, T))
            assert batch.is_first[b, t] == (at == 0)
            assert batch.frame_known[b, t] == (exists and (e != 1 or at < T))
            assert actions[b, t] == (at if acts else 0) and batch.rewards[b, t] == (
                100 * e + at if acts else 0
            )
            assert batch.terminated[b, t] == (at == T - 1 and e % 2 == 0)
            assert batch.truncated[b, t] == (at == T - 1 and e % 2 == 1)
        assert T + 1 < 6 or batch.mask[b].all(), "no padding where the episode is long enough"
    assert set(batch.episode) == {0, 1, 2}


def test_arriving_is_the_same_steps_one_frame_later(tmp_path):
    replay = numbered(tmp_path / "r", [9, 2])
    batch = replay.sample(3, 50, 5)
    arriving = batch.arriving()
    for key in ("actions", "rewards", "terminated", "truncated", "known"):
        assert (
            np.array_equal(arriving[key][:, 1:], getattr(batch, key)[:, :-1])
            and not arriving[key][:, 0].any()
        )
    assert np.array_equal(arriving["stepped"][:, 1:], batch.acted[:, :-1])


def test_features_are_those_of_the_actions_and_zero_where_unknown(tmp_path):
    replay = numbered(tmp_path / "r", [9, 2])
    batch = replay.sample(3, 50, 5)
    features = replay.features(batch)
    assert features.shape == (50, 5, 100) and features.dtype == np.float32
    actions = replay.unpack(batch.actions.reshape(-1, 8)).reshape(50, 5)
    assert (features.argmax(-1)[batch.known] == actions[batch.known]).all()
    assert (features.sum(-1) == batch.known).all()


def test_every_frame_is_drawn_about_as_often_and_ends_no_less(tmp_path):
    frames, length = np.array([4, 40, 13]), 8
    words = np.random.default_rng(0).integers(0, 2**64, 200_000, np.uint64)
    which, start = Windows(frames, length).draw(words)
    assert (start >= 0).all() and (start + length <= np.maximum(frames[which], length)).all()
    seen = [np.zeros(n) for n in frames]
    for e, n in enumerate(frames):
        for t in range(n):
            seen[e][t] = ((which == e) & (start <= t) & (t < start + length)).mean()
    middle = seen[1][15:25].mean()
    assert abs(middle - length / (frames + length - 1).sum()) < 0.005
    assert min(s.min() for s in seen) > 0.95 * middle, "first and last frames are not rare"


def test_drawing_follows_the_definition(tmp_path):
    frames, length = np.array([5, 9]), 4
    which, start = Windows(frames, length).draw(np.array([0, 2**63, 2**64 - 1], np.uint64))
    # 8 + 12 windows; floor(w 20 / 2^64) = 0, 10, 19: start -3 of the first, -1 and 8 of the second
    assert list(which) == [0, 1, 1] and list(start) == [0, 0, 5]


def test_philox_agrees_with_the_published_vectors():
    # Random123 kat_vectors, philox4x32 10 rounds: counter and key of zeros -> 6627e8d5 e169c58d ...
    assert philox(0, np.array([0], np.uint64))[0] == 0xE169C58D_6627E8D5
    counters = np.arange(5, dtype=np.uint64)
    assert len(set(philox(7, counters).tolist())) == 5
    assert np.array_equal(philox(7, counters)[3:], philox(7, counters[3:]))
    assert philox(2**64 - 1, counters)[0] != philox(2**32 - 1, counters)[0]


def test_a_batch_of_sixteen_is_two_of_eight(tmp_path):
    replay = numbered(tmp_path / "r", [30, 5, 12])
    rng, big = np.random.default_rng(5), replay.sample(5, 16, 4)
    halves = [replay.sample(rng, 8, 4) for _ in range(2)]
    assert np.array_equal(np.concatenate([h.frames for h in halves]), big.frames)
    with replay.batches(16, 4, 9) as one, replay.batches(8, 4, 9) as two:
        whole, first, second = next(one), next(two), next(two)
    assert np.array_equal(np.concatenate([first.rewards, second.rewards]), whole.rewards)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_stream_resumes_bit_for_bit(tmp_path, prefetch):
    replay = numbered(tmp_path / "r", [30, 5, 12])
    with replay.batches(4, 6, seed=11, prefetch=0) as stream:
        wanted = [next(stream) for _ in range(12)]
    with replay.batches(4, 6, seed=11, prefetch=prefetch) as stream:
        assert all(same(next(stream), w) for w in wanted[:5])
        state = stream.state()
    again = Replay.open(tmp_path / "r").batches(4, 6, seed=0, prefetch=prefetch)
    next(again)  # wherever it was
    again.set_state(state)
    assert all(same(next(again), w) for w in wanted[5:]) and again.state()["position"] == 48
    again.close()


def test_a_state_of_another_replay_is_refused(tmp_path):
    replay = numbered(tmp_path / "r", [30, 5])
    state = replay.batches(4, 6).state()
    with pytest.raises(ValueError, match="length 6, this replay has 7"):
        replay.batches(4, 7).set_state(state)
    with pytest.raises(ValueError, match="episodes"):
        replay.split(0.5)[0].batches(4, 6).set_state(state)


def test_an_error_while_reading_ahead_reaches_the_reader(tmp_path):
    replay = numbered(tmp_path / "r", [30, 5])
    (tmp_path / "r" / "frames.bin").write_bytes(b"")
    with replay.batches(2, 4) as stream, pytest.raises(ValueError, match="frames.bin: ends at byte"):
        next(stream)


def test_unlabelled_episodes_have_no_known_actions(tmp_path):
    replay = numbered(tmp_path / "r", [6])
    frames, flags = np.zeros((7, 2, 2, 3), np.uint8), np.zeros(6, bool)
    rows = np.full((6, 8), 255, np.uint8)  # not an action at all: must not be looked at
    replay.append(Episode(frames, rows, np.zeros(6), flags, flags, labelled=False))
    batch = Replay.open(tmp_path / "r").sample(0, 64, 3)
    told = batch.episode == 0
    assert batch.known[told].any() and not batch.known[~told].any() and batch.acted[~told].any()
    assert not batch.actions[~told].any()


def test_sampling_asks_for_something_sensible(tmp_path):
    replay = Replay.create(tmp_path / "r", spaces.Discrete(2), (2, 2, 3))
    with pytest.raises(ValueError, match="no episodes yet"):
        replay.sample(0, 4, 4)
    replay = numbered(tmp_path / "s", [3])
    with pytest.raises(ValueError, match="length"):
        replay.sample(0, 4, 0)
    with pytest.raises(ValueError, match="outside its episode"):
        replay.gather(np.array([0]), np.array([4]), 2)
    with pytest.raises(ValueError, match="batch"):
        replay.batches(0, 2)


def test_sampling_takes_well_under_two_milliseconds(tmp_path):
    replay = Replay.create(tmp_path / "r", spaces.Discrete(4), (64, 64, 3))
    for e in range(20):
        frames, flags = np.full((76, 64, 64, 3), e, np.uint8), np.zeros(75, bool)
        replay.append(
            Episode(frames, replay.pack(np.zeros(75, int)), np.zeros(75), flags, flags), commit=False
        )
    replay.commit()
    rng, took = np.random.default_rng(0), []
    for _ in range(100):
        began = time.perf_counter()
        replay.sample(rng, 16, 8)
        took.append(time.perf_counter() - began)
    assert min(took) < 2e-3
