"""conftest: every test that asks for `kernels` runs once per kernel table of this processor."""

import pytest
from worldmodel import _core


@pytest.fixture(params=_core.kernel_tables())
def kernels(request):
    """The name of the kernel table in use during the test."""
    before = _core.kernels()
    _core.use_kernels(request.param)
    yield request.param
    _core.use_kernels(before)
