"""collect: every frame, action, reward and end where it belongs, from any kind of environment."""

import json
import os
import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from worldmodel.data import RandomPolicy, Replay, collect, contact_sheet, environment
from worldmodel.data.environment import Camera
from worlds import Counter, check_truth, vector

MODES = list(AutoresetMode)


def collected(env, steps, tmp_path, **options):
    replay = collect(env, steps, **({"frames": None, "path": tmp_path / "r", "progress": False} | options))
    return Replay.open(replay.path)


@pytest.mark.parametrize("form", ["image", "dict"])
def test_a_single_environment_is_recorded_truthfully(tmp_path, form):
    replay = collected(Counter(form), 50, tmp_path)
    assert replay.num_steps == 50 and replay.frame_shape == (20, 24, 3)
    for i in range(len(replay) - 1):
        check_truth(replay.episode(i), replay.unpack)
        assert int(replay.start(i)[0, 1, 0]) == i
    check_truth(replay.episode(-1), replay.unpack, complete=False)
    if form == "dict":
        assert replay.proprio_parts == [("numbers", 2)]
        for episode in replay:
            assert np.array_equal(episode.proprio[:, 0], np.arange(len(episode) + 1))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("form", ["image", "dict", "numbers"])
def test_every_autoreset_mode_is_recorded_truthfully(tmp_path, mode, form):
    replay = collected(vector(mode, form), 120, tmp_path)
    assert replay.num_steps == 120
    rendered_over = form == "numbers" and mode is AutoresetMode.SAME_STEP
    for episode in replay:
        if rendered_over and episode.ends[-1]:  # its last picture was never to be seen
            assert not episode.last_frame_known
            assert np.array_equal(episode.frames[-1], episode.frames[-2])
            continue
        assert episode.last_frame_known
        check_truth(episode, replay.unpack, complete=bool(episode.ends[-1]))
    unfinished = [e for e in replay if not e.ends[-1]]
    assert len(unfinished) <= 3 and len(replay) > 30
    if form != "image":
        assert all(e.proprio[0, 0] == 0 for e in replay)


def test_modes_agree_with_each_other(tmp_path):
    """The same actions give the same episodes, whatever the way of restarting."""
    kinds = {}
    for mode in MODES:
        policy = lambda frames, first, state: (frames[:, 0, 0, 0].astype(int) % 5, state)  # noqa: E731
        replay = collected(vector(mode), 200, tmp_path / str(mode), policy=policy)
        complete = [e for e in replay if e.ends[-1]]
        kinds[mode] = {(e.frames.tobytes(), e.actions.tobytes(), e.rewards.tobytes()) for e in complete}
    shared = set.intersection(*kinds.values())
    assert len(shared) > 10 and all(len(k - shared) <= 6 for k in kinds.values())


def test_the_policy_is_told_of_resets_and_keeps_its_state(tmp_path):
    seen = []

    def policy(frames, first, state):
        seen.append((frames.copy(), first.copy(), state))
        return np.full(3, 2), (0 if state is None else state) + 1

    collected(vector(AutoresetMode.DISABLED), 90, tmp_path, policy=policy)
    assert Replay.open(tmp_path / "r").environment is None  # made by hand: nothing could rebuild it
    assert [s for _, _, s in seen] == [None, *range(1, len(seen))]
    for frames, first, _ in seen:
        assert np.array_equal(first, frames[:, 0, 0, 0] == 0)


def test_random_policy_is_seeded_by_lane_and_holds(tmp_path):
    space = spaces.Discrete(100)
    frames, first = np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, bool)
    runs = []
    for lanes in (2, 3):
        policy = RandomPolicy(space, lanes, hold=4, seed=5)
        runs.append(np.array([policy(frames, np.zeros(lanes, bool))[0] for _ in range(400)]))
    assert np.array_equal(runs[0], runs[1][:, :2]) and not np.array_equal(runs[0][:, 0], runs[0][:, 1])
    changes = np.flatnonzero(np.diff(runs[0][:, 0])) + 1
    assert set(np.diff(changes)) >= {1, 2, 3, 4} and 2.2 < 400 / len(changes) < 2.8
    policy = RandomPolicy(space, 2, hold=1000, seed=5)
    before = policy(frames, ~first)[0]
    assert policy(frames, first)[0] == before and policy(frames, ~first)[0] != before


def test_same_seed_same_replay(tmp_path):
    for name in ("a", "b"):
        collected(Counter(), 40, tmp_path / name, seed=3)
    a, b = (Replay.open(tmp_path / name / "r") for name in ("a", "b"))
    assert all(np.array_equal(x.actions, y.actions) for x, y in zip(a, b, strict=True))


