"""Every extra alone in a fresh environment: what it is for works, and without it the error names its pip command.

    python tests/extras.py WHEEL [FOLDER]
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

START = """
import numpy as np, worldmodel as wm
from gymnasium import spaces
def replay(path):
    rng = np.random.default_rng(0)
    def episode():
        frames, actions = rng.integers(0, 255, (9, 16, 16, 3)).astype(np.uint8), [int(a) for a in rng.integers(0, 2, 8)]
        return {"frames": frames, "actions": actions, "rewards": np.zeros(8), "terminated": True}
    return wm.Replay.from_arrays(path, spaces.Discrete(2), (episode() for _ in range(3)))
"""
REAL = """
r = wm.collect({env!r}, 20, (32, 32), path="r", progress=False, {more})
assert r.num_steps == 20 and np.asarray(r.episode(0).frames).any()
"""
WORKS = {
    "doom": REAL.format(env="VizdoomBasic-v1", more="frame_skip=4"),
    "atari": REAL.format(env="ALE/Breakout-v5", more=""),
    "classic": REAL.format(env="CartPole-v1", more=""),
    "minigrid": REAL.format(env="MiniGrid-Empty-5x5-v0", more=""),
    "minari": """
import os; os.environ["MINARI_DATASETS_PATH"] = os.getcwd()
replay("a").to_minari("ours/frames-v0")
b = wm.Replay.from_minari("ours/frames-v0", "b")
assert (np.asarray(b.episode(1).frames) == np.asarray(wm.Replay.open("a").episode(1).frames)).all()
""",
    "video": """
from worldmodel.data.render import save_mp4
frames = np.asarray(replay("a").episode(0).frames)
save_mp4("x.mp4", frames)
seen = wm.Replay.from_video(["x.mp4"], "b", frames=None).episode(0).frames
assert (np.asarray(seen) == frames).all()
""",
    "lerobot": """
import json, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
from worldmodel.data.render import save_mp4
frames = np.asarray(replay("a").episode(0).frames)
root = Path("toy")
(root / "meta").mkdir(parents=True)
features = {"action": {"dtype": "float32", "shape": [2]}, "cam": {"dtype": "video", "shape": [16, 16, 3]}}
info = {"codebase_version": "v2.1", "fps": 15, "features": features, "data_path": "d{episode_index}.parquet"}
(root / "meta" / "info.json").write_text(json.dumps(info | {"video_path": "v{episode_index}.mp4"}))
(root / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "length": 9}')
t = np.arange(9)
rows = {"action": [[0.5, float(i)] for i in t], "timestamp": t / 15, "frame_index": t, "episode_index": 0 * t}
pq.write_table(pa.table(rows), root / "d0.parquet")
save_mp4(root / "v0.mp4", frames, fps=15)
assert (np.asarray(wm.Replay.from_lerobot(root, "b", frames=None).episode(0).frames) == frames).all()
""",
    "play": """
import os; os.environ["SDL_VIDEODRIVER"] = "dummy"
from worldmodel.envs.window import *
import gymnasium as gym
wm.World.create(replay("a"), size="T", backbone="unet").save("w.safetensors")
env = gym.make("worldmodel/Imagined-v0", world="w.safetensors", render_mode="human")
env.reset(seed=0); env.step(1); env.close()
""",
    "plots": """
import matplotlib
from pathlib import Path
from worldmodel.train.report import _plot_curves
names = ("psnr", "copy_last_psnr", "psnr_changing", "copy_last_psnr_changing")
_plot_curves({k: np.arange(3.0) for k in names}, Path("x.png"))
assert Path("x.png").stat().st_size > 1000
""",
    "tensorboard": """
from pathlib import Path
from worldmodel.train.loop import Run
run = Run("run", {}); run.log(1, loss=2.0); run.close()
assert list(Path("run").glob("events.*"))
""",
    "sb3": """
import gymnasium as gym
from stable_baselines3 import PPO
wm.World.create(replay("a"), size="T", backbone="unet").save("w.safetensors")
env = gym.make("worldmodel/Imagined-v0", world="w.safetensors", max_episode_steps=8)
PPO("MlpPolicy", env, n_steps=16, batch_size=8).learn(16)
from stable_baselines3.common.vec_env import VecMonitor
from worldmodel.envs.sb3 import VecEnv
model = PPO("MlpPolicy", VecMonitor(VecEnv("w.safetensors", 8, max_episode_steps=8)), n_steps=16, batch_size=32)
model.learn(256)
assert model.num_timesteps == 256 and len(model.ep_info_buffer) and model.ep_info_buffer[0]["l"] <= 8
""",
}
BEFORE = {"sb3": ["torch==2.13.0"]}  # a CPU build, before anything asks for another
MISSING = {
    "doom": 'wm.collect("VizdoomBasic-v1", 5)',
    "atari": 'wm.collect("ALE/Pong-v5", 5)',
    "minigrid": 'wm.collect("MiniGrid-Empty-5x5-v0", 5)',
    "classic": 'wm.collect("CartPole-v1", 5)',
    "minari": 'wm.Replay.from_minari("x/y-v0")',
    "video": 'wm.Replay.from_video(["x.mp4"], "b")',
    "sb3": "import worldmodel.envs.sb3",
    "lerobot": 'wm.Replay.from_lerobot("x", "b")',
}


def fresh(folder: Path, *packages: str, before: list[str] = ()) -> Path:
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    for several in ([*before], [*packages]):
        if several:
            subprocess.run([python, "-m", "pip", "-qq", "install", *several], check=True)
    return python


def run(python: Path, code: str, folder: Path) -> None:
    done = subprocess.run([python, "-c", START + code], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{folder.name}: {done.stderr[-2000:]}")


def check(wheel: str, extra: str, root: Path) -> str:
    folder = root / extra
    folder.mkdir(parents=True)
    run(fresh(folder, f"{wheel}[{extra}]", before=BEFORE.get(extra, [])), WORKS[extra], folder)
    return extra


def check_missing(wheel: str, root: Path) -> None:
    folder = root / "none"
    folder.mkdir(parents=True)
    python = fresh(folder, wheel)
    for extra, code in MISSING.items():
        wanted = f'pip install "worldmodel[{extra}]"'
        told = f"try:\n    {code}\nexcept ImportError as e:\n    assert {wanted!r} in str(e), e\n"
        run(python, told + "else:\n    raise SystemExit('no error')", folder)


def main() -> None:
    wheel = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(sys.argv[2] if len(sys.argv) > 2 else temporary).resolve()
        check_missing(wheel, root)
        print("without extras: every error names its pip command")
        with ThreadPoolExecutor(2) as pool:
            for extra in pool.map(lambda e: check(wheel, e, root), WORKS):
                print(f"[{extra}]: works", flush=True)


if __name__ == "__main__":
    main()
