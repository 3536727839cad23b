"""conftest: `cuda` makes the emulated device this process's, and gives the processor back afterwards."""

import emulated
import pytest
from worldmodel import machine


@pytest.fixture
def cuda():
    emulated.use()
    yield
    machine.set_device("cpu")
