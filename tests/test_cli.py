"""Every verb works through main([...]) on a tiny replay; wrong use is one sentence and exit code 2."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import worldmodel as wm
from worldmodel.cli import VERBS, main

pytest.importorskip("pygame", reason='pip install "worldmodel[classic]" for CartPole')
SMALL = ["--batch", "2", "--rare", "1", "--outcome-batch", "4", "--rollouts", "4", "--horizon", "2", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = wm.threads()
    wm.set_threads(1)
    yield
    wm.set_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A replay, a world and a policy, made by the verbs themselves."""
    path = tmp_path_factory.mktemp("cli")
    assert (
        main(["collect", "--env", "CartPole-v1", "--out", f"{path}/replay", "--steps", "80", "--render", "16", "24"])
        == 0
    )
    train = ["train", "--replay", f"{path}/replay", "--out", f"{path}/world.safetensors", "--size", "T", "--steps", "2"]
    assert main([*train, *SMALL]) == 0
    learn = [
        "learn",
        "--world",
        f"{path}/world.safetensors",
        "--replay",
        f"{path}/replay",
        "--out",
        f"{path}/policy.safetensors",
    ]
    assert (
        main([*learn, "--steps", "1", "--lanes", "4", "--horizon", "2", "--epochs", "1", "--minibatch", "8", "--quiet"])
        == 0
    )
    return path


