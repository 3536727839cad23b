"""Norms, plain and modulated, against float64; conditions per sample, frame, token; chunks of one tensor."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference import norm as ref
from worldmodel import _core

WIDTHS = [1, 2, 7, 16, 17, 64, 130, 384]


def normal(*shape, seed=0, offset=0.0):
    return (np.random.default_rng(seed + sum(shape)).standard_normal(shape) + offset).astype(np.float32)


def check(op, arrays, reference, **attrs):
    check_op(op, arrays, reference, tolerance=4e-6, **attrs)


@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("affine", [0, 1, 2])
def test_layer_norm(kernels, C, affine):
    a = [normal(3, 5, C), normal(C) if affine else None, normal(C, seed=1) if affine > 1 else None]
    check("layer_norm", a, lambda x, w, b: ref.layer_norm(x, w, b, 1e-3), batched=[0], eps=1e-3)


@pytest.mark.parametrize("C", WIDTHS)
@pytest.mark.parametrize("affine", [False, True])
def test_rms_norm(kernels, C, affine):
    a = [normal(3, 5, C), normal(C) if affine else None]
    check("rms_norm", a, lambda x, w: ref.rms_norm(x, w, 0.1), batched=[0], eps=0.1)


def test_layer_norm_sums_rows_in_chunks(kernels):
    """More rows than a chunk, and a last chunk that is not full."""
    check("layer_norm", [normal(3, 67, 33), normal(33), normal(33, seed=1)], ref.layer_norm, batched=[0])
    check("rms_norm", [normal(300, 100), normal(100)], ref.rms_norm, batched=[0])


def test_norms_share_the_work_among_threads(kernels):
    """Enough rows that threads are used."""
    x, cond, r = normal(3, 700, 33), normal(3, 66), normal(3, 700, 33, seed=4)
    check("layer_norm", [x, normal(33), normal(33, seed=1)], ref.layer_norm, batched=[0])
    check("adaln", [x, cond, normal(3, 33)], lambda x, s, t: ref.adaln(x, s, t, 1), batched=[0, 1, 2], scale_chunk=1)
    check("gate_residual", [r, x, cond], lambda r, x, g: ref.gate_residual(r, x, g), batched=[0, 1, 2])


def test_layer_norm_far_from_zero(kernels):
    """A mean a thousand times the deviation: one pass over squares would have lost everything."""
    x = normal(4, 200, offset=1000.0)
    check_op("layer_norm", [x, None, None], ref.layer_norm, tolerance=2e-4, grad_tolerance=2e-4)


def test_layer_norm_of_a_constant_is_zero(kernels):
    out = _core.ops["layer_norm"](tensor(np.full((2, 37), 3.25, np.float32))).numpy()
    assert np.abs(out).max() < 1e-3


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("lead", [(2,), (2, 3), (2, 3, 70)], ids=["sample", "frame", "token"])
@pytest.mark.parametrize("C", [1, 16, 23, 96])
def test_adaln(kernels, kind, lead, C):
    a = [normal(2, 3, 70, C), normal(*lead, C, seed=1), normal(*lead, C, seed=2)]
    check("adaln", a, lambda x, s, t: ref.adaln(x, s, t, kind=kind, eps=0.1), batched=[0, 1, 2], kind=kind,
          eps=0.1)


def test_adaln_without_shift(kernels):
    check("adaln", [normal(4, 5, 19), normal(4, 19), None], ref.adaln, batched=[0, 1])


def test_adaln_takes_chunks(kernels):
    """Six vectors from one linear map, as DiT has them; both gradients land in their chunk of one tensor."""
    x, c = normal(3, 70, 20), normal(3, 120, seed=3)
    chunks = dict(scale_chunk=4, shift_chunk=3)
    want = ref.adaln(x.astype(np.float64), c.astype(np.float64), c.astype(np.float64), **chunks)
    tx, tc = tensor(x, True), tensor(c, True)
    with _core.Tape() as tape:
        out = _core.ops["adaln"](tx, tc, tc, **chunks)
    assert np.abs(out.numpy() - want).max() < 1e-5
    seed = normal(3, 70, 20, seed=5)
    tape.backward(out, tensor(seed))
    grad = np.array(tc.grad)
    h = ref.normalise(x.astype(np.float64), 1e-6)
    assert np.allclose(grad[:, 60:80], seed.sum(1), atol=1e-4)
    assert np.allclose(grad[:, 80:100], (seed * h).sum(1), atol=1e-4)
    assert not grad[:, :60].any() and not grad[:, 100:].any()


@pytest.mark.parametrize("lead", [(2,), (2, 3), (2, 3, 70)], ids=["sample", "frame", "token"])
@pytest.mark.parametrize("C, chunk", [(1, 0), (16, 2), (23, 1)])
def test_gate_residual(kernels, lead, C, chunk):
    a = [normal(2, 3, 70, C), normal(2, 3, 70, C, seed=1), normal(*lead, 3 * C, seed=2)]
    check("gate_residual", a, lambda r, x, g: ref.gate_residual(r, x, g, chunk), batched=[0, 1, 2],
          gate_chunk=chunk)


GROUPED = [(2, 1, 2, 1), (2, 9, 6, 3), (3, 25, 64, 2), (2, 133, 30, 5), (2, 70, 17, 1), (3, 1100, 16, 4),
           (1, 80, 520, 2)]


@pytest.mark.parametrize("B, S, C, groups", GROUPED)
@pytest.mark.parametrize("act", ["none", "silu"])
@pytest.mark.parametrize("affine", [False, True])
def test_group_norm(kernels, B, S, C, groups, act, affine):
    a = [normal(B, S, C), normal(C) if affine else None, normal(C, seed=1) if affine else None]
    check("group_norm", a, lambda x, w, b: ref.group_norm(x, w, b, groups, 1e-3, act), batched=[0],
          groups=groups, act=act, eps=1e-3)


@pytest.mark.parametrize("B, S, C, groups", GROUPED)
@pytest.mark.parametrize("act", ["none", "silu"])
def test_ada_group_norm(kernels, B, S, C, groups, act):
    a = [normal(B, S, C), normal(B, 2 * C, seed=1), normal(B, 3 * C, seed=2)]
    check("ada_group_norm", a, lambda x, s, t: ref.ada_group_norm(x, s, t, groups, 1e-3, act, 1, 2),
          batched=[0, 1, 2], groups=groups, act=act, eps=1e-3, scale_chunk=1, shift_chunk=2)


def test_group_norm_far_from_zero(kernels):
    x = normal(2, 15, 15, 16, offset=1000.0)
    check_op("group_norm", [x, None, None], lambda x, w, b: ref.group_norm(x, w, b, 2), batched=[0],
             tolerance=2e-4, grad_tolerance=2e-4, groups=2)


@pytest.mark.parametrize("op, shapes, attrs, words", [
    ("layer_norm", [(2, 3), (4,)], {}, "weight wanted (3,)"),
    ("layer_norm", [(2, 3), (3,)], dict(eps=-1.0), "eps"),
    ("adaln", [(2, 3), (2, 4), (2, 3)], {}, "scale wanted a multiple of 3"),
    ("adaln", [(2, 3), (2, 3), (1, 3)], {}, "shift wanted 2 rows"),
    ("adaln", [(4, 3), (3, 3), (3, 3)], {}, "scale wanted one row"),
    ("adaln", [(2, 3), (2, 6), (2, 3)], dict(scale_chunk=2), "scale_chunk wanted 0 to 1"),
    ("gate_residual", [(2, 3), (2, 4), (2, 3)], {}, "x wanted (2, 3)"),
    ("gate_residual", [(2, 3), (2, 3), (2, 3)], dict(gate_chunk=1), "gate_chunk"),
    ("group_norm", [(2, 5, 6), (6,), (6,)], dict(groups=4), "groups wanted a divisor of 6"),
    ("group_norm", [(6,), (6,), (6,)], dict(groups=2), "x wanted (B, ..., C)"),
    ("ada_group_norm", [(2, 5, 6), (1, 6), (2, 6)], dict(groups=2), "scale wanted one row for each sample")])
def test_norms_say_what_is_wrong(op, shapes, attrs, words):
    with pytest.raises(ValueError, match=op) as e:
        _core.ops[op](*[tensor(np.zeros(s, np.float32)) for s in shapes], **attrs)
    assert words in str(e.value)


def test_a_chunk_number_so_large_that_its_place_wraps_round_is_refused():
    x, cond = tensor(np.ones((2, 4, 8), np.float32)), tensor(np.ones((2, 16), np.float32))
    for chunk in (2, 2**61, 2**62, 2**63 - 1):
        with pytest.raises(ValueError, match="scale_chunk wanted 0 to 1"):
            _core.ops["ada_group_norm"](x, cond, groups=2, scale_chunk=chunk)
        with pytest.raises(ValueError, match="scale_chunk wanted 0 to 1"):
            _core.ops["adaln"](x, cond, scale_chunk=chunk)
