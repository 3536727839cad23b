"""Public checkpoints' networks at their real sizes, random weights: frames a second, seconds a frame, peak memory.

    python benchmarks/checkpoints.py [--threads N] [--only diamond|dinov2|oasis] [--rounds N] [--json FILE]

diamond: a step of n Atari worlds (3 Euler steps, reward and end) and of the policy in them, beside PyTorch eager (the
twin of tests/oracle, channels-last convolutions), taking turns.  dinov2: a 224-pixel picture, taking turns.  oasis:
Open-Oasis 500M at a full window of 32 frames, each in a process of its own: one pass over the window; a frame (10 DDIM
steps) while the window fills (what frames before leave is kept), when it slides (seen anew once a frame), and as the
original does it (the whole window in every step).  Memory is the peak of a process
that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"


def filled(module):
    """Random weights, quickly."""
    import numpy as np
    from worldmodel import nn

    rng = np.random.default_rng(0)
    for name, t in module.named_tensors():
        one = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma"))
        values = rng.standard_normal(t.shape, np.float32) * np.float32((t.shape[-1] if t.ndim > 1 else 64) ** -0.5)
        nn.write(t, values + np.float32(one))
    return module


def tensors(arrays):
    import torch

    return {k: torch.from_numpy(v) for k, v in arrays.items()}


# ---- DIAMOND ----


def diamond(n: int):
    """(makers of our step, of PyTorch's) of n worlds and their policy."""
    import numpy as np
    from gymnasium.spaces import Discrete
    from worldmodel import World, nn
    from worldmodel.models.diamond import RecurrentPolicy
    from worldmodel.pretrained.diamond import state_of
    from worldmodel.spaces import space_to_json
    from worldmodel.world import WorldConfig

    with nn.blank(1 << 40):
        world = World(WorldConfig("edm", "atari", (64, 64, 3), space_to_json(Discrete(4))))
        policy = RecurrentPolicy((64, 64, 3), space_to_json(Discrete(4)))
    filled(world), filled(policy)

    def ours():
        sampler, state = world.sampler(n), {"policy": None}
        sampler.reset(np.zeros((n, 4, 64, 64, 3), np.uint8), seeds=np.arange(n))
        frames, first = np.zeros((n, 64, 64, 3), np.uint8), np.zeros(n, bool)

        def step():
            actions, state["policy"] = policy(frames, first, state["policy"])
            return sampler.step(world.features(actions))

        return step

    return ours, lambda: diamond_twin(state_of(world, policy), n)


def diamond_twin(weights, n):
    import diamond_twin as twin
    import torch

    w = twin.Weights(
        {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in tensors(weights).items()}
    )
    inner, judge, actor = w / "denoiser" / "inner_model", w / "rew_end_model", w / "actor_critic"
    state = {
        "frames": torch.zeros(n, 4, 3, 64, 64),
        "actions": torch.zeros(n, 4, dtype=torch.long),
        "policy": (torch.zeros(n, 512), torch.zeros(n, 512)),
        "judge": (torch.zeros(n, 512), torch.zeros(n, 512)),
    }

    @torch.no_grad()
    def step():
        frames = state["frames"]
        logits, _, state["policy"] = twin.actor_critic(actor, frames[:, -1], state["policy"], (1, 1, 1, 1))
        action = torch.distributions.Categorical(logits=logits).sample()
        state["actions"] = torch.cat([state["actions"][:, 1:], action[:, None]], 1)
        context = frames.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(n, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        new = twin.sample(inner, noise, context, state["actions"])
        _, _, state["judge"] = twin.reward_end(
            judge, torch.stack([frames[:, -1], new], 1), action[:, None], state["judge"]
        )
        state["frames"] = torch.cat([frames[:, 1:], new[:, None]], 1)

    return step


# ---- DINOv2 ----


def dinov2(size: str):
    import numpy as np
    from worldmodel import Tensor, nn
    from worldmodel.models.dinov2 import DINOv2
    from worldmodel.pretrained.dinov2 import state_of

    with nn.blank(1 << 40):
        model = DINOv2(size, registers=4)
    filled(model)
    x = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)

    def twin():
        import dinov2_twin
        import torch

        w, y = tensors(state_of(model, hf=False)), torch.from_numpy(x).permute(0, 3, 1, 2)

        @torch.no_grad()
        def run():
            dinov2_twin.forward(w, y, 4, "hub", model.width // 64)

        return run

    return lambda: lambda: model(Tensor(x)), twin


# ---- Oasis ----


def clock() -> float:
    """Seconds; with one thread of this process alone, whatever else runs."""
    return time.process_time() if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter()


def oasis(storage: str) -> dict[str, float]:
    """Seconds of our parts at full size."""
    import numpy as np
    from worldmodel import Tensor, World, nn
    from worldmodel.models.oasis import action_space
    from worldmodel.spaces import space_to_json
    from worldmodel.world import WorldConfig

    kept = "bfloat16" if storage == "int8" else storage
    with nn.blank(1 << 40):
        config = WorldConfig(
            "oasis", "500M", (360, 640, 3), space_to_json(action_space()), options={"storage": kept}
        )
        world = World(config)
    d = filled(world).dynamics
    if storage == "int8":
        world.quantize(layers=d.int8_layers())
    out = {"parameters": sum(t.size for _, t in d.dit.named_tensors())}
    sampler, rng = world.sampler(1), np.random.default_rng(0)
    latents, actions = rng.standard_normal((1, 31, 18, 32, 16), np.float32), np.zeros((1, 32, 25), np.float32)
    frame = rng.integers(0, 256, (1, 360, 640, 3)).astype(np.uint8)
    noise = Tensor(rng.standard_normal((1, 1, 18, 32, 16), np.float32))

    def timed(name, f):
        start = clock()
        f()
        out[name] = clock() - start

    none = latents[:, :0], actions[:, :1]
    d.encode(frame), d.decode(latents[0, :1]), sampler.denoised([0], noise, *none)  # weights are packed
    timed("encode a frame", lambda: d.encode(frame))
    timed("decode a frame", lambda: d.decode(latents[0, :1]))
    timed("frame, window slides", lambda: sampler.denoised([0], noise, latents, actions))
    past = sampler._past[(0,)]

    def fills():  # 30 frames kept, the 31st is new
        from worldmodel import ops
        from worldmodel.models.oasis.dit import Past

        sampler._past[(0,)] = Past([(ops.slice(k, 1, 0, 30), ops.slice(v, 1, 0, 30)) for k, v in past.pairs])
        sampler.denoised([0], noise, latents, actions)

    timed("frame, window fills", fills)
    sampler._past.clear()
    t = np.full((1, 32), 14, np.float32)
    whole = np.concatenate([latents, latents[:, :1]], 1)
    timed("one pass over 32 frames", lambda: d.dit(Tensor(whole), Tensor(t), Tensor(actions)))

    def every_step():
        for _ in range(10):
            d.dit(Tensor(whole), Tensor(t), Tensor(actions))

    timed("frame, whole window in every step", every_step)
    return out


def oasis_twin() -> dict[str, float]:
    import torch
    import transformer_twins as twin
    from worldmodel import nn
    from worldmodel.models.oasis import OasisDiT
    from worldmodel.pretrained.keys import emptied
    from worldmodel.pretrained.oasis import dit_keys

    with nn.blank(1 << 40):
        model = OasisDiT()
    w = tensors(emptied(dict(filled(model).named_tensors()), dit_keys(model)))
    del model
    x, t, a = torch.randn(1, 32, 18, 32, 16), torch.full((1, 32), 14.0), torch.zeros(1, 32, 25)
    with torch.no_grad():
        twin.oasis(w, x[:, :2], t[:, :2], a[:, :2], 16)
        start = clock()
        twin.oasis(w, x, t, a, 16)
        once = clock() - start
        twin.oasis_frame(w, x[:, :-1], x[:, -1:], a, 16)
    return {"one pass over 32 frames": once, "frame, whole window in every step": clock() - start - once}


# ---- running ----


def peak_mb() -> float:
    """Of this process alone: getrusage's begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def alone(part: str, who: str) -> dict[str, float]:
    """One part by one side, and this process' peak memory."""
    kind, _, rest = part.partition(" ")
    if kind == "oasis":
        out = oasis_twin() if who == "torch" else oasis(who)
    else:
        ours, twin = diamond(int(rest)) if kind == "diamond" else dinov2(rest)
        f = ours() if who == "ours" else twin()
        for _ in range(3):
            f()
        out = {}
    return out | {"peak_mb": peak_mb()}


def child(part: str, who: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", part, who, *sys.argv[1:]]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def interleaved(part: str, threads: int, rounds: int) -> dict[str, float]:
    import measure

    measure.clock = clock
    kind, _, rest = part.partition(" ")
    ours, twin = diamond(int(rest)) if kind == "diamond" else dinov2(rest)
    times = measure.interleave({"ours": ours(), "torch": twin()}, 0.3, rounds, 0.02 if threads > 1 else 0.0)
    peaks = {who: child(part, who)["peak_mb"] for who in ("ours", "torch")}
    n = int(rest) if kind == "diamond" else 1
    unit = (
        f"{n / times['ours']:.1f} frames/s, PyTorch {n / times['torch']:.1f}"
        if kind == "diamond"
        else (f"{1000 * times['ours']:.0f} ms, PyTorch {1000 * times['torch']:.0f}")
    )
    print(
        f"{part:<14} {unit}: {times['torch'] / times['ours']:.2f}x; peak {peaks['ours']:.0f} MB, {peaks['torch']:.0f}"
    )
    return {"part": part, **times, "peak_mb": peaks}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--only", choices=("diamond", "dinov2", "oasis"))
    cli.add_argument("--rounds", type=int, default=9)
    cli.add_argument("--json")
    cli.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    o = cli.parse_args()
    sys.path[:0] = [str(TESTS), str(TESTS / "oracle"), str(HERE)]
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(o.threads))
    import worldmodel as wm

    wm.set_threads(o.threads)
    if o.alone:
        print(json.dumps(alone(*o.alone)))
        return
    import torch
    from measure import machine

    torch.set_num_threads(o.threads)
    rows = []
    parts = ["diamond 1", "diamond 8", "diamond 32", "dinov2 small", "dinov2 base", "dinov2 large"]
    for part in [p for p in parts if not o.only or p.startswith(o.only)]:
        rows.append(interleaved(part, o.threads, o.rounds))
    for who in ("float32", "bfloat16", "int8", "torch") if o.only in (None, "oasis") else ():
        rows.append({"part": "oasis", "who": who, **child("oasis", who)})
        print(f"oasis {who}: " + "; ".join(f"{k} {v:.4g}" for k, v in rows[-1].items() if k not in ("part", "who")))
    if o.json:
        Path(o.json).write_text(json.dumps({"machine": machine(), "threads": o.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
