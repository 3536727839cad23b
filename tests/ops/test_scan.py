"""Recurrent ops: LSTM and GRU against float64, resets, single steps."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference import scan as ref
from worldmodel import _core

SIZES = [(1, 1, 1), (3, 4, 5), (2, 7, 16), (5, 3, 17), (4, 2, 33), (13, 2, 64)]
TOLERANCE = {"tolerance": 4e-6, "grad_tolerance": 4e-5}


def arrays(B, T, H, gates, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    reset = (rng.random((B, T)) < 0.3).astype(np.uint8)
    weight = normal(gates * H, H) / np.float32(np.sqrt(H))
    return normal(B, T, gates * H), weight, normal(gates * H), normal(B, H), normal(B, H), reset


@pytest.mark.parametrize(("B", "T", "H"), SIZES)
def test_lstm(kernels, B, T, H):
    x, w, b, h, c, reset = arrays(B, T, H, 4)
    check_op("lstm", [x, w, b, h, c, reset], ref.lstm, batched=[0, 3, 4, 5], **TOLERANCE)


@pytest.mark.parametrize(("B", "T", "H"), SIZES)
def test_gru(kernels, B, T, H):
    x, w, b, h, _, reset = arrays(B, T, H, 3)
    check_op("gru", [x, w, b, h, reset], ref.gru, batched=[0, 3, 4], **TOLERANCE)


def test_what_is_absent_is_zero(kernels):
    x, w, *_ = arrays(3, 4, 9, 4)
    check_op("lstm", [x, w, *[None] * 4], lambda x, w, *_: ref.lstm(x, w, *[None] * 4), **TOLERANCE)
    x, w, *_ = arrays(3, 4, 9, 3)
    check_op("gru", [x, w, None, None, None], lambda x, w, *_: ref.gru(x, w, None, None, None), **TOLERANCE)


def test_one_step(kernels):
    x, w, b, h, c, reset = arrays(6, 1, 19, 4)

    def lstm(x, w, b, h, c, reset):
        return ref.lstm(x[:, None], w, b, h, c, reset[:, None])[1:]

    def gru(x, w, b, h, reset):
        return ref.gru(x[:, None], w, b, h, reset[:, None])[1]

    check_op("lstm_cell", [x[:, 0], w, b, h, c, reset[:, 0]], lstm, batched=[0, 3, 4, 5], **TOLERANCE)
    x, w, b, h, _, reset = arrays(6, 1, 19, 3)
    check_op("gru_cell", [x[:, 0], w, b, h, reset[:, 0]], gru, batched=[0, 3, 4], **TOLERANCE)


def test_steps_make_the_sequence_bit_for_bit(kernels):
    x, w, b, h, c, _ = (tensor(a) for a in arrays(3, 5, 24, 4))
    out, last_h, last_c = _core.ops["lstm"](x, w, b, h, c)
    for t in range(5):
        step = tensor(np.ascontiguousarray(x.numpy()[:, t]))
        h, c = _core.ops["lstm_cell"](step, w, b, h, c)
        assert np.array_equal(h.numpy(), out.numpy()[:, t])
    assert np.array_equal(h.numpy(), last_h.numpy()) and np.array_equal(c.numpy(), last_c.numpy())


def test_without_a_tape_the_same_numbers_come_out(kernels):
    for name, gates in (("lstm", 4), ("gru", 3)):
        x, w, b, h, c, reset = arrays(3, 5, 24, gates)
        rest = [b, h, c, reset] if gates == 4 else [b, h, reset]
        weight = _core.Tensor(w, needs_grad=True)
        with _core.Tape() as tape:
            kept = _core.ops[name](tensor(x), weight, *[tensor(a) for a in rest])
        free = _core.ops[name](tensor(x), weight, *[tensor(a) for a in rest])
        for a, other in zip(kept, free, strict=True):
            assert np.array_equal(a.numpy(), other.numpy())
        tape.clear()


def test_a_reset_stops_the_past(kernels):
    """What came before a reset changes nothing behind it, and gets no gradient from there."""
    for name, gates in (("lstm", 4), ("gru", 3)):
        x, w, b, *_ = arrays(1, 6, 8, gates)
        reset = np.zeros((1, 6), np.uint8)
        reset[0, 3] = 1
        absent = [None, None] if gates == 4 else [None]
        changed = x.copy()
        changed[:, :3] += 1
        rest = [tensor(w), tensor(b), *absent, tensor(reset)]
        one, two = (_core.ops[name](tensor(a), *rest)[0].numpy() for a in (x, changed))
        assert np.array_equal(one[:, 3:], two[:, 3:]) and not np.array_equal(one[:, :3], two[:, :3])
        leaf = _core.Tensor(x, needs_grad=True)
        with _core.Tape() as tape:
            out = _core.ops[name](leaf, *rest)[0]
        seed = np.zeros(out.shape, np.float32)
        seed[:, 5] = 1
        tape.backward(out, tensor(seed))
        assert not leaf.grad[:, :3].any() and leaf.grad[:, 3:].any()


@pytest.mark.parametrize(("name", "shapes", "text"), [
    ("lstm", [(2, 3, 8), (8, 3)], "weight wanted"), ("lstm", [(2, 3, 9), (8, 2)], "x wanted"),
    ("lstm", [(2, 3, 8), (8, 2), (7,)], "bias wanted"),
    ("lstm", [(2, 3, 8), (8, 2), (8,), (3, 2)], "h0 wanted"),
    ("lstm", [(2, 3, 8), (8, 2), (8,), (2, 2), (2, 3)], "c0 wanted"),
    ("lstm_cell", [(2, 3, 8), (8, 2)], "x wanted"),
    ("gru", [(2, 3, 8), (6, 2)], "x wanted"), ("gru", [(2, 6), (6, 2)], "x wanted"),
])
def test_wrong_use_is_told(name, shapes, text):
    with pytest.raises(ValueError, match=text):
        _core.ops[name](*[tensor(np.zeros(s, np.float32)) for s in shapes])


def test_a_reset_of_another_shape_is_told():
    x, w, *_ = arrays(2, 3, 4, 4)
    with pytest.raises(ValueError, match="reset wanted"):
        _core.ops["lstm"](tensor(x), tensor(w), None, None, None, tensor(np.zeros((3, 2), np.uint8)))
