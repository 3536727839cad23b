"""conftest: one tiny world, made once, and its file."""

import pytest
import tiny
import worldmodel as wm


@pytest.fixture(scope="session")
def replay(tmp_path_factory):
    return tiny.make_replay(tmp_path_factory.mktemp("replay") / "noise")


@pytest.fixture(scope="session")
def world(replay):
    return tiny.make_world(replay)


@pytest.fixture(scope="session")
def world_file(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "tiny.safetensors"
    world.save(path)
    return str(path)


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tiny arrays: threads would only wait for each other."""
    before = wm.threads()
    wm.set_threads(1)
    yield
    wm.set_threads(before)
