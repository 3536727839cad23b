"""conftest: every test that asks for `kernels` runs once per kernel table of this processor, and on emulated CUDA."""

import emulated
import pytest
from worldmodel import _core

CUDA = "cuda (emulated)"
HAS_CUDA, WHY_NOT = emulated.possible()


def pytest_report_header(config):
    return "emulated CUDA: " + ("built when a test asks for it" if HAS_CUDA else f"skipped, {WHY_NOT}")


def pytest_generate_tests(metafunc):
    """The tests of the ops run on CUDA too; `cuda_too` at the head of another module asks for the same."""
    if "kernels" in metafunc.fixturenames:
        too = "/ops/" in str(metafunc.module.__file__) or getattr(metafunc.module, "cuda_too", False)
        metafunc.parametrize("kernels", [*_core.kernel_tables(), *([CUDA] if HAS_CUDA and too else [])], indirect=True)


@pytest.fixture
def kernels(request):
    """The name of the kernel table in use during the test; on CUDA, new tensors are made there."""
    if request.param == CUDA:
        emulated.use()
        _core.set_device("cuda")
        yield request.param
        _core.set_device("cpu")
        return
    before = _core.kernels()
    _core.use_kernels(request.param)
    yield request.param
    _core.use_kernels(before)
