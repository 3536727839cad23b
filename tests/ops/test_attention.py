"""attention: masks, head widths, layouts and groups against float64; hidden keys have no influence."""

import numpy as np
import pytest
from harness import check_op, run
from reference import attention as ref
from worldmodel import _core

MASKS = [
    dict(),
    dict(mask="causal"),
    dict(mask="window", window=3),
    dict(mask="frame_causal", frame=4),
    dict(mask="frame_causal", frame=3, window=2),
]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def qkv_of(rng, B, Nq, Nk, heads, D, kv_heads=0):
    return [normal(rng, B, Nq, heads * D), *(normal(rng, B, Nk, (kv_heads or heads) * D) for _ in range(2))]


def prove(arrays, **attrs):
    check_op(
        "attention",
        arrays,
        lambda *a: ref.attention(*a, **attrs),
        batched=[i for i, a in enumerate(arrays) if a is not None],
        grads=[2]
        if arrays[1].shape[attrs.get("axis", -2)] == 1
        else None,  # one key: its weight is 1 whatever q and k say
        tolerance=4e-6,
        grad_tolerance=4e-5,
        **attrs,
    )


@pytest.mark.parametrize("mask", MASKS, ids=lambda m: "-".join(map(str, m.values())) or "full")
@pytest.mark.parametrize(
    "sizes", [(1, 1), (1, 9), (7, 7), (16, 16), (17, 33), (65, 65), (3, 70), (70, 5)], ids=str
)
def test_masks(kernels, mask, sizes):
    rng = np.random.default_rng(sum(sizes))
    prove(qkv_of(rng, 2, *sizes, 2, 8), heads=2, **mask)


@pytest.mark.parametrize("D", [1, 2, 3, 15, 16, 17, 31, 33, 48, 64, 65, 128, 130, 257])
def test_head_widths(kernels, D):
    prove(qkv_of(np.random.default_rng(D), 2, 19, 21, 1, D), heads=1, mask="causal")


@pytest.mark.parametrize("heads,kv_heads", [(4, 2), (3, 1), (6, 6)])
def test_grouped_queries(kernels, heads, kv_heads):
    prove(
        qkv_of(np.random.default_rng(0), 2, 9, 12, heads, 5, kv_heads),
        heads=heads,
        kv_heads=kv_heads,
        mask="causal",
    )


@pytest.mark.parametrize("mask", MASKS[:2])
@pytest.mark.parametrize("T", [1, 2, 5, 16, 20])
def test_time_is_attended_to_where_it_lies(kernels, T, mask):
    rng = np.random.default_rng(T)
    q, k, v = (normal(rng, 2, T, 3, 2 * 8) for _ in range(3))
    prove([q, k, v], heads=2, axis=-3, **mask)


def test_scale_and_lengths(kernels):
    rng = np.random.default_rng(3)
    lengths = np.array([0, 1, 70, 33], np.int32)
    prove([*qkv_of(rng, 4, 20, 70, 2, 4), lengths], heads=2, scale=0.7)


def test_one_length_for_the_frames_of_a_sample(kernels):
    rng = np.random.default_rng(3)
    q, k, v = (normal(rng, 2, 3, 10, 8) for _ in range(3))
    prove([q, k, v, np.array([4, 10], np.int32)], heads=2)


@pytest.mark.parametrize("mask", MASKS[1:], ids=str)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("N", [10, 40, 130])
def test_hidden_keys_have_no_influence(kernels, mask, poison, N):
    """Whatever stands in the later half of the keys, the rows that cannot see it keep their bits."""
    rng = np.random.default_rng(N)
    q, k, v = qkv_of(rng, 1, N, N, 2, 8)
    before = run("attention", [q, k, v], dict(heads=2, **mask), ())[0][0]
    cut = N // 2
    blind = ~ref.sees(N, N, **mask)[:, cut:].any(1)
    k[:, cut:], v[:, cut:] = poison, poison
    after = run("attention", [q, k, v], dict(heads=2, **mask), ())[0][0]
    assert blind.any() and np.array_equal(before[:, blind], after[:, blind])


@pytest.mark.parametrize("N", [5, 40])
def test_padding_has_no_influence_on_results_or_gradients(kernels, N):
    rng = np.random.default_rng(N)
    q, k, v = qkv_of(rng, 2, N, N, 2, 8)
    lengths, seed = np.array([3, N - 1], np.int32), normal(rng, 2, N, 16)
    clean = run("attention", [q, k, v, lengths], dict(heads=2), (0, 1, 2), [seed])
    for b in range(2):
        k[b, lengths[b] :] = v[b, lengths[b] :] = np.nan
    dirty = run("attention", [q, k, v, lengths], dict(heads=2), (0, 1, 2), [seed])
    for a, b in zip(clean[0] + clean[1], dirty[0] + dirty[1], strict=True):
        assert np.isfinite(b).all() and np.array_equal(a, b)


