"""The demo end to end, made small: everything is left behind, and whatever kills it, it ends the same."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import worldmodel as wm
from worldmodel import cli, demo
from worldmodel.train import PolicyLearner, TrainPolicy, TrainWorld, WorldLearner, loop
from worldmodel.train.report import world_report

pytest.importorskip("pygame", reason='pip install "worldmodel[classic]" for CartPole')

SMALL = demo.Recipe(
    "CartPole-v1",
    (16, 24),
    {"pixels": "render"},
    first=200,
    more=60,
    rounds=1,
    size="T",
    world=TrainWorld(batch=2, rare=1, outcome_batch=4, held_out=0, evaluate_every=0, rollouts=4, horizon=2),
    world_first=3,
    world_more=2,
    policy=TrainPolicy(lanes=8, horizon=3, minibatch=16, epochs=1),
    policy_first=2,
    policy_more=1,
    episodes=2,
    random_episodes=2,
    held_out=300,
)


class Killed(Exception):
    """As if the process were gone."""


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(demo.RECIPES, "small", SMALL)
        patch.setattr(demo, "world_report", lambda *a, **k: world_report(*a, **k, count=4, drift=5))
        patch.setattr(loop, "_events", lambda folder: None)
        yield


def run(folder, **fields):
    return demo.demo(demo.Demo(env="small", run=str(folder), quiet=True), **fields)


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder)


def weights(folder):
    world, policy = wm.World.load(folder / "world.safetensors"), wm.Policy.load(folder / "policy.safetensors")
    return {**world.state_dict(), **{f"policy.{k}": v for k, v in policy.state_dict().items()}}


def test_it_leaves_everything_behind(undisturbed):
    folder, about = undisturbed
    report = json.loads((folder / "report.json").read_text())
    wanted = "real_return_mean real_return_ci95 real_episodes random_return_mean real_steps seconds psnr copy_last"
    wanted += " action_shuffle_ratio machine command"
    assert set(wanted.split()) <= set(report)
    assert report["real_steps"] == 260 and report["real_episodes"] == 2 and report["real_return_mean"] > 0
    assert set(report["seconds"]) == {"collect", "world", "policy", "report"}
    assert "CartPole-v1" in (folder / "report.md").read_text()
    assert report["real_return_mean"] == about["real_return_mean"]
    assert len(weights(folder)) > 20


@pytest.mark.parametrize("where", [[], ["--run", "here"]])
def test_the_command_line_runs_it(small, tmp_path, monkeypatch, capsys, where):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--env", "small", "--quiet", *where]) == 0, capsys.readouterr().err
    folder = tmp_path / ("here" if where else "runs/small")
    assert (folder / "report.md").exists() and (folder / "policy.safetensors").exists()
    assert cli.main(["demo", "--env", "chess"]) == 2 and "env must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "where, call", [("world 0", 2), ("policy 0", 2), ("collect 1", 1), ("world 1", 4), ("policy 1", 3)]
)
def test_killed_anywhere_it_ends_the_same(undisturbed, tmp_path, monkeypatch, where, call):
    kind = {"world": (WorldLearner, "update"), "policy": (PolicyLearner, "round"), "collect": (wm.Policy, "__call__")}
    owner, name = kind[where.split()[0]]
    method, calls = getattr(owner, name), iter(range(1, 1000))

    def deadly(self, *args, **kwargs):
        if next(calls) == call:
            raise Killed
        return method(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, deadly)
        with pytest.raises(Killed):
            run(tmp_path)
    assert where not in json.loads((tmp_path / "stages.json").read_text())["done"]
    about = run(tmp_path)
    a, b = weights(undisturbed[0]), weights(tmp_path)
    assert about["real_steps"] == 260 and a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert about["real_returns"] == undisturbed[1]["real_returns"]
    for part in ("world", "policy"):
        logs = [(f / part / "log.jsonl").read_text().splitlines() for f in (undisturbed[0], tmp_path)]
        steps = [[json.loads(line)["step"] for line in log] for log in logs]
        assert steps[0] == steps[1], "the log has every line once"


def test_it_keeps_the_policy_that_earned_most(small, tmp_path, monkeypatch):
    """Whichever of two policies played better afterwards; the last one plays a round more, to be known."""
    monkeypatch.setitem(demo.RECIPES, "small", replace(SMALL, choose=True))
    about = run(tmp_path)
    assert about["real_steps"] == 320, "200 at random, 60 of each policy"
    earned = [about["stages"][f"collect {i}"]["collected"] for i in (1, 2)]
    best, other = np.argmax(earned), np.argmin(earned)
    kept, first, second = (wm.Policy.load(tmp_path / f"policy{k}.safetensors") for k in ("", f"-{best}", f"-{other}"))
    same = [np.array_equal(v, first.state_dict()[k]) for k, v in kept.state_dict().items()]
    assert all(same) and not all(np.array_equal(v, second.state_dict()[k]) for k, v in kept.state_dict().items())


def test_an_interrupted_collection_counts(tmp_path, monkeypatch):
    calls = iter(range(1, 10_000))
    random = demo.RandomPolicy.__call__

    def interrupted(self, *args, **kwargs):
        if next(calls) == 150:
            raise KeyboardInterrupt
        return random(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(demo.RandomPolicy, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert run(tmp_path)["real_steps"] == 260


def test_another_setting_in_the_same_folder_is_refused(undisturbed):
    with pytest.raises(ValueError, match="other settings"):
        run(undisturbed[0], seed=1)
    with pytest.raises(ValueError, match="env must be one of"):
        run(undisturbed[0], env="pong")


@pytest.mark.parametrize("name", ["doom", "takecover", "cartpole", "breakout"])
def test_recipes_fit_their_budgets(name):
    recipe = demo.RECIPES[name]
    assert dataclasses.is_dataclass(recipe) and recipe.episodes >= 2
    if name == "doom":
        assert recipe.first + recipe.rounds * recipe.more <= 10_000
