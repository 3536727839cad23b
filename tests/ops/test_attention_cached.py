"""attention_cached, cache_write: a ring with sinks == all frames, == a shifted array, == samples alone."""

import numpy as np
import pytest
from harness import check_op, run
from reference import attention as ref
from worldmodel import _core


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def stream(rng, B, T, N, C):
    return [normal(rng, B, T, N, C) for _ in range(3)]


def write(cache, frames, position, sinks):
    _core.ops["cache_write"](
        cache,
        _core.Tensor(np.ascontiguousarray(frames)),
        _core.Tensor(np.asarray(position, np.int32)),
        sinks=sinks,
    )


def cached(q, k_cache, v_cache, position, **attrs):
    tables = [_core.Tensor(t) for t in attrs.pop("tables", ())]
    return _core.ops["attention_cached"](
        _core.Tensor(np.ascontiguousarray(q)),
        k_cache,
        v_cache,
        _core.Tensor(np.asarray(position, np.int32)),
        *tables,
        **attrs,
    ).numpy()


def empty(B, frames, N, C):
    return _core.Tensor(np.full((B, frames, N, C), np.nan, np.float32))


@pytest.mark.parametrize("over", ["time", "all"])
@pytest.mark.parametrize("D,kv_heads", [(8, 2), (16, 2), (5, 1), (64, 2), (128, 1)])
@pytest.mark.parametrize("chunk", [1, 3])
def test_cached_equals_uncached_bit_for_bit(kernels, over, D, kv_heads, chunk):
    """A roll-out through the cache has the bits of one pass over all frames, while nothing is evicted."""
    rng, B, T, N, heads = np.random.default_rng(D), 2, 12, 5, 2
    q = normal(rng, B, T, N, heads * D)
    k, v = (normal(rng, B, T, N, kv_heads * D) for _ in range(2))
    cos, sin = (
        t.numpy().copy()
        for t in _core.ops["rotary_table"](_core.Tensor(np.arange(T, dtype=np.int32)), width=D // 2 * 2)
    )
    turn = dict(norm="none", axis=-3)
    Q = _core.ops["qk_norm_rotary"](*map(_core.Tensor, (q, cos, sin)), heads=heads, **turn)
    K = _core.ops["qk_norm_rotary"](*map(_core.Tensor, (k, cos, sin)), heads=kv_heads, **turn)
    if over == "time":
        whole = _core.ops["attention"](
            Q, K, _core.Tensor(v), heads=heads, kv_heads=kv_heads, mask="causal", axis=-3
        ).numpy()
    else:
        flat = [_core.Tensor(np.array(x).reshape(B, T * N, -1)) for x in (Q.numpy(), K.numpy(), v)]
        whole = _core.ops["attention"](
            *flat, heads=heads, kv_heads=kv_heads, mask="frame_causal", frame=N
        ).numpy()
        whole = whole.reshape(q.shape)
    caches = [empty(B, T, N, kv_heads * D) for _ in range(2)]
    for t in range(0, T, chunk):
        now = slice(t, t + chunk)
        for cache, x in zip(caches, (k, v), strict=True):
            write(cache, x[:, now], [t + chunk - 1] * B, 2)
        out = cached(
            q[:, now],
            *caches,
            [t + chunk - 1] * B,
            tables=(cos, sin),
            heads=heads,
            kv_heads=kv_heads,
            sinks=2,
            over=over,
        )
        assert np.array_equal(out, whole[:, now])


@pytest.mark.parametrize("sinks,ring", [(0, 4), (2, 3), (1, 1)])
@pytest.mark.parametrize("over", ["time", "all"])
def test_ring_equals_shift(kernels, sinks, ring, over):
    """Frames that take turns in a ring == an array whose frames are moved up at each step, bit for bit."""
    rng, B, T, N, heads, D = np.random.default_rng(ring), 2, 11, 3, 2, 8
    q, k, v = stream(rng, B, T, N, heads * D)
    tables = [
        t.numpy().copy()
        for t in _core.ops["rotary_table"](_core.Tensor(np.arange(sinks + ring, dtype=np.int32)), width=6)
    ]
    caches = [empty(B, sinks + ring, N, heads * D) for _ in range(2)]
    for t in range(T):
        for cache, x in zip(caches, (k, v), strict=True):
            write(cache, x[:, t : t + 1], [t] * B, sinks)
        out = cached(q[:, t : t + 1], *caches, [t] * B, tables=tables, heads=heads, sinks=sinks, over=over)
        held = ref.cached_order(t, sinks, ring)
        shifted = [_core.Tensor(np.ascontiguousarray(x[:, held])) for x in (k, v)]
        moved = cached(
            q[:, t : t + 1],
            *shifted,
            [len(held) - 1] * B,
            heads=heads,
            over=over,
            tables=[table[: len(held)].copy() for table in tables],
        )
        assert np.array_equal(out, moved)
        turned = ref.qk_norm_rotary(
            k[:, held].astype(np.float64),
            *(x[: len(held)] for x in tables),
            heads=heads,
            norm="none",
            axis=-3,
        )
        query = ref.qk_norm_rotary(
            q[:, t : t + 1].astype(np.float64),
            *(x[len(held) - 1 : len(held)] for x in tables),
            heads=heads,
            norm="none",
            axis=-3,
        )
        if over == "time":
            want = ref.attention(query, turned, v[:, held].astype(np.float64), heads=heads, axis=-3)
        else:
            want = ref.attention(
                *(x.reshape(B, -1, heads * D) for x in (query, turned, v[:, held].astype(np.float64))),
                heads=heads,
            ).reshape(query.shape)
        assert np.abs(out - want).max() < 1e-5


def test_ragged_samples_equal_separate_runs(kernels):
    rng, N, heads, D, sinks, ring = np.random.default_rng(0), 3, 2, 8, 1, 4
    position = np.array([0, 2, 9, -1], np.int32)
    q = normal(rng, 4, 1, N, heads * D)
    caches = [normal(rng, 4, sinks + ring, N, heads * D) for _ in range(2)]
    tables = [normal(rng, sinks + ring, 4) for _ in range(2)]
    out = check_op(
        "attention_cached",
        [q, *caches, position, *tables],
        lambda *a: reference_cached(*a, sinks, ring, heads),
        grads=(),
        batched=[0, 1, 2, 3],
        heads=heads,
        sinks=sinks,
    )[0]
    assert not out[3].any()


@pytest.mark.parametrize("heads,D", [(7, 16), (4, 32), (1, 128)])
def test_any_number_of_heads_over_a_short_ring(kernels, heads, D):
    rng, N, sinks, ring = np.random.default_rng(heads), 3, 1, 3
    position = np.array([0, 1, 9], np.int32)
    arrays = [normal(rng, 3, 1, N, heads * D), *(normal(rng, 3, sinks + ring, N, heads * D) for _ in range(2))]
    tables = [normal(rng, sinks + ring, D // 2) for _ in range(2)]
    check_op(
        "attention_cached",
        [*arrays, position, *tables],
        lambda *a: reference_cached(*a, sinks, ring, heads),
        grads=(),
        batched=[0, 1, 2, 3],
        heads=heads,
        sinks=sinks,
    )


def reference_cached(q, k, v, position, cos, sin, sinks, ring, heads):
    out = np.zeros_like(q)
    for b, p in enumerate(position):
        held = ref.cached_order(int(p), sinks, ring)
        slots = [ref.slot(f, sinks, ring) for f in held]
        if not slots:
            continue
        n = len(slots)
        K = ref.qk_norm_rotary(k[b, slots], cos[:n], sin[:n], heads=heads, norm="none", axis=-3)
        Q = ref.qk_norm_rotary(q[b], cos[n - 1 : n], sin[n - 1 : n], heads=heads, norm="none", axis=-3)
        out[b] = ref.attention(Q, K, v[b, slots], heads=heads, axis=-3)
    return out


def test_frames_before_the_first_are_not_written(kernels):
    rng = np.random.default_rng(0)
    cache, frames = normal(rng, 3, 5, 2, 4), normal(rng, 3, 3, 2, 4)
    got, want = _core.Tensor(cache.copy()), cache.copy()
    position = [-1, 1, 7]
    write(got, frames, position, 2)
    for b, p in enumerate(position):
        for f in range(3):
            if p - 2 + f >= 0:
                want[b, ref.slot(p - 2 + f, 2, 3)] = frames[b, f]
    assert np.array_equal(got.numpy(), want)


def test_a_replay_moves_on():
    """Positions come from a tensor: the same tape writes the next slot and reads one frame more."""
    rng, N, C = np.random.default_rng(0), 2, 4
    frames, position = _core.Tensor(normal(rng, 1, 1, N, C)), _core.Tensor(np.zeros(1, np.int32))
    cache = _core.Tensor(np.zeros((1, 3, N, C), np.float32))
    with _core.Tape() as tape:
        held = _core.ops["cache_write"](cache, frames, position)
        out = _core.ops["attention_cached"](frames, held, held, position, heads=1)
    x = [np.array(frames.numpy())]
    for t in range(1, 3):
        x.append(normal(rng, 1, 1, N, C))
        frames.numpy()[...] = x[-1]
        position.numpy()[...] = t
        tape.replay()
        seen = np.concatenate(x, 1).astype(np.float64)
        assert np.array_equal(cache.numpy()[:, : t + 1], seen)
        want = ref.attention(seen[:, -1:], seen, seen, heads=1, axis=-3)
        assert np.abs(out.numpy() - want).max() < 1e-5


def test_stale_slots_have_no_influence(kernels):
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, 1, n, 3, 8) for n in (1, 6, 6))
    position = np.array([2], np.int32)
    clean = run("attention_cached", [q, k, v, position], dict(heads=2), ())[0][0]
    k[:, 3:] = v[:, 3:] = np.nan
    assert np.array_equal(clean, run("attention_cached", [q, k, v, position], dict(heads=2), ())[0][0])


def test_pages_say_where_frames_lie(kernels):
    """Frames in any order of memory, shared by samples: the bits of each sample's own cache."""
    rng, B, N, C, sinks, ring = np.random.default_rng(0), 3, 2, 8, 1, 4
    q, own = normal(rng, B, 1, N, C), [normal(rng, B, sinks + ring, N, C) for _ in range(2)]
    for x in own:
        x[2] = x[0]
    pages = rng.permutation(B * (sinks + ring)).astype(np.int32).reshape(B, -1)
    position = _core.Tensor(np.array([8, 2, 8], np.int32))
    tables = [_core.Tensor(normal(rng, sinks + ring, 2)) for _ in range(2)]
    apart = [np.full_like(x, np.nan) for x in own]
    for x, y in zip(apart, own, strict=True):
        x.reshape(-1, N, C)[pages[:2]] = y[:2]
    pages[2] = pages[0]
    how = dict(heads=2, sinks=sinks)
    attend, put = _core.ops["attention_cached"], _core.ops["cache_write"]
    want = attend(_core.Tensor(q), *map(_core.Tensor, own), position, *tables, **how).numpy()
    shared = [_core.Tensor(x) for x in apart]
    got = attend(_core.Tensor(q), *shared, position, *tables, _core.Tensor(pages), **how).numpy()
    assert np.array_equal(got, want) and np.isfinite(got).all()
    frames = normal(rng, B, 1, N, C)
    free = np.setdiff1d(np.arange(B * (sinks + ring)), pages)[0]
    pages[2, ref.slot(8, sinks, ring)] = free
    for i, x in enumerate(own):
        held = _core.Tensor(x)
        put(held, _core.Tensor(frames), position, sinks=sinks)
        put(shared[i], _core.Tensor(frames), position, _core.Tensor(pages), sinks=sinks)
        assert np.array_equal(shared[i].numpy().reshape(-1, N, C)[pages], held.numpy())


def test_pages_outside_the_cache_are_refused():
    t = lambda *shape: _core.Tensor(np.zeros(shape, np.float32))  # noqa: E731
    at, attend, put = _core.Tensor(np.zeros(2, np.int32)), _core.ops["attention_cached"], _core.ops["cache_write"]
    for bad in (-1, 8):
        pages = _core.Tensor(np.array([[0, 1, 2, 3], [4, 5, bad, 7]], np.int32))
        with pytest.raises(IndexError, match="attention_cached"):
            attend(t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at, None, None, pages, heads=2)
        with pytest.raises(IndexError, match="cache_write"):
            put(t(2, 4, 3, 8), t(2, 1, 3, 8), at, pages)
    few = _core.Tensor(np.zeros((2, 3), np.int32))
    with pytest.raises(ValueError, match="pages wanted"):
        attend(t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at, None, None, few, heads=2)
    with pytest.raises(ValueError, match="pages wanted"):
        put(t(2, 4, 3, 8), t(2, 1, 3, 8), at, few)


def test_wrong_use_is_said():
    t = lambda *shape: _core.Tensor(np.zeros(shape, np.float32))  # noqa: E731
    at = _core.Tensor(np.zeros(2, np.int32))
    attend, put = _core.ops["attention_cached"], _core.ops["cache_write"]
    for args, attrs, says in [
        ((t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at), dict(heads=3), "heads"),
        ((t(2, 1, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at), dict(heads=2), "q wanted"),
        ((t(2, 1, 3, 8), t(2, 4, 2, 8), t(2, 4, 2, 8), at), dict(heads=2), "caches wanted"),
        ((t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 5, 3, 8), at), dict(heads=2), "caches wanted"),
        ((t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at), dict(heads=2, sinks=4), "sinks wanted"),
        (
            (t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), _core.Tensor(np.zeros(1, np.int32))),
            dict(heads=2),
            "position wanted",
        ),
        (
            (t(2, 1, 3, 8), t(2, 4, 3, 8), t(2, 4, 3, 8), at, t(3, 2), t(3, 2)),
            dict(heads=2),
            "cos and sin wanted",
        ),
    ]:
        with pytest.raises(ValueError, match=says):
            attend(*args, **attrs)
    for args, attrs, says in [
        ((t(2, 4, 3, 8), t(2, 1, 3, 7), at), {}, "frames wanted"),
        ((t(2, 4, 3, 8), t(2, 5, 3, 8), at), {}, "at most 4"),
        ((t(2, 4, 3, 8), t(2, 1, 3, 8), at), dict(sinks=4), "sinks wanted"),
        ((t(2, 4, 3, 8), t(2, 1, 3, 8), _core.Tensor(np.zeros(3, np.int32))), {}, "position wanted"),
    ]:
        with pytest.raises(ValueError, match=says):
            put(*args, **attrs)
