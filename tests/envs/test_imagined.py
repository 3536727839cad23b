"""The imagined environment is a Gymnasium environment like any other, and exact in what it promises."""

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import tiny
import worldmodel as wm
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from worldmodel.envs import ID, Imagined


def rollout(env, steps, seed=None, options=None, actions=None):
    """Frames, rewards and ends of an episode, begun anew whenever it ends; actions are drawn from the seed."""
    space = env.action_space
    space.seed(0 if seed is None else seed)
    rows = [(env.reset(seed=seed, options=options)[0], 0.0, False, False)]
    for t in range(steps):
        rows.append(env.step(space.sample() if actions is None else actions[t])[:4])
        if rows[-1][2] or rows[-1][3]:
            rows.append((env.reset()[0], 0.0, False, False))
    return rows


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x[0], y[0]) and x[1:] == y[1:] for x, y in zip(a, b, strict=True))


# ---- Gymnasium's own checks ----


@pytest.mark.filterwarnings("error")
def test_passes_check_env(world_file, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pytest.importorskip("pygame", reason="pip install 'worldmodel[play]' for render_mode human")
    env = gym.make(ID, world=world_file, render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", tiny.SPACES)
def test_any_action_space_passes_check_env(name, tmp_path):
    replay = tiny.make_replay(tmp_path / "replay", tiny.SPACES[name])
    env = Imagined(tiny.make_world(replay))
    check_env(env, skip_render_check=True, skip_close_check=True)
    assert env.action_space == tiny.SPACES[name] == replay.action_space
    assert same(rollout(env, 5, seed=1), rollout(env, 5, seed=1))


def test_spaces_are_those_of_the_data(world, replay):
    env = Imagined(world)
    assert env.action_space == replay.action_space
    assert env.observation_space == gym.spaces.Box(0, 255, replay.frame_shape, np.uint8)
    frame, info = env.reset(seed=0)
    assert frame in env.observation_space and info == {}


def test_make_keeps_a_spec_that_survives_json(world_file):
    env = gym.make(ID, world=world_file, steps=2)
    again = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert same(rollout(env, 6, seed=3), rollout(gym.make(again), 6, seed=3))


def test_two_made_alike_match(world_file):
    check_environments_match(gym.make(ID, world=world_file), gym.make(ID, world=world_file), num_steps=10)


def test_make_takes_a_world_and_shares_it(world):
    env = gym.make(ID, world=world)
    assert env.unwrapped.world is world and env.spec is not None
    assert same(rollout(env, 6, seed=3), rollout(Imagined(world), 6, seed=3))


@pytest.mark.parametrize("first", ["import worldmodel, gymnasium", "import gymnasium, worldmodel", "import gymnasium"])
def test_importing_worldmodel_registers(first, world_file):
    name = ID if "worldmodel" in first else f"worldmodel:{ID}"
    code = f"{first}; e = gymnasium.make({name!r}, world={world_file!r}); print(e.reset(seed=0)[0].shape)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "(16, 16, 3)"


def test_importing_worldmodel_imports_nothing_heavy():
    heavy = "('gymnasium', 'numpy', 'worldmodel._core')"
    code = f"import sys, worldmodel; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ---- seeds and copies ----


def test_same_seed_same_bits(world):
    a, b = rollout(Imagined(world), 12, seed=5), rollout(Imagined(world), 12, seed=5)
    assert same(a, b) and not same(a, rollout(Imagined(world), 12, seed=6))


def test_a_second_reset_goes_on_in_the_same_stream(world):
    a, b = Imagined(world), Imagined(world)
    for env in (a, b):
        env.reset(seed=5)
    x, y = rollout(a, 4), rollout(b, 4)
    assert same(x, y) and not same(x, rollout(a, 4))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(world, threads):
    before, wanted = wm.threads(), rollout(Imagined(world), 8, seed=2)
    wm.set_threads(threads)
    try:
        assert same(wanted, rollout(Imagined(world), 8, seed=2))
    finally:
        wm.set_threads(before)


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"]
)
def test_a_copied_environment_continues_alike(world, clone):
    env = Imagined(world, steps=2)
    rollout(env, 5, seed=4)
    other = clone(env)
    assert other.world is not env.world
    actions = [env.action_space.sample() for _ in range(20)]
    assert same(continued(env, actions), continued(other, actions))


def continued(env, actions):
    rows = []
    for action in actions:
        rows.append(env.step(action)[:4])
        if rows[-1][2] or rows[-1][3]:
            rows.append((env.reset()[0], 0.0, False, False))
    return rows


def test_a_state_put_back_continues_alike(world):
    env = Imagined(world)
    rollout(env, 5, seed=4)
    state, actions = (
        pickle.loads(pickle.dumps(env.get_state())),
        [env.action_space.sample() for _ in range(30)],
    )
    wanted = continued(env, actions)
    env.set_state(state)
    assert same(wanted, continued(env, actions))
    other = Imagined(world)
    other.set_state(state)
    assert same(wanted, continued(other, actions))


def test_a_policy_can_be_pickled(world):
    policy = wm.Policy.for_world(world, width=4, features=16)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    actions, _ = policy(frames, np.ones(2, bool))
    again, _ = pickle.loads(pickle.dumps(policy))(frames, np.ones(2, bool))
    assert actions == again


# ---- what a step returns ----


def test_values_are_of_the_declared_types(world):
    env = Imagined(world)
    env.reset(seed=0)
    frame, reward, terminated, truncated, info = env.step(-1)
    assert frame.dtype == np.uint8 and type(reward) is float
    assert type(terminated) is bool and type(truncated) is bool and info == {}
    assert env.step(-1)[4] is not info


def test_frames_are_fresh_arrays(world):
    env = Imagined(world, render_mode="rgb_array")
    frames = [env.reset(seed=0)[0], env.step(0)[0], env.step(0)[0], env.render(), env.render()]
    for i, a in enumerate(frames):
        for b in frames[:i]:
            assert not np.shares_memory(a, b)
    frames[2][:] = 0
    assert env.render().any()


def test_actions_and_noise_matter(world):
    env = Imagined(world)
    frames = {a: (env.reset(seed=0), env.step(a)[0])[1] for a in (-1, 0, 1)}
    assert not np.array_equal(frames[-1], frames[0]) and not np.array_equal(frames[0], frames[1])
    env.reset(seed=0)
    start = env.get_state()
    env.reset(seed=1)
    start["sampler"]["stream"] = env.get_state()["sampler"]["stream"]
    env.set_state(start)
    assert not np.array_equal(env.step(0)[0], frames[0])


def test_termination_follows_its_probability(replay):
    never, always = (Imagined(tiny.make_world(replay, termination=t), max_episode_steps=40) for t in (-1e4, 1e4))
    never.reset(seed=0), always.reset(seed=0)
    assert always.step(0)[2:4] == (True, False)
    assert [never.step(0)[2:4] for _ in range(40)] == [(False, False)] * 39 + [(False, True)]


# ---- where an episode ends and begins ----


def test_truncated_where_the_data_were(world, replay):
    assert world.config.max_episode_steps == replay.lengths.max() == 15


@pytest.mark.parametrize(
    "env_id, options, limit",
    [("CartPole-v1", {}, 500), ("CartPole-v1", {"frame_skip": 3}, 167), ("MountainCar-v0", {}, 200)],
)
def test_truncated_where_the_real_environment_says(env_id, options, limit, tmp_path):
    recipe = {"env_id": env_id, "pixels": "render", **options}
    replay = tiny.make_replay(tmp_path / "replay", environment=recipe)
    assert tiny.make_world(replay).config.max_episode_steps == limit


def test_horizon_shortens_one_episode(replay):
    env = Imagined(tiny.make_world(replay, termination=-1e4))
    env.reset(seed=0, options={"horizon": 2})
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    env.reset()
    assert [env.step(0)[3] for _ in range(15)] == [False] * 14 + [True]


def test_starts_from_the_row_asked_for(world):
    env, (frames, _) = Imagined(world), world.starts
    assert len(frames) > 2
    for k in range(3):
        assert np.array_equal(env.reset(seed=9, options={"start": k})[0], frames[k, -1])


def test_starts_from_given_frames_and_the_actions_between_them(world):
    env, n = Imagined(world), world.context
    kept, led = world.starts
    given = kept[0]
    assert np.array_equal(env.reset(seed=0, options={"frames": given})[0], given[-1])
    unknown = env.step(0)[0]
    actions = [int(np.argmax(z)) - 1 for z in led[0, 1:]]
    env.reset(seed=0, options={"frames": given, "actions": actions})
    told = env.step(0)[0]
    env.reset(seed=0, options={"frames": given, "actions": [-a for a in actions]})
    assert not np.array_equal(told, unknown) and not np.array_equal(told, env.step(0)[0])
    env.reset(seed=0, options={"frames": given[-1:]})
    repeated = env.step(0)[0]
    env.reset(seed=0, options={"frames": np.repeat(given[-1:], n, 0)})
    assert np.array_equal(repeated, env.step(0)[0])


def test_a_reset_draws_the_same_numbers_whatever_its_options(world):
    env, others = Imagined(world), []
    for options in ({}, {"start": 1}, {"frames": world.starts[0][0]}):
        env.reset(seed=3, options=options)
        env.reset()
        others.append(env.step(0)[0])
    assert np.array_equal(others[0], others[1]) and np.array_equal(others[0], others[2])


def test_a_rollout_is_the_environment_s(world, replay):
    start, actions = replay.start(0), [0, 1, -1, 1]
    frames = wm.rollout(world, start, actions, seed=4)
    assert frames.shape == (4, 16, 16, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, wm.rollout(world, start, np.array(actions), seed=4))
    assert not np.array_equal(frames, wm.rollout(world, start, actions, seed=5))
    env = Imagined(world)
    env.reset(seed=0, options={"frames": start[None]})
    env._lanes.sampler.reset(start[None, None], seeds=[4])
    assert np.array_equal(frames, [env.step(a)[0] for a in actions])
    assert wm.rollout(world, start, []).shape == (0, 16, 16, 3)
    for wrong in (start[:8], start.astype(float), start[None][:0]):
        with pytest.raises(ValueError, match="rollout: start"):
            wm.rollout(world, wrong, actions)
    with pytest.raises(ValueError, match="action"):
        wm.rollout(world, start, [5])


# ---- rendering ----


def test_render_modes(world, monkeypatch):
    pytest.importorskip("pygame", reason="pip install 'worldmodel[play]' for render_mode human")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert Imagined(world).render() is None
    env = Imagined(world, render_mode="rgb_array")
    frame, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), frame)
    human = Imagined(world, render_mode="human")
    human.metadata["render_fps"] = 1000
    human.reset(seed=0), human.step(0)
    assert human.render() is None
    copy.deepcopy(human)
    human.close(), human.close()
    human.reset(seed=0), human.close()


