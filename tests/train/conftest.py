"""conftest: one thread; arrays here are tiny, threads would only wait for each other."""

import pytest
import worldmodel as wm


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = wm.threads()
    wm.set_threads(1)
    yield
    wm.set_threads(before)
