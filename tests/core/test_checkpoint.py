"""Model files: written whole or not at all, and read as if an enemy had written them."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from worldmodel import checkpoint

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1, 2], np.int32),
    "c": np.zeros((), np.float32),
}
META = {"config": {"width": 3, "name": "é"}, "list": [1, 2.5, None]}


def test_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.write_tensors(path, TENSORS, META)
    tensors, metadata = checkpoint.read_tensors(path)
    assert metadata == META and tensors.keys() == TENSORS.keys()
    for name, a in TENSORS.items():
        assert tensors[name].dtype == a.dtype and np.array_equal(tensors[name], a) and tensors[name].shape == a.shape
    checkpoint.write_tensors(path, {"t": TENSORS["a"].T})  # not contiguous
    assert np.array_equal(checkpoint.read_tensors(path)[0]["t"], TENSORS["a"].T)
    assert os.listdir(tmp_path) == [path.name]


def header(text, tail=b""):
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data)) + data + tail


HOSTILE = {
    "empty": b"",
    "short": b"abc",
    "zeros": bytes(64),
    "text": b"hello, I am no file of tensors at all",
    "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a negative header": struct.pack("<q", -1) + b"{}",
    "no JSON": header(b"{not json"),
    "no UTF-8": header(b"\xff\xfe{}"),
    "a list": header([]),
    "offsets past the end": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "offsets that disagree with the shape": header(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, bytes(8)
    ),
    "offsets backwards": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)),
    "offsets that overflow": header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}, bytes(8)),
    "negative lengths": header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8)),
    "an unknown type": header({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "overlapping": header({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
    "a hole": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "more behind": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(9)),
    "metadata that is no JSON": header({"__metadata__": {"config": "{"}}),
    "deep metadata": header({"__metadata__": {"config": "[" * 100_000}}),
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x04evil\x94.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="x: "):
        checkpoint.read_tensors(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x"
    checkpoint.write_tensors(path, TENSORS, META)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError):
            checkpoint.read_tensors(path)


def test_flipped_bytes_never_crash(tmp_path):
    path, rng = tmp_path / "x", np.random.default_rng(0)
    checkpoint.write_tensors(path, TENSORS, META)
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            checkpoint.read_tensors(path)
        except ValueError:
            pass


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.read_tensors(tmp_path / "nothing")
    with pytest.raises(OSError):
        checkpoint.read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoint.write_tensors(tmp_path / "no" / "folder", TENSORS)


class FullDisk:
    """A file that takes some bytes and then says that the disk is full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "x"
    checkpoint.write_tensors(path, TENSORS, META)
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    fdopen = os.fdopen
    if fails == "write":
        monkeypatch.setattr(os, "fdopen", lambda *a: FullDisk(fdopen(*a)))
    else:
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_tensors(path, {"a": np.ones(1000, np.float32)})
    monkeypatch.undo()
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["x"]


def test_a_device_that_is_always_full(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    handle = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as error, os.fdopen(handle, "wb") as f:
        f.write(b"x" * 100_000)
        f.flush()
    assert error.value.errno == errno.ENOSPC  # what the test above stands in for


KILLED = """
import os, signal, sys
import numpy as np
from worldmodel import checkpoint
moment = sys.argv[2]
real = getattr(os, moment)
def die(*a):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, moment, die)
checkpoint.write_tensors(sys.argv[1], {"a": np.ones(100_000, np.float32)})
"""


@pytest.mark.parametrize("moment", ["fdopen", "fsync", "replace"])
def test_a_kill_at_any_moment_leaves_the_last_good_file(tmp_path, moment):
    path = tmp_path / "x"
    checkpoint.write_tensors(path, TENSORS, META)
    old = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == old
    checkpoint.write_tensors(path, {"b": np.ones(3, np.float32)})  # and the next write is not disturbed
    assert checkpoint.read_tensors(path)[0].keys() == {"b"}


def test_views_of_a_file_are_its_tensors(tmp_path):
    path = tmp_path / "x"
    odd = {"none": np.zeros((0, 3), np.float32), "one": np.array(2.5), "swapped": np.arange(5, dtype=">i4")}
    odd |= {"flags": np.array([True, False]), "bits": np.arange(7, dtype=np.uint16), "b": np.arange(3, dtype=np.int8)}
    checkpoint.write_tensors(path, TENSORS | odd, META)
    copies, metadata = checkpoint.read_tensors(path)
    views, same = checkpoint.read_tensors(path, mapped=True)
    assert metadata == same == META and copies.keys() == views.keys() == (TENSORS | odd).keys()
    for name, a in (TENSORS | odd).items():
        for got in (copies[name], views[name]):
            assert got.shape == a.shape and got.dtype == a.dtype.newbyteorder("<") and np.array_equal(got, a)
        assert not views[name].flags.writeable or not a.size
    with pytest.raises(TypeError, match="x: safetensors has no complex"):
        checkpoint.write_tensors(path, {"x": np.ones(2, complex)})
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        checkpoint.read_tensors(path, mapped=True)


def test_weights_are_held_once_while_they_are_saved_and_loaded(tmp_path):
    import tracemalloc

    from worldmodel import nn

    layers, again = (nn.Sequential(*(nn.Linear(256, 256) for _ in range(16))) for _ in range(2))
    size = sum(4 * t.size for _, t in layers.named_tensors())
    tracemalloc.start()
    layers.save(tmp_path / "x")
    again.load(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 8
    assert all(np.array_equal(a, b) for a, b in zip(layers.views().values(), again.views().values(), strict=True))