# ---- wrong use ----


@pytest.mark.parametrize("action", [2, -2, 0.5, "left", None, [0, 0], np.array([0.5])])
def test_a_wrong_action_is_one_clear_error(world, action):
    env = Imagined(world)
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises((ValueError, TypeError), match="action"):
        env.step(action)
    assert np.array_equal(env.get_state()["sampler"]["frames"], state["sampler"]["frames"])


@pytest.mark.parametrize(
    "options, says",
    [
        ({"begin": 1}, "options may hold"),
        ({"start": 10_000}, "'start'"),
        ({"start": -1}, "'start'"),
        ({"start": True}, "'start'"),
        ({"start": 0.5}, "'start'"),
        ({"start": [0, 1]}, "'start'"),
        ({"frames": np.zeros((4, 8, 8, 3), np.uint8)}, "'frames'"),
        ({"frames": np.zeros((4, 16, 16, 3))}, "'frames'"),
        ({"frames": np.zeros((0, 16, 16, 3), np.uint8)}, "'frames'"),
        ({"frames": np.zeros((2, 16, 16, 3), np.uint8), "start": 0}, "not both"),
        ({"frames": np.zeros((2, 16, 16, 3), np.uint8), "actions": [0, 0]}, "'actions'"),
        ({"frames": np.zeros((2, 16, 16, 3), np.uint8), "actions": [7]}, "action"),
        ({"actions": [0]}, "go with"),
        ({"horizon": 0}, "'horizon'"),
        ({"reset_mask": np.ones(1, bool)}, "options may hold"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_changes(world, options, says):
    env = Imagined(world)
    rollout(env, 3, seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match=says):
        env.reset(options=options)
    assert pickle.dumps(env.get_state()) == pickle.dumps(before)


def test_wrong_arguments(world, tmp_path):
    with pytest.raises(TypeError, match="World or the path"):
        Imagined(3)
    with pytest.raises(FileNotFoundError):
        Imagined(str(tmp_path / "none.safetensors"))
    for wrong in (
        {"render_mode": "ansi"},
        {"steps": 0},
        {"max_episode_steps": 0},
        {"max_episode_steps": 2.5},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Imagined(world, **wrong)
    for early in (lambda e: e.step(0), lambda e: e.get_state()):
        with pytest.raises(gym.error.ResetNeeded):
            early(Imagined(world))


def test_a_state_of_another_world_is_refused(world, replay):
    env, other = (
        Imagined(world),
        Imagined(wm.World.create(replay, backbone="unet", size="T", context=2, widths=(8, 16), depths=(1, 1))),
    )
    env.reset(seed=0), other.reset(seed=0)
    for wrong in ({}, other.get_state()):
        before = env.get_state()
        with pytest.raises(ValueError, match="set_state|restore"):
            env.set_state(wrong)
        assert pickle.dumps(env.get_state()) == pickle.dumps(before)


def test_a_world_without_starts_says_so(replay):
    world = tiny.make_world(replay)
    world._start_frames, world._start_actions = world._start_frames[:0], world._start_actions[:0]
    env = Imagined(world)
    with pytest.raises(ValueError, match="take_starts"):
        env.reset(seed=0)
    env.reset(seed=0, options={"frames": replay.episode(0).frames[:4]})