def test_an_existing_replay_is_continued_and_another_refused(tmp_path):
    collected(Counter(), 20, tmp_path)
    replay = collected(Counter(), 15, tmp_path)
    assert replay.num_steps == 35
    with pytest.raises(ValueError, match="whose frame shape is"):
        collected(Counter(), 5, tmp_path, frames=(10, 12))
    with pytest.raises(ValueError, match="whose proprio is"):
        collected(Counter("dict"), 5, tmp_path)


def test_without_a_path_it_goes_to_a_new_folder_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(collected(Counter(), 4, tmp_path, path=None).path) for _ in range(2)]
    assert paths == [os.path.join("runs", "counter", n) for n in ("replay", "replay-2")]


def test_long_episodes_are_cut_in_pieces_that_share_a_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["worldmodel.data.collect"], "PIECE", 2)
    replay = collected(Counter(), 40, tmp_path)
    assert replay.num_steps == 40 and replay.lengths.max() == 2
    for i in range(1, len(replay)):
        before, after = replay.episode(i - 1), replay.episode(i)
        assert before.ends[-1] or np.array_equal(before.frames[-1], after.frames[0])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_collected_is_kept_when_it_stops(tmp_path, capsys, error):
    def policy(frames, first, state):
        state = (state or 0) + 1
        if state == 30:
            raise error
        return [1], state

    with pytest.raises(error):
        collected(Counter(), 1000, tmp_path, policy=policy)
    assert Replay.open(tmp_path / "r").num_steps == 29
    assert "29 steps are kept in" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_collected(tmp_path):
    script = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from worlds import Counter
        from worldmodel.data import collect
        class Loud(Counter):
            def step(self, action):
                print("step", flush=True)
                return super().step(action)
        collect(Loud(), 10**9, frames=None, path={str(tmp_path / "r")!r}, progress=False)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(500):
        process.stdout.readline()
    process.send_signal(2)
    _, said = process.communicate(timeout=60)
    assert "stopped by KeyboardInterrupt" in said, said
    replay = Replay.open(tmp_path / "r")
    assert replay.num_steps >= 500
    for i in range(len(replay)):
        check_truth(replay.episode(i), replay.unpack, complete=False)


def test_a_crop_is_that_part_of_the_picture(tmp_path):
    whole, part = environment(Counter()), environment(Counter(), crop=(0, 0, 8, 10))
    seen, cut = whole.reset(seed=1)[0], part.reset(seed=1)[0]
    assert cut.shape == (8, 10, 3) == part.observation_space.shape and (cut == seen[:8, :10]).all() and cut.any()
    small = environment(Counter(), frames=(4, 5), crop=(0, 0, 8, 10)).reset(seed=1)[0]
    blocks = seen[:8, :10].reshape(4, 2, 5, 2, 3).mean((1, 3))
    assert np.abs(small - blocks).max() <= 0.5
    with pytest.raises(ValueError, match="crop.*leaves the picture"):
        environment(Counter(), crop=(0, 0, 9999, 4)).reset()