def fails(capsys, *arguments):
    """The one sentence that a wrong call prints."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("worldmodel: ") and not any("Traceback" in line for line in said)
    return said[-1]


# ---- each verb ----


def test_collect_goes_on_where_it_was(folder, tmp_path, capsys):
    call = ["collect", "--env", "CartPole-v1", "--out", f"{tmp_path}/r", "--render", "16", "24"]
    assert main([*call, "--steps", "20", "--sheet", f"{tmp_path}/sheet.png"]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 100
    assert main([*call, "--steps", "15", "--policy", f"{folder}/policy.safetensors"]) == 0
    replay = wm.Replay.open(tmp_path / "r")
    assert replay.num_steps == 35 and replay.frame_shape == (16, 24, 3) and "35" in capsys.readouterr().out


def test_train_prints_a_result_and_writes_a_report(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "worldmodel.train.report.world_report", lambda world, replay, path: {"psnr": {"1": len(replay)}}
    )
    call = [
        "train",
        "--replay",
        f"{folder}/replay",
        "--out",
        f"{tmp_path}/w.safetensors",
        "--size",
        "T",
        "--steps",
        "1",
        *SMALL,
    ]
    for share in ("0", "0.5"):
        assert main([*call, "--held-out", share, "--report", f"{tmp_path}/report"]) == 0
        out = capsys.readouterr().out
        result = json.loads(out[out.index("{") :])
        assert result["steps"] == 1 and result["report"]["psnr"]["1"] >= 1
    assert wm.World.load(tmp_path / "w.safetensors").config.environment["env_id"] == "CartPole-v1"


def test_a_tokenizer_then_a_world_on_its_latents(folder, tmp_path, capsys):
    made, replay = f"{tmp_path}/t.safetensors", f"{folder}/replay"
    call = ["tokenizer", "--replay", replay, "--out", made, "--steps", "2", "--batch", "4", "--width", "4", "--quiet"]
    assert main(call) == 0
    assert "(16, 24, 3) -> (4, 6, 8)" in capsys.readouterr().out
    train = ["train", "--replay", replay, "--out", f"{tmp_path}/w.safetensors", "--size", "T", "--steps", "1", *SMALL]
    assert main([*train, "--backbone", "dit", "--tokenizer", made, "--report", f"{tmp_path}/report"]) == 0
    assert wm.World.load(tmp_path / "w.safetensors").tokenizer.shape == (4, 6, 8)
    assert (tmp_path / "report" / "real-against-imagined.png").stat().st_size > 100
    assert "computes on pixels" in fails(capsys, *train, "--tokenizer", made)
    assert "not a tokenizer" in fails(capsys, *train, "--backbone", "dit", "--tokenizer", f"{folder}/world.safetensors")


def test_an_interrupted_training_keeps_the_world(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("worldmodel.train.loop.Budget.spent", lambda budget: setattr(budget, "stopped", True) or False)
    call = [
        "train",
        "--replay",
        f"{folder}/replay",
        "--out",
        f"{tmp_path}/w.safetensors",
        "--size",
        "T",
        "--steps",
        "5",
        *SMALL,
    ]
    assert main(call) == 130
    assert "interrupted" in capsys.readouterr().err and wm.World.load(tmp_path / "w.safetensors")


def test_eval_in_the_real_environment_and_in_the_imagined(folder, capsys):
    call = ["eval", "--policy", f"{folder}/policy.safetensors", "--episodes", "2"]
    for where in ([], ["--env", "CartPole-v1"], ["--replay", f"{folder}/replay", "--random-episodes", "2"]):
        assert main(call + where) == 0
        assert "95 %, n = 2" in capsys.readouterr().out
    world = wm.World.load(folder / "world.safetensors")
    world.config.max_episode_steps = 3
    world.save(folder / "short.safetensors")
    assert main([*call, "--world", f"{folder}/short.safetensors"]) == 0
    assert "steps an episode" in capsys.readouterr().out


def test_play_in_the_terminal_with_scripted_keys(folder, tmp_path, capsys, monkeypatch):
    film = tmp_path / "film.mp4"
    pytest.importorskip("av", reason='pip install "worldmodel[video]"')
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 10q1111"))
    call = ["play", "--world", f"{folder}/world.safetensors", "--terminal", "--fps", "1000", "--seed", "0"]
    assert main([*call, "--record", str(film)]) == 0
    screen = capsys.readouterr().out
    assert screen.count("\x1b[H") == 5 and "\u2580" in screen and screen.endswith("\x1b[0m\n")
    from worldmodel.data.video import read_video

    assert len(list(read_video(film).frames)) == 5
    monkeypatch.setattr(sys, "stdin", io.StringIO("01"))
    assert main(call) == 0
    assert capsys.readouterr().out.count("\x1b[H") == 3, "the end of the input ends it"


def test_a_policy_plays(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(" " * 100))
    call = ["play", "--world", f"{folder}/world.safetensors", "--policy", f"{folder}/policy.safetensors", "--terminal"]
    assert main([*call, "--steps", "4", "--fps", "1000", "--record", f"{tmp_path}/film.mp4"]) == 0
    assert capsys.readouterr().out.count("\x1b[H") == 4 and (tmp_path / "film.mp4").stat().st_size > 500


def test_play_in_a_window(folder, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert (
        main(["play", "--world", f"{folder}/world.safetensors", "--steps", "2", "--fps", "1000", "--keys", "ad"]) == 0
    )


def test_export(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("av", reason='pip install "worldmodel[video]"')
    assert main(["export", "--replay", f"{folder}/replay", "--mp4", f"{tmp_path}/e.mp4"]) == 0
    from worldmodel.data.video import read_video

    frames = np.stack(list(read_video(tmp_path / "e.mp4").frames))
    assert np.array_equal(frames, wm.Replay.open(folder / "replay").episode(0).frames), "exact"
    assert "--minari or --mp4" in fails(capsys, "export", "--replay", f"{folder}/replay")
    assert "episode" in fails(
        capsys, "export", "--replay", f"{folder}/replay", "--mp4", tmp_path / "x.mp4", "--episode", 99
    )


def test_export_to_minari(folder, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason='pip install "worldmodel[minari]"')
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert main(["export", "--replay", f"{folder}/replay", "--minari", "tests/cartpole-v0"]) == 0
    assert minari.load_dataset("tests/cartpole-v0").total_steps == 80


def test_bench_and_info(capsys):
    assert main(["bench", "--size", "T", "--lanes", "1", "--seconds", "0.01"]) == 0
    assert "1 lanes" in capsys.readouterr().out
    assert main(["bench", "--backbone", "dit", "--size", "T", "--lanes", "1", "--seconds", "0.01"]) == 0
    assert "1 lane, 2 steps, int8" in capsys.readouterr().out
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"worldmodel {wm.__version__}" in out and wm.kernels() in out and "numpy" not in out


# ---- help ----


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_every_flag_does(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out

    def flags(of):
        for f in dataclasses.fields(of):
            nested = isinstance(f.default_factory, type) and dataclasses.is_dataclass(f.default_factory)
            yield from flags(f.default_factory) if nested else [f.name]

    for name in flags(VERBS[verb]):
        flag = "--" + name.replace("_", "-")
        assert flag in text, f"{verb} {flag}"
    described = [line for line in text.splitlines() if "(required)" in line or "(default:" in line]
    bare = [line for line in described if line.strip(" │|").startswith(("(required)", "(default:")) and "--" in line]
    assert not bare


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


# ---- wrong use ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        [],
        ["collect", "--env", "CartPole-v1"],
        ["collect", "--evn", "x", "--out", "y"],
        ["train", "--replay", "r", "--out", "w", "--steps", "many"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_an_unknown_environment_suggests_a_known_one(tmp_path, capsys):
    said = fails(capsys, "collect", "--env", "CartPol-v1", "--out", tmp_path / "r", "--steps", 5)
    assert "unknown environment 'CartPol-v1'" in said and "CartPole-v1" in said
    assert not (tmp_path / "r").exists()


def test_missing_files_are_named(folder, tmp_path, capsys):
    world, policy, replay = folder / "world.safetensors", folder / "policy.safetensors", folder / "replay"
    calls = [
        ("train", "--replay", "none", "--out", tmp_path / "w"),
        ("learn", "--world", "none", "--replay", replay, "--out", tmp_path / "p"),
        ("eval", "--policy", "none"),
        ("play", "--world", "none"),
        ("eval", "--policy", policy, "--world", "none"),
    ]
    for call in calls:
        assert "none" in fails(capsys, *call)
    assert "no/such/folder" in fails(
        capsys, "learn", "--world", world, "--replay", replay, "--out", "no/such/folder/p", "--steps", 0
    )


def test_damaged_files_are_named(folder, tmp_path, capsys):
    whole = (folder / "world.safetensors").read_bytes()
    for name, data in (("cut", whole[:-10]), ("empty", b""), ("other", b"\x89PNG" * 100)):
        path = tmp_path / name
        path.write_bytes(data)
        assert name in fails(capsys, "play", "--world", path) and name in fails(capsys, "eval", "--policy", path)
    assert "not a world" in fails(capsys, "play", "--world", folder / "policy.safetensors")
    assert "not a policy" in fails(capsys, "eval", "--policy", folder / "world.safetensors")
    assert "folder" in fails(capsys, "play", "--world", folder / "replay")


def test_spaces_that_do_not_fit_are_named(folder, tmp_path, capsys):
    other = ["collect", "--env", "CartPole-v1", "--out", f"{tmp_path}/big", "--render", "20", "20", "--steps", "20"]
    assert main(other) == 0
    assert (
        main(
            ["collect", "--env", "MountainCar-v0", "--out", f"{tmp_path}/car", "--render", "16", "24", "--steps", "20"]
        )
        == 0
    )
    learn = ("learn", "--world", folder / "world.safetensors", "--out", tmp_path / "p", "--steps", 1)
    assert "(20, 20, 3)" in fails(capsys, *learn, "--replay", tmp_path / "big")
    assert "Discrete(3)" in fails(capsys, *learn, "--replay", tmp_path / "car")
    assert "sees frames (16, 24, 3)" in fails(
        capsys, "eval", "--policy", folder / "policy.safetensors", "--replay", tmp_path / "big"
    )
    assert "acts in Discrete(2)" in fails(
        capsys, "eval", "--policy", folder / "policy.safetensors", "--replay", tmp_path / "car"
    )
    wrong = fails(
        capsys, "collect", "--env", "MountainCar-v0", "--out", folder / "replay", "--render", 16, 24, "--steps", 5
    )
    assert "Discrete(3)" in wrong or "space" in wrong
    assert "keys" in fails(capsys, "play", "--world", folder / "world.safetensors", "--keys", "a")
    assert "one of" in fails(capsys, "eval", "--policy", folder / "policy.safetensors", "--env", "x", "--world", "y")
    train = ("train", "--out", tmp_path / "w", "--steps", 1, *SMALL)
    assert "must be one of" in fails(capsys, *train, "--replay", folder / "replay", "--size", "XXL")
    assert "multiples of" in fails(capsys, *train, "--replay", tmp_path / "big", "--size", "S")


@pytest.mark.parametrize(
    "module, extra, call",
    [
        ("vizdoom", "doom", ["collect", "--env", "VizdoomBasic-v1", "--out", "{tmp}/r", "--steps", "5"]),
        ("ale_py", "atari", ["collect", "--env", "ALE/Pong-v5", "--out", "{tmp}/r", "--steps", "5"]),
        ("av", "video", ["export", "--replay", "{folder}/replay", "--mp4", "{tmp}/e.mp4"]),
        ("minari", "minari", ["export", "--replay", "{folder}/replay", "--minari", "tests/x-v0"]),
        ("pygame", "play", ["play", "--world", "{folder}/world.safetensors"]),
    ],
)
def test_a_missing_extra_names_its_pip_command(module, extra, call, folder, tmp_path, capsys, monkeypatch):
    for name in [m for m in sys.modules if m == module or m.startswith(module + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    said = fails(capsys, *(a.format(tmp=tmp_path, folder=folder) for a in call))
    assert f'pip install "worldmodel[{extra}]"' in said


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(folder, tmp_path, capsys, monkeypatch):
    import errno
    import os

    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    call = ("train", "--replay", folder / "replay", "--out", path, "--size", "T", "--steps", 1, *SMALL)
    assert "No space left on device" in fails(capsys, *call)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_python_m_worldmodel_is_the_same(capsys, monkeypatch):
    import runpy

    monkeypatch.setattr(sys, "argv", ["worldmodel", "info"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("worldmodel", run_name="__main__")
    assert end.value.code == 0 and wm.__version__ in capsys.readouterr().out


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("worldmodel.bench.step_speed", interrupted)
    assert main(["bench"]) == 130 and "interrupted" in capsys.readouterr().err