@pytest.mark.parametrize("sharp", [1, 30])
def test_a_row_has_the_same_bits_alone_and_among_many(kernels, sharp):
    """Few queries take another road than many; the bits must not show it, however the running maximum climbs.
    """
    rng = np.random.default_rng(0)
    for D in (8, 17, 64):
        q, k, v = qkv_of(rng, 1, 150, 150, 1, D)
        q *= sharp
        many = run("attention", [q, k, v], dict(heads=1, mask="causal"), ())[0][0]
        for n in (1, 2, 7, 9, 40):
            few = run("attention", [q[:, -n:], k, v], dict(heads=1, mask="causal"), ())[0][0]
            assert np.array_equal(few, many[:, -n:])


def test_large_scores_do_not_overflow(kernels):
    rng = np.random.default_rng(0)
    q, k, v = qkv_of(rng, 1, 70, 150, 1, 8)
    k[:, 120] *= 20
    check_op(
        "attention", [q * 30, k, v], lambda *a: ref.attention(*a, heads=1), grads=(), tolerance=2e-4, heads=1
    )


@pytest.mark.parametrize("given", ["none", "q", "qk"])
@pytest.mark.parametrize("heads,kv_heads,axis", [(2, 2, -2), (4, 2, -2), (2, 1, -3)])
def test_fused_rows(kernels, given, heads, kv_heads, axis):
    rng, D = np.random.default_rng(1), 6
    qkv = normal(rng, 2, 5, 9, (heads + 2 * kv_heads) * D)
    q = normal(rng, 2, 5, 9, heads * D) if "q" in given else None
    k = normal(rng, 2, 5, 9, kv_heads * D) if "k" in given else None

    def reference(qkv, q, k):
        own = ref.split(qkv, heads, kv_heads)
        return ref.attention(
            own[0] if q is None else q,
            own[1] if k is None else k,
            own[2],
            heads=heads,
            kv_heads=kv_heads,
            mask="causal",
            axis=axis,
        )

    check_op(
        "attention_qkv",
        [qkv, q, k],
        reference,
        tolerance=4e-6,
        grad_tolerance=4e-5,
        heads=heads,
        kv_heads=kv_heads,
        mask="causal",
        axis=axis,
        batched=[i for i, a in enumerate((qkv, q, k)) if a is not None],
    )


def test_the_same_tensor_three_times(kernels):
    x = normal(np.random.default_rng(0), 2, 10, 8)
    t = _core.Tensor(x.copy(), needs_grad=True)
    with _core.Tape() as tape:
        out = _core.ops["attention"](t, t, t, heads=2)
    tape.backward(out, _core.Tensor(np.ones_like(x)))
    _, (a, b, c) = run("attention", [x, x, x], dict(heads=2), (0, 1, 2), [np.ones_like(x)])
    assert np.allclose(t.grad, a + b + c, atol=1e-6)


@pytest.mark.parametrize(
    "change,says",
    [
        (dict(heads=3), "do not divide"),
        (dict(heads=0), "heads wanted at least 1"),
        (dict(kv_heads=3), "divisor"),
        (dict(mask="window"), "window wanted"),
        (dict(mask="frame_causal"), "frame wanted"),
        (dict(scale=-1.0), "scale"),
        (dict(axis=-1), "axis wanted"),
        (dict(axis=7), "axis wanted"),
        (dict(heads=2, kv_heads=1), "k wanted"),
    ],
)
def test_wrong_use_is_said(change, says):
    q, k, v = qkv_of(np.random.default_rng(0), 2, 4, 4, 2, 4)
    with pytest.raises(ValueError, match=says):
        _core.ops["attention"](*map(_core.Tensor, (q, k, v)), **{"heads": 2, **change})


def test_wrong_shapes_and_lengths_are_said():
    q, k, v = (_core.Tensor(a) for a in qkv_of(np.random.default_rng(0), 2, 4, 4, 2, 4))
    other = _core.Tensor(np.zeros((3, 4, 8), np.float32))
    with pytest.raises(ValueError, match="k wanted the shape of q"):
        _core.ops["attention"](q, other, other, heads=2)
    with pytest.raises(ValueError, match="v wanted the shape of k"):
        _core.ops["attention"](q, k, other, heads=2)
    with pytest.raises(ValueError, match="lengths wanted one a sample"):
        _core.ops["attention"](q, k, v, _core.Tensor(np.zeros(3, np.int32)), heads=2)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match="lengths wanted 0 to 4"):
            _core.ops["attention"](q, k, v, _core.Tensor(np.array([1, bad], np.int32)), heads=2)
    wide = _core.Tensor(np.zeros((1, 2, 513), np.float32))
    with pytest.raises(ValueError, match="at most 512 wide"):
        _core.ops["attention"](wide, wide, wide, heads=1)
