"""DLPack on CUDA: what capsules say, who waits for whom, and tensors that share numbers."""

import ctypes
import gc

import emulated
import numpy as np
import pytest
from worldmodel import Tape, _core, from_dlpack, machine, ops
from worldmodel.tensor import Tensor

HERE, WHY_NOT = emulated.possible()
pytestmark = pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}")
TYPES = {"float32": (2, 32), "bfloat16": (4, 16), "uint8": (1, 8), "int32": (0, 32)}


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("numbers", DLTensor),
    ]  # fmt: skip


def inside(capsule, name: bytes, kind):
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    found = kind.from_address(pointer(capsule, name))
    found.capsule = capsule  # as long as it is looked at
    return found


@pytest.fixture(autouse=True)
def cuda():
    emulated.use()
    machine.set_device("cuda")
    yield
    machine.set_device("cpu")


def waits() -> list[str]:
    """What streams were told to wait for since the last call: the emulator writes it down."""
    gc.collect()
    lib = emulated.emulator()
    if not emulated.is_emulator(lib):
        pytest.skip("a real device does not say what its streams wait for")
    return lib.emulator_waits().decode().splitlines()


def made(dtype="float32"):
    t = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    return t if dtype == "float32" else ops.cast(t, to=dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_a_capsule_says(dtype):
    t = made("bfloat16") if dtype == "bfloat16" else Tensor(np.arange(6).reshape(2, 3).astype(dtype))
    old, new = t.__dlpack__(), t.__dlpack__(max_version=(1, 1), copy=False, dl_device=(2, 0))
    assert t.__dlpack_device__() == (2, 0)
    managed = inside(new, b"dltensor_versioned", Versioned)
    assert (managed.major, managed.flags) == (1, 0)
    a, b = inside(old, b"dltensor", DLTensor), managed.numbers
    for d in (a, b):
        assert (d.device_type, d.device_id, d.ndim, d.lanes, d.byte_offset) == (2, 0, 2, 1, 0)
        assert d.shape[:2] == [2, 3] and (d.code, d.bits) == TYPES[dtype]
    assert a.data == b.data


@pytest.mark.parametrize("dtype", TYPES)
def test_there_and_back(dtype):
    t = made("bfloat16") if dtype == "bfloat16" else Tensor(np.arange(6).reshape(2, 3).astype(dtype))
    same = from_dlpack(t)
    assert (same.device, same.dtype, same.shape) == ("cuda", dtype, (2, 3))
    if dtype == "bfloat16":
        assert ops.cast(same, to="float32").numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
        return
    t.copy_([[7, 7, 7], [8, 8, 8]])
    assert same.numpy().tolist() == [[7, 7, 7], [8, 8, 8]]
    same.copy_(np.zeros((2, 3)))
    assert not t.numpy().any()
    del t
    assert not same.numpy().any()


def test_what_is_shared_computes_and_gets_gradients():
    x = from_dlpack(made())
    x.needs_grad = True
    with Tape() as tape:
        y = ops.square(x).sum()
    tape.backward(y)
    assert y.item() == 55 and x.grad.tolist() == [[0, 2, 4], [6, 8, 10]]


def test_a_view_is_shared_from_where_it_begins():
    t = made()
    view = t[1]
    a, b = inside(t.__dlpack__(), b"dltensor", DLTensor).data, inside(view.__dlpack__(), b"dltensor", DLTensor).data
    assert b - a == 12 and from_dlpack(view).numpy().tolist() == [3, 4, 5]


def test_the_consumers_stream_waits_for_ours():
    t, ours = made(), None
    waits()
    for stream, told in ((None, "1"), (1, "1"), (2, "2"), (0x7770, str(0x7770))):
        capsule = t.__dlpack__(stream=stream)
        ((later, earlier),) = [w.split(" for ") for w in waits()]
        ours = ours or earlier
        assert later == told and earlier == ours and int(ours) > 2
        del capsule
        last = waits()
        assert last == ([f"{ours} for 1"] if stream in (None, 1) else ["the host for all"])
    capsule = t.__dlpack__(stream=-1)
    assert not waits() and capsule


@pytest.mark.parametrize("stream", [0, -2, "1", 1.0, 2**70])
def test_streams_that_are_none_are_refused(stream):
    with pytest.raises((BufferError, OverflowError)):
        made().__dlpack__(stream=stream)
    with pytest.raises((BufferError, OverflowError)):
        Tensor(np.zeros(2, np.float32), device="cpu").__dlpack__(stream=1)


class Producer:
    """Another library's tensor on CUDA, here one of ours in disguise."""

    def __init__(self, t, device=(2, 0)):
        self.t, self.device, self.asked = t, device, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **words):
        self.asked.append(words)
        return self.t.__dlpack__(**words)


def test_a_producer_is_told_our_stream_and_let_go_when_we_are_done():
    producer = Producer(made())
    taken = from_dlpack(producer)
    ((_, stream),) = producer.asked[0].items()
    assert list(producer.asked[0]) == ["stream"] and stream > 2
    with pytest.raises(ValueError, match="CUDA device 1, ours is 0"):
        from_dlpack(Producer(made(), (2, 1)))
    with pytest.raises(ValueError, match="device type 10"):
        from_dlpack(Producer(made(), (10, 0)))
    with pytest.raises(TypeError, match="__dlpack_device__"):
        from_dlpack(Producer(made(), 2))
    before = _core.pool()["bytes_in_use"]
    del producer
    assert taken.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    del taken
    gc.collect()
    assert _core.pool()["bytes_in_use"] < before


def test_copies_where_they_are_asked_for():
    t = made()
    there = np.from_dlpack(t, device="cpu")
    assert there.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises((BufferError, RuntimeError, ValueError)):
        np.from_dlpack(t)
    with pytest.raises(BufferError, match="copy=False"):
        t.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(BufferError, match=r"device \(2, 3\)"):
        t.__dlpack__(dl_device=(2, 3))
    capsule = t.__dlpack__(max_version=(1, 0), copy=True)
    copied = inside(capsule, b"dltensor_versioned", Versioned)
    assert copied.flags == 2 and copied.numbers.device_type == 2
    assert copied.numbers.data != inside(t.__dlpack__(), b"dltensor", DLTensor).data


def test_dropped_capsules_leak_nothing():
    t = ops.silu(made())
    gc.collect()
    before = _core.pool()["bytes_in_use"]
    for _ in range(20):
        t.__dlpack__(copy=True), t.__dlpack__(max_version=(1, 0)), from_dlpack(t)
    gc.collect()
    assert _core.pool()["bytes_in_use"] == before
