"""Python threads on one CUDA device: an op's launches stay together, nobody's work gets into another's graph."""

import sys
from concurrent.futures import ThreadPoolExecutor

import emulated
import numpy as np
import pytest
from worldmodel import Tape, _core, machine, ops
from worldmodel.tensor import Tensor

HERE, WHY_NOT = emulated.possible()
pytestmark = pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}")


@pytest.fixture(autouse=True)
def cuda():
    emulated.use()
    machine.set_device("cuda")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
    _core.set_matmul("exact")
    machine.set_device("cpu")


def numbers(*shape, seed):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def work(seed: int) -> list[np.ndarray]:
    """Plans that are captured, long sums and gradients that use the device's workspace, an optimiser's step, copies."""
    x, w = Tensor(numbers(5, 16, seed=seed)), Tensor(numbers(16, 16, seed=seed), needs_grad=True)
    with Tape(grad=False) as tape:
        out = ops.softmax(ops.linear(ops.linear(x, w, act="silu"), w))
    plan, results = tape.plan(out), []
    for i in range(4):
        x.copy_(numbers(5, 16, seed=seed + i))
        results.append(np.array(plan.run()[0].numpy()))
        q = Tensor(numbers(1, 12, 16, seed=seed + i), needs_grad=True)
        with Tape() as tape:
            y = ops.attention(ops.linear(q, w), q, q, heads=2).sum()
        tape.backward(y)
        results += [q.grad, w.grad, np.array(y.numpy())]
        w.zero_grad()
    arena = _core.Arena((w,))
    with Tape() as tape:
        y = ops.square(w).sum()
    tape.backward(y)
    return [*results, np.float32(arena.adamw(lr=0.1, clip=0.5)[0]), np.array(w.numpy())]


def test_threads_get_what_each_would_get_alone():
    seeds = range(10, 60, 10)
    alone = [work(s) for s in seeds]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(3):
            for a, b in zip(alone, pool.map(work, seeds), strict=True):
                assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
