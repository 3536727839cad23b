"""bench: how fast this machine steps a world, at a glance; benchmarks/ measures with peers and limits beside."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from . import machine
from .quantize import set_products
from .spaces import space_to_json
from .world import World, WorldConfig


def step_speed(
    backbone: str = "unet", size: str = "S", lanes: tuple[int, ...] = (1, 8, 32), seconds: float = 3.0
) -> list[dict[str, Any]]:
    """Steps of an untrained 64x64 world with 4 actions: prints and returns what, lanes, milliseconds a step
    (median, 99 %), frames/s.  A DiT also with fewer denoising steps, and with its products in bfloat16 and int8.
    """
    from gymnasium.spaces import Discrete

    world = World(WorldConfig(backbone=backbone, size=size, action_space=space_to_json(Discrete(4))))
    print(
        f"{backbone} {size}: {world.parameter_count():,} parameters, "
        f"{machine.kernels()} kernels, {machine.threads()} threads"
    )
    rows = [timed(world, n, seconds, f"{n} lanes") for n in lanes]
    if layers := world.dynamics.int8_layers():
        rows += [timed(world, 1, seconds, f"1 lane, {K} steps", steps=K) for K in (2, 1)]
        for numbers in ("bf16", "int8"):
            set_products(world.dynamics, layers, numbers)
            rows += [timed(world, 1, seconds, f"1 lane, {K} steps, {numbers}", steps=K) for K in (4, 2, 1)]
    return rows


def timed(world: World, n: int, seconds: float, what: str, **options: Any) -> dict[str, Any]:
    """One row, of steps in a closed loop."""
    sampler = world.sampler(n, **options)
    frames = np.random.default_rng(0).integers(0, 256, (n, world.context, *world.config.frame_shape), np.uint8)
    sampler.reset(frames, seeds=np.arange(n))
    actions = world.features(np.zeros(n, np.int64))
    sampler.step(actions)
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        sampler.step(actions)
        times.append(time.perf_counter() - began)
    middle, worst = (1e3 * float(np.quantile(times, q)) for q in (0.5, 0.99))
    rate = 1e3 * n / middle
    print(f"  {what:>20}: {middle:8.2f} ms a step (p99 {worst:.2f}), {rate:8.1f} frames/s")
    return {"what": what, "lanes": n, "ms": middle, "ms_p99": worst, "frames_per_second": rate}
