"""What is promised of the package: size, time to import, the choice of kernels, a C build without warnings."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from worldmodel import _core

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT
    )


def test_the_wheel_is_below_five_megabytes():
    """A wheel is a zip file: the engine compressed as zip does, and the Python around it."""
    if "-fsanitize" in os.environ.get("WORLDMODEL_CFLAGS", "") or "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the sanitizers make the engine larger")
    folder = Path(_core.__file__).parent
    files = [Path(_core.__file__), *folder.rglob("*.py"), *folder.rglob("*.pyi")]
    assert sum(len(zlib.compress(f.read_bytes(), 6)) for f in files) < 5e6


def test_importing_costs_next_to_nothing():
    """Processor time, the best of five, so that a busy machine does not matter."""
    code = """
import sys, time
begun = time.process_time()
import worldmodel
print(time.process_time() - begun, "numpy" in sys.modules)"""
    runs = [python(code).stdout.split() for _ in range(5)]
    assert min(float(seconds) for seconds, _ in runs) < 0.15
    assert runs[0][1] == "False", "import worldmodel loads NumPy before anything is used"


def test_using_the_engine_costs_little_more_than_numpy():
    code = """
import time, numpy
begun = time.process_time()
import worldmodel
worldmodel.Tensor, worldmodel.ops
print(time.process_time() - begun)"""
    assert min(float(python(code).stdout) for _ in range(5)) < 0.15


@pytest.mark.parametrize("name", _core.kernel_tables())
def test_the_environment_chooses_the_kernels(name):
    assert python("import worldmodel; print(worldmodel.kernels())", WORLDMODEL_KERNELS=name).stdout == name + "\n"


@pytest.mark.parametrize("name", ["avx1024", "AVX2", " avx2"])
def test_a_wrong_choice_of_kernels_is_a_clear_error(name):
    done = python("from worldmodel import ops", WORLDMODEL_KERNELS=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: WORLDMODEL_KERNELS: no kernels named") and name in last and "baseline" in last


def test_an_empty_choice_of_kernels_is_none():
    assert (
        python("import worldmodel; print(worldmodel.kernels())", WORLDMODEL_KERNELS="").stdout
        == _core.kernel_tables()[0] + "\n"
    )


def test_the_module_can_be_loaded_twice_without_harm():
    """Multi-phase init: a second module object has types of its own, and the first goes on."""
    code = """
import importlib.util, sys
import numpy as np
from worldmodel import _core
spec = importlib.util.spec_from_file_location("worldmodel._core", _core.__file__)
second = importlib.util.module_from_spec(spec)
spec.loader.exec_module(second)
assert second.Tensor is not _core.Tensor
for m in (_core, second):
    x = m.Tensor(np.ones(3, np.float32), needs_grad=True)
    with m.Tape() as tape:
        y = m.ops["sum"](m.ops["silu"](x))
    tape.backward(y)
    assert x.grad.all()
try:
    second.ops["silu"](_core.Tensor([1.0]))
except TypeError:
    print("told apart")
"""
    done = python(code)
    assert done.stdout == "told apart\n", done.stderr
