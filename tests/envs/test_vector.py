"""The vector environment equals Gymnasium's SyncVectorEnv of single ones, bit for bit, in every autoreset
mode.
"""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import tiny
import worldmodel as wm
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space
from worldmodel.envs import ID, Imagined, ImaginedVector

N = 3


@pytest.fixture(scope="module")
def restless(replay):
    """A world whose episodes end often, at different times, and are cut at 5."""
    world = tiny.make_world(replay, termination=-1.5)
    world.config.max_episode_steps = 5
    return world


def equal(a, b):
    """Nested dicts, arrays and object arrays alike, dtypes too."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == object:
        return (
            b.dtype == object
            and a.shape == b.shape
            and all(x is y is None or equal(x, y) for x, y in zip(a, b, strict=True))
        )
    return a.dtype == b.dtype and np.array_equal(a, b)


# ---- against Gymnasium's own ----


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_equals_sync_vector_env(restless, mode):
    ours = ImaginedVector(restless, N, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: Imagined(restless)] * N, autoreset_mode=mode)
    assert ours.single_action_space == theirs.single_action_space and ours.action_space == theirs.action_space
    assert ours.observation_space == theirs.observation_space
    assert equal(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    ours.action_space.seed(0)
    ends = np.zeros(2, int)
    for _ in range(30):
        actions = ours.action_space.sample()
        a, b = ours.step(actions), theirs.step(actions)
        for name, x, y in zip(("frames", "rewards", "terminated", "truncated", "infos"), a, b, strict=True):
            assert equal(x, y), (name, x, y)
        ends += a[2].sum(), a[3].sum()
    assert ends.min() > 2


def test_disabled_equals_sync_vector_env(restless):
    ours = ImaginedVector(restless, N, autoreset_mode="Disabled")
    theirs = SyncVectorEnv([lambda: Imagined(restless)] * N, autoreset_mode=AutoresetMode.DISABLED)
    assert equal(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    some = 0
    for _ in range(20):
        actions = np.array([1, 0, -1])
        a, b = ours.step(actions), theirs.step(actions)
        assert all(equal(x, y) for x, y in zip(a, b, strict=True))
        over = a[2] | a[3]
        if over.any():
            some += not over.all()
            with pytest.raises(gym.error.ResetNeeded, match=str(np.flatnonzero(over).tolist()).replace("[", r"\[")):
                ours.step(actions)
            options = {"reset_mask": over}
            assert equal(ours.reset(options=options)[0], theirs.reset(options=dict(options))[0])
            assert "reset_mask" in options, "the caller's dict stays as it is"
    assert some


@pytest.mark.parametrize("name", tiny.SPACES)
def test_any_action_space(name, tmp_path):
    world = tiny.make_world(tiny.make_replay(tmp_path / "replay", tiny.SPACES[name]))
    ours, theirs = ImaginedVector(world, 2), SyncVectorEnv([lambda: Imagined(world)] * 2)
    assert ours.action_space == batch_space(tiny.SPACES[name], 2)
    ours.reset(seed=0), theirs.reset(seed=0)
    for _ in range(3):
        actions = ours.action_space.sample()
        assert all(equal(x, y) for x, y in zip(ours.step(actions), theirs.step(actions), strict=True))


# ---- the three modes by hand ----


@pytest.fixture(scope="module")
def timed(replay):
    """Never terminates; truncated after 2 steps."""
    world = tiny.make_world(replay, termination=-1e4)
    world.config.max_episode_steps = 2
    return world


def test_next_step_ignores_the_action_after_an_end(timed):
    envs = ImaginedVector(timed, N)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset(seed=0)
    assert not envs.step(np.zeros(N, int))[3].any()
    last, _, terminated, truncated, infos = envs.step(np.zeros(N, int))
    assert truncated.all() and not terminated.any() and infos == {}
    states = [copy.deepcopy(envs), envs]
    results = [e.step(np.full(N, a)) for e, a in zip(states, (-1, 1), strict=True)]
    for frames, rewards, terminated, truncated, _ in results:
        assert np.array_equal(frames, results[0][0]) and not rewards.any() and not (terminated | truncated).any()
        assert any(np.array_equal(frames[0], f) for f in timed.starts[0][:, -1]) and not np.array_equal(frames, last)


def test_same_step_gives_the_last_frame_in_infos(timed):
    next_, same = ImaginedVector(timed, N), ImaginedVector(timed, N, autoreset_mode="SameStep")
    next_.reset(seed=0), same.reset(seed=0)
    same._lanes.limits[1] = 1  # one ends a step earlier
    next_.step(np.zeros(N, int))
    frames, _, _, truncated, infos = same.step(np.zeros(N, int))
    assert truncated.tolist() == [False, True, False]
    assert infos.keys() == {"final_obs", "_final_obs", "final_info", "_final_info"}
    for key in ("_final_obs", "_final_info"):
        assert infos[key].tolist() == [False, True, False] and infos[key].dtype == bool
    assert infos["final_obs"].dtype == object and infos["final_obs"][0] is None
    assert np.array_equal(infos["final_obs"][1], next_._lanes.frames[1])
    assert not np.shares_memory(infos["final_obs"][1], frames)
    assert any(np.array_equal(frames[1], f) for f in timed.starts[0][:, -1])
    assert not same.step(np.zeros(N, int))[3][1]


def test_reset_mask_begins_only_those(timed):
    envs = ImaginedVector(timed, N, autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = envs.step(np.zeros(N, int))[0]
    mask = np.array([False, True, False])
    frames, _ = envs.reset(seed=[None, 5, None], options={"reset_mask": mask})
    assert np.array_equal(frames[~mask], before[~mask]) and np.array_equal(frames[1], Imagined(timed).reset(seed=5)[0])
    assert envs.step(np.zeros(N, int))[3].tolist() == [True, False, True]


@pytest.mark.parametrize(
    "mask",
    [np.zeros(N, bool), np.ones(N, int), np.ones(N + 1, bool), [True] * N, np.ones((N, 1), bool), True],
)
def test_a_wrong_mask_is_refused(timed, mask):
    with pytest.raises(ValueError, match="reset_mask"):
        ImaginedVector(timed, N).reset(options={"reset_mask": mask})


# ---- each lane by itself ----


def test_environment_k_is_the_single_one_of_seed_k(restless):
    envs = ImaginedVector(restless, N, autoreset_mode="Disabled")
    frames, _ = envs.reset(seed=20)
    for k in range(N):
        assert np.array_equal(Imagined(restless).reset(seed=20 + k)[0], frames[k])
    assert np.array_equal(frames, envs.reset(seed=[20, 21, 22])[0])
    assert not np.array_equal(frames, envs.reset()[0])


def test_ragged_lanes_equal_separate_runs(timed):
    envs, separate = (
        ImaginedVector(timed, N, max_episode_steps=6),
        [Imagined(timed, max_episode_steps=6) for _ in range(N)],
    )
    envs.reset(seed=0)
    for k, env in enumerate(separate):
        env.reset(seed=k)
    for t in range(9):
        mask = np.array([t == 2, t == 1, False])
        if mask.any():
            envs.reset(options={"reset_mask": mask})
            [separate[k].reset() for k in np.flatnonzero(mask)]
        actions = np.array([t % 3 - 1, 0, 1])
        over = envs._done.copy()
        frames, rewards, _, truncated, _ = envs.step(actions)
        for k, env in enumerate(separate):
            frame, reward, _, late, _ = (*env.reset()[:1], 0.0, False, False, {}) if over[k] else env.step(actions[k])
            assert np.array_equal(frames[k], frame) and rewards[k] == reward and truncated[k] == late


def test_starts_may_differ(timed):
    envs, (kept, _) = ImaginedVector(timed, N), timed.starts
    assert np.array_equal(envs.reset(options={"start": [2, 0, 1]})[0], kept[[2, 0, 1], -1])
    assert np.array_equal(envs.reset(options={"start": 1})[0], kept[[1, 1, 1], -1])
    assert np.array_equal(envs.reset(options={"frames": kept[:N]})[0], kept[:N, -1])
    actions = [[0] * (kept.shape[1] - 1), [1] * (kept.shape[1] - 1), [-1] * (kept.shape[1] - 1)]
    envs.reset(seed=0, options={"frames": kept[:N], "actions": actions})
    frames = envs.step(np.zeros(N, int))[0]
    for k in range(N):
        single = Imagined(timed)
        single.reset(seed=k, options={"frames": kept[k], "actions": actions[k]})
        assert np.array_equal(single.step(0)[0], frames[k])


# ---- branching ----


def play(envs, steps=12, seed=0):
    rng = np.random.default_rng(seed)
    return [envs.step(rng.integers(-1, 2, envs.num_envs)) for _ in range(steps)]


def alike(a, b):
    return all(equal(x, y) for i, j in zip(a, b, strict=True) for x, y in zip(i, j, strict=True))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_a_state_put_back_continues_alike(restless, mode):
    envs = ImaginedVector(restless, N, autoreset_mode=mode)
    envs.reset(seed=3)
    play(envs, 4)
    state = pickle.loads(pickle.dumps(envs.get_state()))
    clones = [pickle.loads(pickle.dumps(envs)), copy.deepcopy(envs)]
    wanted = play(envs)
    envs.set_state(state)
    assert alike(wanted, play(envs))
    assert all(alike(wanted, play(clone)) for clone in clones)


def test_a_fork_repeats_its_future_and_a_seeded_one_does_not(restless):
    envs = ImaginedVector(restless, 4)
    envs.reset(seed=3)
    play(envs, 3)
    envs.fork(1, 2)
    for t in range(20):
        frames, rewards, terminated, truncated, _ = envs.step(np.full(4, t % 3 - 1))
        for k in (2, 3):
            assert np.array_equal(frames[1], frames[k]) and rewards[1] == rewards[k]
            assert (terminated[1], truncated[1]) == (terminated[k], truncated[k])
        assert not np.array_equal(frames[0], frames[1])
    envs.fork(3, [0, 1], seed=5)
    branches = envs.step(np.zeros(4, int))[0]
    assert len(np.unique(branches[[0, 1, 3]].reshape(3, -1), axis=0)) == 3
    again = ImaginedVector(restless, 4)
    again.reset(seed=3)
    play(again, 3)
    again.fork(1, 2)
    for t in range(20):
        again.step(np.full(4, t % 3 - 1))
    again.fork(3, [0, 1], seed=5)
    assert np.array_equal(again.step(np.zeros(4, int))[0], branches)


def test_a_fork_wraps_round_and_checks_its_arguments(timed):
    envs = ImaginedVector(timed, N)
    with pytest.raises(gym.error.ResetNeeded):
        envs.fork(0, 1)
    frames, _ = envs.reset(seed=0)
    envs.fork(2, 1)
    assert np.array_equal(envs._lanes.frames, frames[[2, 1, 2]])
    for index, times in ((N, 1), (-1, 1), (0, N), (0, -1), (0, [N]), (0, [0.5])):
        with pytest.raises(ValueError, match="fork"):
            envs.fork(index, times)


# ---- conventions ----


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_make_vec(world_file, mode):
    envs = gym.make_vec(ID, num_envs=2, vectorization_mode=mode, world=world_file)
    frames, infos = envs.reset(seed=0)
    assert frames.shape == (2, 16, 16, 3) and frames in envs.observation_space and infos == {}
    frames, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
    assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == bool
    assert rewards.shape == terminated.shape == truncated.shape == (2,)
    assert envs.spec is not None and envs.num_envs == 2
    if mode == "vector_entry_point":
        assert isinstance(envs.unwrapped, ImaginedVector)
        cut = gym.make_vec(ID, num_envs=2, vectorization_mode=mode, world=world_file, max_episode_steps=1)
        cut.reset(seed=0)
        assert (cut.step(cut.action_space.sample())[3] | cut._done).all()
    envs.close(), envs.close()
    assert envs.closed


def test_each_environment_in_a_process_of_its_own(world_file):
    before = wm.threads()
    wm.set_threads(2)  # the children are forked from a process that has run threads
    try:
        one = gym.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point", world=world_file)
        frames = one.reset(seed=3)[0]
        envs = gym.make_vec(ID, num_envs=2, vectorization_mode="async", world=world_file)
        assert np.array_equal(envs.reset(seed=3)[0], frames)
        assert np.array_equal(envs.step(np.array([0, 1]))[0], one.step(np.array([0, 1]))[0])
        envs.close()
    finally:
        wm.set_threads(before)


def test_wrappers_of_gymnasium_work(restless):
    envs = gym.wrappers.vector.RecordEpisodeStatistics(ImaginedVector(restless, N, autoreset_mode="SameStep"))
    envs.reset(seed=0)
    episodes = 0
    for _ in range(12):
        *_, infos = envs.step(envs.action_space.sample())
        episodes += infos.get("_episode", np.zeros(N, bool)).sum()
    assert episodes > 2


def test_arrays_are_fresh(timed):
    envs = ImaginedVector(timed, N, render_mode="rgb_array")
    first, _ = envs.reset(seed=0)
    results = [envs.step(np.zeros(N, int)) for _ in range(2)]
    for i in range(4):
        assert not np.shares_memory(results[0][i], results[1][i])
    arrays = [first, results[0][0], results[1][0], *envs.render(), envs._lanes.frames]
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            assert not np.shares_memory(a, b) or (a.base is not None and a.base is b.base)
    assert len(envs.render()) == N and np.array_equal(envs.render()[1], results[1][0][1])
    done = results[1][3]
    done[:] = False
    assert envs._done.all(), "the caller may write into what it got"


def test_features_are_left_for_policies(timed):
    envs = ImaginedVector(timed, N)
    envs.reset(seed=0)
    assert envs.features.shape == (N, timed.dynamics.feature_size) and not envs.features.any()
    envs.step(np.zeros(N, int))
    assert envs.features.any(1).all()


def test_wrong_arguments(timed):
    wrong = [
        ("render_mode", "human"),
        ("autoreset_mode", "Sometimes"),
        ("num_envs", 0),
        ("num_envs", 2.0),
        ("steps", 0),
    ]
    for name, value in wrong:
        with pytest.raises(ValueError, match=name):
            ImaginedVector(timed, **{"num_envs": 2, name: value})
    envs = ImaginedVector(timed, N)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(N, int))
    envs.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(N, int))
    envs.reset(seed=0)
    for actions in (np.zeros(N - 1, int), np.full(N, 2), np.full(N, 0.5), 0, None):
        with pytest.raises((ValueError, TypeError)):
            envs.step(actions)
    with pytest.raises(ValueError, match="seed"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="done"):
        envs.set_state({})
    with pytest.raises(ValueError, match="'start'"):
        envs.reset(options={"start": [0, 1]})
