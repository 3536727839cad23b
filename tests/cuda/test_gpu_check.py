"""benchmarks/gpu_check.py must run the first time on a machine with a GPU: its timings, rehearsed on the emulator."""

import importlib.util
from pathlib import Path

import emulated
import pytest
from worldmodel import _core, machine

HERE, WHY_NOT = emulated.possible()
pytestmark = pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}")


def test_its_timings_can_be_taken():
    path = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    gpu_check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_check)
    assert all((gpu_check.ROOT / part).exists() for part in gpu_check.SUITE)
    emulated.use()
    try:
        rows = gpu_check.measure(quick=True, shrink=64)
    finally:
        _core.set_matmul("exact")
        machine.set_device("cpu")
    names = [r["name"] for r in rows]
    assert len(names) == len(set(names)) and all(r["us"] > 0 for r in rows)
    for part in ("copy", "softmax", "adaln", "cublas_bf16", "gradients, bf16", "env.step"):
        assert any(part in n for n in names), part
