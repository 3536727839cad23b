import numpy as np
import pytest
from harness import check_op
from reference import loss as ref
from reference.reduce import softmax
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


def weight_of(shape):
    return (
        None if shape is None else np.random.default_rng(9).random(shape).astype(np.float32) + np.float32(0.5)
    )


# shape of logits, shape of weight (None: no weight), reduction, axes kept
CELLS = [
    ((2,), None, "sum", 0), ((4, 3), (4,), "mean", 0), ((4, 17), None, "mean", 1),
    ((2, 3, 33), (2,), "mean", 1),
    ((2, 3, 255), (2, 3), "sum", 2), ((2, 9, 100), (2, 1), "mean", 0),
]  # fmt: skip


@pytest.mark.parametrize("shape,w,reduction,keep", CELLS, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(kernels, shape, w, reduction, keep, smoothing):
    rng = np.random.default_rng(3)
    index = rng.integers(0, shape[-1], shape[:-1]).astype(np.int32)
    soft = softmax(rng.standard_normal(shape) * 3).astype(np.float32)
    for target in (index, soft):
        check_op(
            "cross_entropy",
            [numbers(shape) * 3, target, weight_of(w)],
            lambda x, t, w: ref.reduce(ref.cross_entropy(x, t, smoothing), w, reduction, keep),
            grads=[0],
            reduction=reduction,
            keep=keep,
            smoothing=smoothing,
        )


def test_cross_entropy_with_hidden_choices_and_large_logits(kernels):
    x = numbers((4, 20)) * 3
    x[:, 5:9] = -np.inf
    x[1] += 1000
    index = np.array([0, 12, 19, 4], np.int32)
    hot = np.eye(20, dtype=np.float32)[index]
    want = ref.cross_entropy(x.astype(np.float64), index)
    for target in (index, hot):
        t = tensor(x, True)
        with _core.Tape() as tape:
            out = ops["cross_entropy"](t, tensor(target), keep=1)
        tape.backward(out, tensor(np.ones(4, np.float32)))
        assert np.abs(out.numpy() - want).max() < 2e-5
        assert np.isfinite(t.grad).all() and (t.grad[:, 5:9] == 0).all()
        assert np.abs(t.grad - (softmax(x.astype(np.float64)) - hot)).max() < 1e-5


def dreamer_bins(count=255, high=20.0):
    half = (
        np.linspace(0, high, count // 2 + 1)[1:]
        if count % 2
        else np.linspace(-high, high, count)[count // 2 :]
    )
    half = np.expm1(half)
    return np.concatenate([-half[::-1], [0.0] * (count % 2), half])


@pytest.mark.parametrize("count,high", [(255, 20), (41, 5), (40, 5), (2, 1), (3, 1)])
def test_bins_are_symexp_spaced_and_mirrored(kernels, count, high):
    bins = ops["two_hot_bins"](count, high).numpy()
    assert np.array_equal(bins, -bins[::-1]) and (np.diff(bins) > 0).all()
    assert np.allclose(bins, dreamer_bins(count, high), rtol=1e-6)
    assert np.allclose(
        ops["two_hot_bins"](count, high, symexp=False).numpy(), np.linspace(-high, high, count), rtol=1e-6
    )


def test_two_hot_encodes_exactly_and_saturates(kernels):
    bins = ops["two_hot_bins"]().numpy()
    x = np.concatenate(
        [numbers(50) * s for s in (0.01, 1, 100, 1e4)] + [bins, [0, 1e30, -1e30, np.inf, -np.inf]]
    )
    x = x.astype(np.float32)
    rows = ops["two_hot"](tensor(x), tensor(bins)).numpy()
    assert (rows >= 0).all() and ((rows > 0).sum(-1) <= 2).all() and np.abs(rows.sum(-1) - 1).max() < 2e-7
    inside = np.clip(x.astype(np.float64), bins[0], bins[-1])
    assert np.abs(rows - ref.two_hot(inside, bins.astype(np.float64))).max() < 2e-7
    decoded = (rows.astype(np.float64) * bins).sum(-1)
    assert np.abs(decoded - inside).max() <= 1e-6 * max(np.abs(inside).max(), 1)
    assert np.array_equal(rows[-2], np.eye(len(bins))[-1]) and np.array_equal(rows[-1], np.eye(len(bins))[0])
    assert np.array_equal(rows[200 : 200 + len(bins)], np.eye(len(bins)))


@pytest.mark.parametrize("shape,w,reduction,keep", CELLS, ids=str)
def test_two_hot_loss(kernels, shape, w, reduction, keep):
    bins = np.sort(numbers(shape[-1], 7) * 3)
    value = numbers(shape[:-1], 5) * 3
    attrs = {"reduction": reduction, "keep": keep}

    def reference(x, v, b, w):
        return ref.reduce(ref.cross_entropy(x, ref.two_hot(np.clip(v, b[0], b[-1]), b)), w, reduction, keep)

    check_op("two_hot_loss", [numbers(shape) * 2, value, bins, weight_of(w)], reference, grads=[0], **attrs)


@pytest.mark.parametrize("shape", [(2,), (3, 5), (2, 3, 17), (4, 255)], ids=str)
def test_two_hot_mean(kernels, shape):
    bins = np.sort(numbers(shape[-1], 7) * 3)
    check_op(
        "two_hot_mean",
        [numbers(shape), bins],
        ref.two_hot_mean,
        grads=[0],
        batched=[0] if len(shape) > 1 else [],
        grad_tolerance=5e-5,
    )


@pytest.mark.parametrize("count", [255, 254, 7])
def test_equal_logits_mean_exactly_zero(kernels, count):
    bins = ops["two_hot_bins"](count)
    for logit in (0.0, 3.7, -20.0):
        out = ops["two_hot_mean"](tensor(np.full((2, count), logit, np.float32)), bins).numpy()
        assert (out == 0).all()


def test_two_hot_learns_the_mean_of_its_targets(kernels):
    """Gradient descent on two_hot_loss with two targets ends where two_hot_mean says their average."""
    bins = ops["two_hot_bins"](41, 4.0)
    value = tensor(np.array([3.0, -1.0], np.float32))
    logits = tensor(np.zeros(41, np.float32), True)
    for _ in range(400):
        with _core.Tape() as tape:
            out = ops["two_hot_loss"](ops["expand"](logits, (2, 41)), value, bins)
        tape.backward(out)
        logits.copy_(logits.numpy() - 2 * logits.grad)
        logits.zero_grad()
    assert abs(float(ops["two_hot_mean"](logits, bins).numpy()) - 1.0) < 0.05


KL = [
    ((5,), None, 1, 0),
    ((3, 4), (3,), 1, 1),
    ((2, 3, 17), None, 2, 0),
    ((2, 3, 8, 33), (2, 3), 2, 1),
    ((2, 40), None, 2, 0),
]


@pytest.mark.parametrize("shape,w,axes,keep", KL, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_kl_categorical(kernels, shape, w, axes, keep, reduction):
    check_op(
        "kl_categorical",
        [numbers(shape), numbers(shape, 1), weight_of(w)],
        lambda p, q, w: ref.reduce(ref.kl_categorical(p, q, axes), w, reduction, keep),
        grads=[0, 1],
        grad_tolerance=5e-5,
        axes=axes,
        keep=keep,
        reduction=reduction,
    )


def test_free_nats_hold_the_loss_and_stop_the_gradient(kernels):
    p, q = tensor(numbers((6, 8, 5)), True), tensor(numbers((6, 8, 5), 1), True)
    raw = ref.kl_categorical(p.numpy().astype(np.float64), q.numpy().astype(np.float64), 2)
    free = float(np.median(raw))
    with _core.Tape() as tape:
        out = ops["kl_categorical"](p, q, keep=1, axes=2, free=free)
    tape.backward(out, tensor(np.ones(6, np.float32)))
    assert np.allclose(out.numpy(), np.maximum(raw, free), rtol=1e-5)
    for grad in (p.grad, q.grad):
        assert np.array_equal((grad != 0).any((1, 2)), raw > free)


def test_kl_is_finite_at_saturated_logits_with_unimix(kernels):
    p = tensor(np.array([[1000, -1000, 0, 5]], np.float32), True)
    q = tensor(np.array([[-1000, 1000, 0, 5]], np.float32), True)
    with _core.Tape() as tape:
        out = ops["kl_categorical"](ops["unimix"](p), ops["unimix"](q))
    tape.backward(out)
    assert 0 < float(out.numpy()) < 10 and np.isfinite(p.grad).all() and np.isfinite(q.grad).all()


@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 3, 17), (2, 64)], ids=str)
@pytest.mark.parametrize("mix", [0.0, 0.01, 0.5])
def test_unimix(kernels, shape, mix):
    check_op(
        "unimix",
        [
            numbers(shape) * 2,
        ],
        lambda x: ref.unimix(x, mix),
        mix=mix,
        grad_tolerance=1e-4,
    )
    low = softmax(ops["unimix"](tensor(numbers(shape) * 50), mix).numpy().astype(np.float64))
    assert low.min() >= mix / shape[-1] * (1 - 1e-5)


def test_wrong_calls_say_what_was_wanted():
    x, i = tensor(numbers((2, 3))), tensor(np.array([0, 3], np.int32))
    bins = tensor(np.array([0, 1, 2], np.float32))
    two = tensor(numbers(2))
    for call, kind, words in (
        (
            lambda: ops["cross_entropy"](x, i),
            IndexError,
            "cross_entropy: number 1 of the indices is 3, outside 0..2",
        ),
        (
            lambda: ops["cross_entropy"](x, tensor(np.zeros(3, np.int32))),
            ValueError,
            "target wanted the shape of logits",
        ),
        (
            lambda: ops["cross_entropy"](x, two),
            ValueError,
            r"target wanted the shape of logits, \(2, 3\), got \(2,\)",
        ),
        (
            lambda: ops["cross_entropy"](x, tensor(np.zeros(2, np.uint8))),
            TypeError,
            "target wanted int32 indices or float32",
        ),
        (
            lambda: ops["cross_entropy"](x, x, smoothing=1),
            ValueError,
            "smoothing wanted 0 <= smoothing < 1, got 1",
        ),
        (
            lambda: ops["two_hot"](two, tensor(numbers((1, 3)))),
            ValueError,
            "two_hot: bins wanted one axis of 2 or more",
        ),
        (
            lambda: ops["two_hot"](two, tensor(np.array([1, 1], np.float32))),
            ValueError,
            "rising numbers, number 1 is 1 after 1",
        ),
        (lambda: ops["two_hot_loss"](x, two, two), ValueError, "two_hot_loss: bins wanted one axis of 3"),
        (
            lambda: ops["two_hot_loss"](x, x, bins),
            ValueError,
            "two_hot_loss: value wanted the shape of logits",
        ),
        (lambda: ops["two_hot_mean"](x, two), ValueError, "two_hot_mean: bins wanted one axis of 3"),
        (lambda: ops["two_hot_bins"](1), ValueError, "two_hot_bins: count wanted 2 or more, got 1"),
        (
            lambda: ops["two_hot_bins"](5, 100),
            ValueError,
            "two_hot_bins: high wanted a positive number up to 88",
        ),
        (lambda: ops["kl_categorical"](x, two), ValueError, "kl_categorical: q wanted the shape of p"),
        (
            lambda: ops["kl_categorical"](x, x, axes=3),
            ValueError,
            "kl_categorical: axes wanted 1 to 2, got 3",
        ),
        (lambda: ops["kl_categorical"](x, x, free=-1), ValueError, "free wanted 0 or more nats"),
        (lambda: ops["unimix"](x, 2), ValueError, "unimix: mix wanted 0 to 1, got 2"),
    ):
        with pytest.raises(kind, match=words):
            call()
