"""Bugs put in on purpose, each of which a checker must see: that is what the checkers are worth.

Each runs in a process of its own on a library (or PTX) with the bug; the same check on the true sources must pass.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulated
import pytest

HERE, WHY_NOT = emulated.possible()
pytestmark = pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}")

PRODUCT = """
def check(schedule, way):
    emulated.emulator().emulator_schedule(schedule)
    _core.set_matmul(way)
    x, w = numbers(40, 96), numbers(36, 96)
    got = _core.ops["linear"](Tensor(x), Tensor(w)).numpy()
    want = x.astype(float) @ w.T
    assert np.abs(got - want).max() < 2e-2 * np.abs(want).max(), "a wrong product"
"""
BUGS = {
    "a missing barrier": ("WM_PLANT_NO_BARRIER", PRODUCT + "for s in (0, 1, 2): check(s, 'exact')", "a wrong product"),
    "a wait for the wrong copies": ("WM_PLANT_EARLY_READ", PRODUCT + "check(0, 'bf16')", "a wrong product"),
    "a mask that is off by one": (
        "WM_PLANT_BAD_MASK",
        """
q, k, v = numbers(1, 40, 32), numbers(1, 40, 32) / 2, np.ascontiguousarray(numbers(1, 40, 32)[:, ::-1])
def call():
    return _core.ops["attention"](Tensor(q), Tensor(k), Tensor(v), heads=1, mask="causal").numpy()
right = call()
_core.set_matmul("bf16")
assert np.abs(call() - right).max() < 2e-2 * np.abs(right).max(), "a key too many"
""",
        "a key too many",
    ),
    "a mask that is off by one, backward": (
        "WM_PLANT_BAD_MASK_BACKWARD",
        """
arrays = [numbers(1, 40, 32) * (1 - i / 4) for i in range(3)]
def gradients():
    tensors = [Tensor(a, needs_grad=True) for a in arrays]
    with _core.Tape() as tape:
        out = _core.ops["attention"](*tensors, heads=1, mask="causal")
    tape.backward(out, Tensor(np.ascontiguousarray(arrays[0][:, ::-1])))
    return [t.grad for t in tensors]
right = gradients()
_core.set_matmul("bf16")
for a, b in zip(gradients(), right):
    assert np.abs(a - b).max() < 2e-2 * np.abs(b).max(), "a query too many"
""",
        "a query too many",
    ),
    "a write past the end": (
        "WM_PLANT_OVERRUN",
        """
_core.pool_guard(True)
out = _core.ops["one_hot"](Tensor(np.array([0, 2], np.int32)), 3)
del out
_core.pool_guard(False)
assert _core.pool()["overruns"] == 0, "an overrun"
""",
        "an overrun",
    ),
}
HEAD = """
import sys
sys.path.insert(0, {tests!r})
import emulated, numpy as np
from worldmodel import _core
from worldmodel.tensor import Tensor
def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
_core.set_device("cuda")
"""


def run(script: str, library: Path) -> str:
    """The last line of what went wrong; nothing if nothing did."""
    head = HEAD.format(tests=str(Path(__file__).parents[1]))
    environment = {**os.environ, "WORLDMODEL_CUDA_LIBRARY": str(library)}
    done = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, env=environment)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@pytest.mark.parametrize("bug", BUGS)
def test_the_emulator_sees(bug):
    define, script, complaint = BUGS[bug]
    assert run(script, emulated.library()) == ""
    assert complaint in run(script, emulated.library(defines=(define,)))


@pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no nvcc")
def test_the_interpreter_sees_swapped_fragments():
    """In the inline assembly, which the emulator never meets."""
    script = PRODUCT + """
planted = ("WM_PLANT_SWAPPED_FRAGMENTS",) if {bug} else ()
emulated.interpret([f for f in emulated.ptx(80, planted) if f.stem == "gemm_mma"])
check(0, "bf16")
"""
    assert run(script.replace("{bug}", "False"), emulated.library()) == ""
    assert "a wrong product" in run(script.replace("{bug}", "True"), emulated.library())
