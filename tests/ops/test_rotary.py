"""rotary: tables at any position, norm and rotation against float64; only the distance counts."""

import numpy as np
import pytest
from harness import check_op
from reference import attention as ref
from worldmodel import _core


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind,base", [("base", 10000.0), ("base", 100.0), ("pixel", 256.0)])
@pytest.mark.parametrize("axes", [0, 2, 3])
def test_tables(kernels, kind, base, axes):
    rng = np.random.default_rng(axes)
    position = normal(rng, 7, axes) if axes else normal(rng, 2, 7)
    check_op(
        "rotary_table",
        [position],
        lambda p: ref.rotary_table(p, 24, base, axes, kind),
        grads=(),
        tolerance=1e-6,
        width=24,
        base=base,
        axes=axes,
        kind=kind,
    )


def test_tables_have_no_largest_position(kernels):
    position = np.array([0, 1, 1023, 10**6 + 1, 2**31 - 1], np.int32)
    cos, sin = (np.array(t.numpy()) for t in _core.ops["rotary_table"](_core.Tensor(position), width=64))
    want = ref.rotary_table(position, 64)
    assert max(np.abs(cos - want[0]).max(), np.abs(sin - want[1]).max()) < 1e-6


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("D,P", [(1, 0), (2, 1), (7, 3), (16, 8), (33, 10), (64, 32), (70, 35)])
def test_norm_and_rotation(kernels, norm, pairs, D, P):
    rng, heads = np.random.default_rng(D), 2
    x, scale = normal(rng, 3, 5, heads * D) + 0.3, normal(rng, D) if D % 2 else None
    tables = [normal(rng, 5, P), normal(rng, 5, P)] if P else [None, None]
    attrs = dict(heads=heads, norm=norm, pairs=pairs, eps=1e-3)
    check_op(
        "qk_norm_rotary",
        [x, *tables, scale],
        lambda *a: ref.qk_norm_rotary(*a, **attrs),
        grads=[0, 3] if scale is not None else [0],
        batched=[0],
        tolerance=4e-6,
        grad_tolerance=5e-5,
        **attrs,
    )


@pytest.mark.parametrize("axis,rows", [(-3, (4,)), (-2, (3,)), (1, (2, 4)), (2, (2, 4, 3))])
def test_axes_and_tables_per_sample(kernels, axis, rows):
    rng = np.random.default_rng(0)
    x, cos, sin = normal(rng, 2, 4, 3, 16), normal(rng, *rows, 4), normal(rng, *rows, 4)
    check_op(
        "qk_norm_rotary",
        [x, cos, sin],
        lambda *a: ref.qk_norm_rotary(*a, heads=2, axis=axis),
        grads=[0],
        grad_tolerance=5e-5,
        heads=2,
        axis=axis,
    )


@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 1)])
@pytest.mark.parametrize("scaled", [True, False])
def test_fused_rows(kernels, heads, kv_heads, scaled):
    rng, D = np.random.default_rng(0), 10
    qkv = normal(rng, 2, 6, (heads + 2 * kv_heads) * D)
    tables, scales = (
        [normal(rng, 6, 5), normal(rng, 6, 5)],
        [normal(rng, D) if scaled else None for _ in range(2)],
    )

    def reference(qkv, cos, sin, q_scale, k_scale):
        q, k, _ = ref.split(qkv, heads, kv_heads)
        return (
            ref.qk_norm_rotary(q, cos, sin, q_scale, heads=heads),
            ref.qk_norm_rotary(k, cos, sin, k_scale, heads=kv_heads),
        )

    check_op(
        "qkv_norm_rotary",
        [qkv, *tables, *scales],
        reference,
        grads=[0, 3, 4] if scaled else [0],
        batched=[0],
        tolerance=4e-6,
        grad_tolerance=5e-5,
        heads=heads,
        kv_heads=kv_heads,
    )


def test_scale_over_many_rows(kernels):
    rng = np.random.default_rng(0)
    x, scale = normal(rng, 1, 700, 24), normal(rng, 8)
    check_op(
        "qk_norm_rotary",
        [x, None, None, scale],
        lambda *a: ref.qk_norm_rotary(*a, heads=3),
        grads=[0, 3],
        tolerance=4e-6,
        grad_tolerance=5e-5,
        heads=3,
    )


def test_only_the_distance_counts(kernels):
    """q at p + n against k at n: the score does not depend on n."""
    rng = np.random.default_rng(0)
    q, k = normal(rng, 1, 1, 64), normal(rng, 1, 1, 64)
    scores = []
    for n in (0, 1000, 10**7):
        turned = []
        for x, p in ((q, n + 5), (k, n)):
            tables = _core.ops["rotary_table"](_core.Tensor(np.array([p], np.int32)), width=64)
            turned.append(_core.ops["qk_norm_rotary"](_core.Tensor(x), *tables, heads=1, norm="none").numpy())
        scores.append(float((turned[0] * turned[1]).sum()))
    assert np.ptp(scores) < 1e-4


@pytest.mark.parametrize(
    "attrs,says",
    [
        (dict(heads=3), "do not divide"),
        (dict(heads=2, axis=-1), "axis wanted"),
        (dict(heads=4), "cos and sin wanted"),
    ],
)
def test_wrong_use_is_said(attrs, says):
    rng = np.random.default_rng(0)
    x, cos, sin = (_core.Tensor(a) for a in (normal(rng, 2, 5, 16), normal(rng, 5, 4), normal(rng, 5, 4)))
    with pytest.raises(ValueError, match=says):
        _core.ops["qk_norm_rotary"](x, cos, sin, **attrs)
    with pytest.raises(ValueError, match="go together"):
        _core.ops["qk_norm_rotary"](x, cos, heads=2)
    with pytest.raises(ValueError, match="scale wanted 8"):
        _core.ops["qk_norm_rotary"](x, cos, sin, x, heads=2)
    with pytest.raises(ValueError, match="width wanted"):
        _core.ops["rotary_table"](cos, width=7)
    with pytest.raises(TypeError, match="position wanted"):
        _core.ops["rotary_table"](_core.Tensor(np.zeros(3, np.uint8)), width=8)