def test_wrong_use_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="unknown environment 'CartPoole-v1', did you mean CartPole"):
        collect("CartPoole-v1", 10)
    with pytest.raises(ValueError, match="steps >= 1"):
        collect(Counter(), 0)
    with pytest.raises(ValueError, match="vector needs an id"):
        collect(Counter(), 5, vector=2)
    with pytest.raises(ValueError, match="for ids"):
        collect(vector(AutoresetMode.NEXT_STEP), 5, frame_skip=4)
    with pytest.raises(ValueError, match="no image of that name"):
        collect(Counter("dict"), 5, pixels="automap")
    with pytest.raises(ValueError, match="no image but"):
        collect(Counter("numbers"), 5, pixels="observation")
    with pytest.raises(ValueError, match="rgb_array"):
        collect(Counter("numbers"), 5)
    with pytest.raises(ValueError, match="action"):
        collect(Counter(), 5, path=tmp_path / "r", policy=lambda f, first, s: ([7], s))
    for bad in ({"frames": (0, 4)}, {"frame_skip": 0}, {"sticky": 1.0}, {"noop_max": -1}, {"crop": (0, 0, 0, 4)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            environment(Counter(), **bad)


def test_a_missing_extra_names_its_pip_command(monkeypatch):
    for env_id, module, extra in (("ALE/Pong-v5", "ale_py", "atari"), ("VizdoomBasic-v1", "vizdoom", "doom")):
        for name in [m for m in sys.modules if m.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf'pip install "worldmodel\[{extra}\]"'):
            environment(env_id)


# ---- the prepared environment ----


def test_frame_skip_sums_rewards_and_stops_at_the_end():
    env = environment(Counter(), frame_skip=3)
    env.reset(seed=0)
    env.reset()  # episode 1: three steps
    frame, reward, terminated, truncated, _ = env.step(4)
    assert (frame[0, 0, 0], reward, terminated, truncated) == (3, 11 + 12 + 13, False, True)
    env.reset()  # episode 2: four steps
    env.step(1)
    frame, reward, terminated, _, _ = env.step(2)
    assert (frame[0, 0, 0], reward, terminated) == (4, 24, True)


def test_sticky_actions_repeat_at_their_rate():
    class Endless(Counter):
        def length(self):
            return 10**9

        def picture(self):
            self.steps %= 200
            return super().picture()

    env = environment(Endless(), sticky=0.25)
    env.reset(seed=0)
    took = [env.step(t % 5)[0][0, 2, 0] for t in range(4000)]
    repeated = np.mean([took[t] != t % 5 for t in range(4000)])
    assert 0.22 < repeated < 0.28


def test_no_op_starts_are_seeded_and_bounded():
    class Long(Counter):
        def length(self):
            return 100

    starts = [environment(Long(), noop_max=9).reset(seed=s)[0][0, 0, 0] for s in range(60)]
    assert set(starts) == set(range(10))
    assert starts[:9] == [environment(Long(), noop_max=9).reset(seed=s)[0][0, 0, 0] for s in range(9)]


def test_the_prepared_environment_is_a_gymnasium_environment_and_travels_as_json():
    pytest.importorskip("pygame", reason="CartPole's pixels need pygame: pip install worldmodel[classic]")
    env = environment("CartPole-v1", frames=(32, 48))
    from gymnasium.utils.env_checker import check_env

    check_env(env, skip_render_check=True)
    again = environment(**json.loads(json.dumps(env.recipe)))
    a, b = env.reset(seed=5)[0], again.reset(seed=5)[0]
    assert np.array_equal(a, b) and a.shape == (32, 48, 3)
    assert all(np.array_equal(env.step(1)[0], again.step(1)[0]) for _ in range(5))


# ---- real environments ----


def test_cartpole_from_pixels(tmp_path):
    pytest.importorskip("pygame", reason="CartPole's pixels need pygame: pip install worldmodel[classic]")
    replay = collected("CartPole-v1", 60, tmp_path, frames=(64, 64), seed=1)
    assert (
        replay.frame_shape == (64, 64, 3)
        and replay.proprio_parts == [("observation", 4)]
        and replay.fps == 50
    )
    env = environment(**replay.environment)
    episode = replay.episode(0)
    frame, info = env.reset(seed=episode.seed)
    assert np.array_equal(frame, episode.frames[0]) and np.array_equal(info["proprio"], episode.proprio[0])
    for t, action in enumerate(replay.unpack(episode.actions)):
        frame, reward, terminated, _, info = env.step(action)
        assert np.array_equal(frame, episode.frames[t + 1]) and reward == episode.rewards[t]
        assert np.array_equal(info["proprio"], episode.proprio[t + 1]) and terminated == episode.terminated[t]


def test_cartpole_side_by_side_equals_one_by_one(tmp_path):
    pytest.importorskip("pygame", reason="CartPole's pixels need pygame: pip install worldmodel[classic]")
    options = {"frames": (32, 32), "policy": lambda f, first, s: (np.ones(len(f), int), s)}
    wide = collected("CartPole-v1", 40, tmp_path / "wide", vector=2, seed=4, **options)
    for lane in range(2):
        one = collected("CartPole-v1", 8, tmp_path / str(lane), seed=4 + lane, **options)
        ours = next(e for e in wide if e.seed == 4 + lane)
        n = min(len(ours), len(one.episode(0)))
        assert n >= 8 and np.array_equal(ours.frames[: n + 1], one.episode(0).frames[: n + 1])
        assert np.array_equal(ours.proprio[: n + 1], one.episode(0).proprio[: n + 1])


def test_cartpole_in_processes_equals_side_by_side(tmp_path):
    pytest.importorskip("pygame", reason="CartPole's pixels need pygame: pip install worldmodel[classic]")
    a, b = (
        collected("CartPole-v1", 30, tmp_path / str(apart), frames=(16, 16), vector=2, processes=apart)
        for apart in (False, True)
    )
    assert len(a) == len(b) and all(np.array_equal(x.frames, y.frames) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("env_id, buttons", [("VizdoomBasic-v1", 4), ("VizdoomTakeCover-v1", 3)])
def test_doom(tmp_path, monkeypatch, env_id, buttons):
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed: pip install worldmodel[doom]")
    monkeypatch.chdir(tmp_path)
    replay = collected(env_id, 300, tmp_path, frames=(48, 64), frame_skip=4, seed=1)
    assert replay.action_space == spaces.Discrete(buttons) and replay.frame_shape == (48, 64, 3)
    assert replay.fps == 35 / 4 and replay.proprio_parts == [("gamevariables", 1)]
    for episode in replay:
        assert episode.frames.max((1, 2, 3)).min() > 20, "no black frame, not even the last"
        assert not (episode.terminated & episode.truncated).any()
        if episode.ends[-1]:
            assert not episode.last_frame_known and np.array_equal(episode.frames[-1], episode.frames[-2])
            if env_id == "VizdoomBasic-v1" and len(episode) == 75:  # 300 tics
                assert episode.truncated[-1]
    again = collected(env_id, 300, tmp_path / "again", frames=(48, 64), frame_skip=4, seed=1)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(replay, again, strict=True)), "same seed"
    assert not (tmp_path / "_vizdoom.ini").exists()


def test_breakout_frames_and_actions_are_aligned_by_the_emulator_itself(tmp_path):
    ale_py = pytest.importorskip("ale_py", reason="ale-py is not installed: pip install worldmodel[atari]")
    replay = collected("ALE/Breakout-v5", 400, tmp_path, frames=(64, 64), sticky=0.0, noop_max=20, seed=2)
    episode = replay.episode(0)
    assert environment(**replay.environment).unwrapped.ale.getFloat("repeat_action_probability") == 0.0
    env = environment(**replay.environment)
    frame, info = env.reset(seed=episode.seed)
    assert np.array_equal(frame, episode.frames[0])
    lives = info["lives"]
    for t, action in enumerate(replay.unpack(episode.actions)):
        frame, reward, terminated, truncated, info = env.step(action)
        assert np.array_equal(frame, episode.frames[t + 1]) and reward == episode.rewards[t]
        assert (terminated, truncated) == (episode.terminated[t], episode.truncated[t])
    assert ale_py is not None and info["lives"] < lives and replay.fps == 15
    assert contact_sheet(replay).shape[2] == 3


def test_atari_frame_skip_and_stickiness_are_the_emulators_own():
    pytest.importorskip("ale_py", reason="ale-py is not installed: pip install worldmodel[atari]")
    env = environment("ALE/Pong-v5", frames=(64, 64), frame_skip=2, sticky=0.5)
    assert env._repeat == 1 and env._sticky == 0 and env.unwrapped._frameskip == 2
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.5


def test_the_vector_environment_of_ale_gives_its_newest_frame(tmp_path):
    pytest.importorskip("ale_py", reason="ale-py is not installed: pip install worldmodel[atari]")
    envs = gym.make_vec("ALE/Pong-v5", num_envs=2, img_height=64, img_width=48, stack_num=4)
    seen = []
    policy = lambda frames, first, state: (seen.append(frames.copy()) or np.array([2, 3]), state)  # noqa: E731
    replay = collected(envs, 40, tmp_path, policy=policy)
    envs.close()
    assert replay.frame_shape == (64, 48, 1) and len(replay) == 2
    assert np.array_equal(replay.episode(1).frames[:-1], np.stack(seen)[:, 1])
    assert replay.statistics()["changed"] > 0


def test_layouts_of_pixels():
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    for given, layout in (
        (image, "HWC"),
        (image[:, :, 0], "HW"),
        (image.transpose(2, 0, 1), "CHW"),
        (np.stack([image * 0, image]), "SHWC"),
        (np.stack([image[..., 0] * 0, image[..., 0]]), "SHW"),
    ):
        camera = Camera(spaces.Box(0, 255, given.shape, np.uint8))
        assert camera.source == "observation" and camera.layout == layout
        picture = camera.picture(given)
        assert np.array_equal(picture, image[:, :, : picture.shape[2]]) and picture.shape == camera.shape
    for other in (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Box(0, 1, (20, 24, 3)), spaces.Discrete(3)):
        assert Camera(other).source == "render"


def test_minigrid_is_rendered_since_its_image_is_no_picture(tmp_path):
    pytest.importorskip("minigrid", reason="MiniGrid is not installed: pip install worldmodel[minigrid]")
    replay = collected("MiniGrid-Empty-5x5-v0", 20, tmp_path, frames=(40, 40))
    assert replay.frame_shape == (40, 40, 3) and replay.start(0).std() > 5
