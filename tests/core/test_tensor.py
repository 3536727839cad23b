"""Tensor: numbers shared with NumPy, the buffer protocol and DLPack; what cannot be shared is refused in
words."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from worldmodel import Tape, Tensor, _core, from_dlpack, ops


def test_shares_numpys_memory_both_ways():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = Tensor(a)
    a[0, 0] = 7
    assert t.numpy()[0, 0] == 7
    t.numpy()[1, 2] = 9
    assert a[1, 2] == 9 and np.shares_memory(a, t.numpy())
    assert np.shares_memory(np.asarray(t), a) and np.shares_memory(np.asarray(memoryview(t)), a)


def test_a_view_keeps_the_memory_alive():
    t = ops.silu(Tensor(np.ones(1000, np.float32)))
    a = t.numpy()
    del t
    gc.collect()
    [ops.silu(Tensor(np.zeros(1000, np.float32))) for _ in range(20)]
    assert (a == a[0]).all() and a[0] > 0.7


def test_the_array_is_kept_alive_and_let_go():
    class Watched(np.ndarray):
        pass

    a = np.ones(8, np.float32).view(Watched)
    watch = weakref.ref(a)
    t = Tensor(a)
    del a
    gc.collect()
    assert (t.numpy() == 1).all()
    del t
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("dtype, name", [(np.float32, "float32"), (np.uint8, "uint8"), (np.int32, "int32")])
def test_dtypes_that_are_shared(dtype, name):
    a = np.ones((2, 2), dtype)
    t = Tensor(a)
    assert t.dtype == name and np.shares_memory(t.numpy(), a) and t.numpy().dtype == dtype


@pytest.mark.parametrize(
    "dtype, name", [(np.float64, "float32"), (np.int64, "int32"), (np.bool_, "uint8"), (np.int8, "int32")]
)
def test_dtypes_that_are_converted(dtype, name):
    a = np.array([0, 1, 1], dtype)
    t = Tensor(a)
    assert t.dtype == name and t.numpy().tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Tensor(np.ones((3, 4), np.float32).T), ValueError, "not contiguous.*copy=True"),
        (lambda: Tensor(np.broadcast_to(np.float32(1), (3,))), ValueError, "copy=True"),
        (lambda: Tensor(np.ones(3, ">f4")), ValueError, "byte order"),
        (lambda: Tensor(np.array(["a"])), TypeError, "cannot hold"),
        (lambda: Tensor(np.array([1j])), TypeError, "cannot hold"),
        (lambda: Tensor([2**40]), OverflowError, "integers must lie in"),
        (lambda: Tensor([-1], dtype="uint8"), OverflowError, "integers must lie in 0..255"),
        (lambda: Tensor([300], dtype="uint8"), OverflowError, "goes from 300 to 300"),
        (lambda: Tensor(np.ones((1,) * 7, np.float32)), ValueError, "7 axes, at most 6"),
        (lambda: Tensor([1], dtype="float16"), ValueError, "dtype must be"),
        (lambda: Tensor([1, 2], needs_grad=True), TypeError, "only float32"),
        (lambda: Tensor(), TypeError, "data"),
        (lambda: Tensor([[1, 2], [3]]), ValueError, "."),
        (lambda: Tensor(np.zeros((0, 3), np.float32)) + 1, ValueError, "no numbers"),
        (lambda: Tensor([1.0, 2.0]).item(), ValueError, "2 numbers, not one"),
        (lambda: len(Tensor(1.0)), TypeError, "no axes"),
        (lambda: Tensor([1.0]).copy_(np.ones(3)), ValueError, "broadcast"),
        (lambda: _core.use_kernels("mmx"), ValueError, "no kernels named 'mmx'.*baseline"),
        (lambda: _core.set_threads(0), ValueError, "between 1 and"),
        (lambda: _core.set_threads("2"), TypeError, "int"),
    ],
)
def test_wrong_use_is_refused_in_words(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_read_only_array_can_be_copied():
    a = np.broadcast_to(np.float32(2), (3,))
    assert Tensor(a, copy=True).numpy().tolist() == [2, 2, 2]


def test_dlpack_with_numpy():
    a = np.arange(4, dtype=np.float32)
    t = from_dlpack(a)
    assert np.shares_memory(t.numpy(), a)
    b = np.from_dlpack(ops.silu(t))
    assert np.allclose(b, a / (1 + np.exp(-a)))
    assert t.__dlpack_device__() == (1, 0)
    with pytest.raises(TypeError, match="float32, bfloat16, uint8 or int32"):
        from_dlpack(np.arange(3.0))
    with pytest.raises(ValueError, match="not contiguous"):
        from_dlpack(np.ones((4, 4), np.float32).T[:, :2])


def test_a_dropped_dlpack_capsule_leaks_nothing():
    t = ops.silu(Tensor(np.ones(100_000, np.float32)))
    gc.collect()
    before = _core.pool()["bytes_in_use"]
    for _ in range(100):
        t.__dlpack__()
        np.from_dlpack(t)
    gc.collect()
    assert _core.pool()["bytes_in_use"] == before


def test_buffer_protocol():
    m = memoryview(Tensor(np.arange(6, dtype=np.int32).reshape(2, 3)))
    assert m.shape == (2, 3) and m.format == "i" and m.tolist() == [[0, 1, 2], [3, 4, 5]] and m.c_contiguous


def test_a_packed_weight_notices_every_write():
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((64, 32)).astype(np.float32))
    w = Tensor(rng.standard_normal((48, 32)).astype(np.float32), copy=True)

    def right():
        want = x.numpy().astype(np.float64) @ np.array(w.numpy(), np.float64).T
        return np.allclose(ops.linear(x, w).numpy(), want, atol=1e-4)

    assert right()
    w.copy_(rng.standard_normal((48, 32)))
    assert right()
    view = w.numpy()
    view[...] = 1
    assert right()
    view[3] = 5
    assert right()
    del view
    assert right()
    memoryview(w)[0, 0] = 100.0
    assert right()
    np.from_dlpack(w)[1] = -3
    assert right()


def test_operators_and_indexing():
    a = np.random.default_rng(0).standard_normal((4, 3, 2)).astype(np.float32)
    t = Tensor(a)
    for got, want in [
        (t + t, a + a),
        (1 + t, 1 + a),
        (t - 2, t.numpy() - 2),
        (2 - t, 2 - a),
        (t * 3, 3 * a),
        (t / 2, a / 2),
        (1 / (t * t + 1), 1 / (a * a + 1)),
        (-t, -a),
        (t**2, a**2),
        (t[1], a[1]),
        (t[-1, 2], a[-1, 2]),
        (t[1:3], a[1:3]),
        (t[:, 1], a[:, 1]),
        (t[..., 0], a[..., 0]),
        (t[:, ::2], a[:, ::2]),
        (t[[2, 0]], a[[2, 0]]),
        (t.reshape(6, 4), a.reshape(6, 4)),
        (t.reshape((-1, 2)), a.reshape(-1, 2)),
        (t.sum(), a.sum()),
        (t.mean((0, 2)), a.mean((0, 2))),
        (Tensor(a[0]) @ Tensor(a[0].T.copy()), a[0] @ a[0].T),
    ]:
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert [float(x) for x in Tensor([1.0, 2.0])] == [1, 2]
    with pytest.raises(IndexError):
        t[4]
    with pytest.raises(IndexError):
        t[0, 0, 0, 0]


def test_copies_and_pickles():
    t = Tensor(np.ones(3, np.float32), needs_grad=True)
    for u in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert u.numpy().tolist() == [1, 1, 1] and u.needs_grad and not np.shares_memory(u.numpy(), t.numpy())


def test_repr_says_what_it_is():
    assert repr(Tensor([[1.0, 2.0]])) == "Tensor([[1., 2.]], shape=(1, 2), float32)"
    assert "needs_grad" in repr(Tensor([1.0], needs_grad=True)) and "shape=()" in repr(Tensor(1.0))
    assert len(repr(Tensor(np.zeros(10**6, np.float32)))) < 200


def test_gradient_is_a_view():
    x = Tensor(np.ones(3, np.float32), needs_grad=True)
    with Tape() as tape:
        y = ops.sum(x)
    tape.backward(y)
    x.grad[0] = 5
    assert x.grad[0] == 5
