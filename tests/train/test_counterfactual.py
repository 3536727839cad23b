"""Futures of other actions from the same state: exact, and scored as they should be."""

import numpy as np
import pytest
import worldmodel as wm
from worldmodel.data import collect, environment
from worldmodel.train import counterfactual
from worldmodel.train.counterfactual import counterfactual_report

HOW = {"env_id": "ALE/Breakout-v5", "frames": (32, 32), "frame_skip": 4, "sticky": 0.0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("ale_py", reason="needs ALE: pip install '.[atari]'")
    how = {k: v for k, v in HOW.items() if k != "env_id"}
    replay = collect(HOW["env_id"], 120, path=tmp_path_factory.mktemp("ale") / "r", progress=False, **how)
    return wm.World.create(replay, size="T", backbone="unet", widths=(8, 8), depths=(1, 1), cond=16)


def test_a_branch_leaves_the_episode_as_it_was(world):
    env = environment(**HOW)
    tried = np.arange(4)
    found = list(counterfactual._branches(env, world, tried, 3, 2, seed=0))
    again = list(counterfactual._branches(env, world, tried[::-1], 3, 2, seed=0))
    for ((frames, led), futures), ((same, told), backwards) in zip(found, again, strict=True):
        assert (frames == same).all() and led == told, "other branches, another episode"
        assert (futures == backwards[::-1]).all(), "a future depends on the ones tried before it"


def test_the_truth_scores_full_marks_and_the_wrong_action_does_not():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 256, (5, 3, 2, 8, 8, 3)).astype(np.uint8)
    last = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    marks = counterfactual._score(true, true, last)
    assert marks["psnr"] == [np.inf, np.inf] and marks["told_apart"] == [1.0, 1.0]
    swapped = counterfactual._score(true, true[:, [1, 2, 0]], last)
    assert swapped["told_apart"] == [0.0, 0.0] and swapped["psnr"][0] < 12
    same = np.repeat(true[:, :1], 3, 1)
    assert counterfactual._score(same, same, last)["told_apart"] == [None, None], "nothing to tell apart"


def test_a_world_is_scored_where_the_environment_goes_back(world):
    about = counterfactual_report(world, HOW, states=4, horizon=2, actions=3)
    assert len(about["psnr"]) == 2 and all(np.isfinite(about["psnr"])) and len(about["actions"]) == 3
    assert about["copy_last"][0] > 15 and 0 <= (about["told_apart"][1] or 0) <= 1
    pytest.importorskip("pygame", reason="needs pygame: pip install '.[classic]'")
    assert counterfactual_report(world, {"env_id": "CartPole-v1", "pixels": "render", "frames": (32, 32)}) is None
