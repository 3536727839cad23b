"""versus: whole env.steps of imagined environments, their batches, forks and endurance, against PyTorch."""

from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
from closed_loop import Loop
from works.step import FEATURES, SHAPE, awake, peers_of
from worldmodel.envs.lanes import Lanes
from worldmodel.quantize import set_products
from worldmodel.spaces import space_to_json
from worldmodel.tensor import Tensor
from worldmodel.world import World, WorldConfig

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def world_of(backbone: str = "dit", size: str = "S", numbers: str = "float32", **options) -> World:
    """An untrained 64x64 world of 4 actions in which nothing ends."""
    from gymnasium.spaces import Discrete

    space = space_to_json(Discrete(FEATURES))
    world = World(WorldConfig(backbone=backbone, size=size, action_space=space, options=options))
    awake(world.dynamics)
    if hasattr(world.dynamics, "outcome") and hasattr(world.dynamics.outcome, "heads"):
        bias = world.dynamics.outcome.heads.out.bias
        bias.copy_(np.r_[np.zeros(bias.size - 1), -30.0].astype(np.float32))
    if numbers != "float32":
        set_products(world.dynamics, getattr(world.dynamics, f"{numbers}_layers")(), numbers)
    return world


def start_frames(world: World) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (world.context, *SHAPE), np.uint8)


def one_env(world: World, **options):
    """A step of gym.make's environment by the next of some random actions."""
    import gymnasium as gym

    env = gym.make("worldmodel/Imagined-v0", world=world, **options)
    env.reset(seed=0, options={"frames": start_frames(world)})
    actions, at = np.random.default_rng(0).integers(0, FEATURES, 997), iter(range(1 << 30))
    return lambda: env.step(actions[next(at) % 997]), env


def many_envs(world: World, n: int, **options):
    """The same of n environments at once."""
    import gymnasium as gym

    how = {"vectorization_mode": "vector_entry_point", "world": world, **options}
    envs = gym.make_vec("worldmodel/Imagined-v0", num_envs=n, **how)
    envs.reset(seed=0, options={"frames": start_frames(world)})
    actions, at = np.random.default_rng(0).integers(0, FEATURES, (97, n)), iter(range(1 << 30))
    return lambda: envs.step(actions[next(at) % 97])


def torch_steps(torch, world: World, n: int, quick: bool):
    """K -> steps of the PyTorch twin of n environments, eager and compiled."""
    model = world.dynamics
    inputs = [Tensor(np.zeros(s, np.float32)) for s in 2 * [(n, 1, *SHAPE)] + [(n, 1, model.config.width)]]
    twin = peers_of(torch, model, inputs, True)[0]
    given = torch.from_numpy(np.eye(FEATURES, dtype=np.float32)[np.zeros(n, int)])
    fast = None if quick else torch.compile(twin.one_pass)

    def peers(K: int):
        found = {"torch": torch.no_grad()(lambda: twin.step(given, K))}
        if fast is not None:
            found["compile"] = torch.no_grad()(lambda: twin.step(given, K, fast))
        return found

    return peers


def steps(torch, quick: bool) -> Iterator[Loop]:
    """env.step of one environment: K passes, float32, bfloat16 and int8."""
    count = 60 if quick else 1000
    plain = world_of()
    peers = torch_steps(torch, plain, 1, quick) if torch else lambda K: {}
    four = one_env(plain, steps=4)[0]
    for K, goal, least in ((4, 2.5, 45.0), (2, None, None), (1, None, None)):
        ours = four if K == 4 else one_env(plain, steps=K)[0]
        facts = {"K": K, "kind": "float32"}
        yield Loop(f"world S, env.step, K={K}", ours, peers(K), 1, count, goal, (), least, facts=facts)
    for numbers in ("bf16", "int8"):
        world = world_of(numbers=numbers)
        for K in (4, 2, 1):
            facts, goal = {"K": K, "kind": numbers}, 2.0 if K == 2 and numbers == "int8" else None
            ours = one_env(world, steps=K)[0]
            name = f"world S, env.step, K={K}, {numbers}"
            yield Loop(name, ours, {"float32 K=4": four}, 1, count, goal, facts=facts)


def batches(torch, quick: bool) -> Iterator[Loop]:
    """N environments a step, times for each."""
    world = world_of()
    for n in (1, 8) if quick else BATCHES:
        peers = torch_steps(torch, world, n, quick)(4) if torch and n == 32 else {}
        goal, count = 2.0 if n == 32 else None, 20 if quick else max(20, 400 // n)
        name = f"world S, {n} environments a step, K=4"
        yield Loop(name, many_envs(world, n, steps=4), peers, n, count, goal, section="batches", facts={"N": n})


def python_share(step, env) -> float:
    """Python's part of a step: a step whose plan does nothing, over a whole one."""
    sampler = next(v for v in vars(env.unwrapped).values() if isinstance(v, Lanes)).sampler
    plan = sampler._plan

    class Nothing:
        def run(self):
            return plan.outputs

    whole = seconds(step, 50)
    sampler._plan = Nothing()
    bare = seconds(step, 500)
    sampler._plan = plan
    return bare / whole


def seconds(call, count: int) -> float:
    times = []
    for _ in range(count):
        began = measure.clock()
        call()
        times.append(measure.clock() - began)
    return float(np.median(times))


def facts(quick: bool) -> Iterator[dict]:
    """Python's share, and forking one environment into 64."""
    step, env = one_env(world_of(), steps=4)
    step()
    yield plain_row("Python's share of env.step", "%", 100 * python_share(step, env), 2.0)
    sampler = world_of().sampler(64)
    sampler.reset(np.broadcast_to(start_frames(world_of()), (64, *start_frames(world_of()).shape)).copy())
    rows = np.arange(1, 64)
    yield plain_row("fork of one environment into 64", "ms", 1e3 * seconds(lambda: sampler.fork(0, rows), 20), 1.0)


def plain_row(name: str, unit: str, value: float, most: float | None, **more) -> dict:
    row = {
        "work": name, "section": "facts", "unit": unit, "threads": 0, "ours": value, "peers": {}, "limit": None,
        "share": None, "ratio": None, "goal": None, "most": most, "group": "", "group_goal": None, **more,
    }  # fmt: skip
    return row


def endless(quick: bool) -> Iterator[dict]:
    """100,000 steps of a small world: milliseconds and memory of the end against those of the beginning."""
    step, total = one_env(world_of(size="T"), steps=1)[0], 2_000 if quick else 100_000
    times, memory = np.zeros(total), []
    for i in range(total):
        if i % (total // 50) == 0 or i == 100:
            memory.append((i, resident()))
        began = measure.clock()
        step()
        times[i] = measure.clock() - began
    part = total // 50
    curve = [float(np.median(times[i : i + part])) * 1e3 for i in range(0, total, part)]
    early = float(np.median(times[100 : 100 + part])) * 1e3
    more = {"section": "endless", "steps": total, "curve": curve}
    yield plain_row(f"world T, K=1: ms after {total} steps, over the first", "x", curve[-1] / early, 1.05, **more)
    first = next(m for i, m in memory if i >= 100)
    yield plain_row("the same: memory", "x", resident() / first, 1.05, section="endless", steps=total)


def resident() -> float:
    """MB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
