import numpy as np
import pytest
from harness import check_op
from reference import shape as ref
from worldmodel import _core

ops = _core.ops


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x, needs_grad=False):
    return _core.Tensor(np.asarray(x, order="C"), needs_grad=needs_grad)


def of_every_dtype(shape):
    whole = np.random.default_rng(5).integers(0, 256, shape)
    return [whole.astype(d) for d in (np.float32, np.uint8, np.int32)]


def bits(t):
    """A bfloat16 tensor as float32, anything else as it is."""
    return (ops["cast"](t, "float32") if t.dtype == "bfloat16" else t).numpy()


def check_moves(name, size, reference, **attrs):
    """An op that only moves numbers: float32 with gradients, the other dtypes exactly."""
    check_op(name, [numbers(size)], reference, tolerance=0, **attrs)
    for x in of_every_dtype(size):
        assert np.array_equal(ops[name](tensor(x), **attrs).numpy(), reference(x))
    x = tensor(of_every_dtype(size)[0])
    half = ops[name](ops["cast"](x, "bfloat16"), **attrs)
    assert half.dtype == "bfloat16" and np.array_equal(bits(half), reference(x.numpy()))


RESHAPES = [
    ((2, 6), (3, 4)),
    ((2, 6), (-1,)),
    ((12,), (2, -1, 3)),
    ((1,), ()),
    ((), (1, 1)),
    ((5, 7), (7, 5)),
]


@pytest.mark.parametrize("shape,to", RESHAPES, ids=str)
def test_reshape(kernels, shape, to):
    check_moves("reshape", shape, lambda x: x.reshape(to), shape=to)


def test_views_share_memory_and_gradient(kernels):
    x = tensor(numbers((4, 6)), True)
    with _core.Tape() as tape:
        row = ops["slice"](ops["reshape"](x, (8, 3)), 0, 2, 5)
        out = ops["square"](ops["permute"](ops["reshape"](row, (3, 1, 3)), (1, 0, 2)))
    assert x.device == "cuda" or np.shares_memory(row.numpy(), x.numpy())
    tape.backward(out, tensor(np.ones((1, 3, 3), np.float32)))
    want = np.zeros((8, 3), np.float32)
    want[2:5] = 2 * x.numpy().reshape(8, 3)[2:5]
    assert np.array_equal(x.grad, want.reshape(4, 6))


SLICES = [
    ((7,), 0, 2, 5, 1), ((7,), 0, 0, 7, 3), ((7,), 0, -3, 7, 1), ((7,), -1, 1, -1, 2),
    ((5, 6, 7), 1, 1, 4, 1), ((5, 6, 7), 1, 0, 6, 2), ((5, 6, 7), 2, 3, 4, 1), ((5, 6, 7), 2, 0, 7, 2),
    ((1, 6, 7), 1, 2, 4, 1), ((3, 40, 5), 1, 5, 39, 4), ((2, 3), 1, 2, 99, 1), ((33, 70), 1, 1, 70, 1),
]  # fmt: skip


@pytest.mark.parametrize("shape,axis,start,stop,step", SLICES, ids=str)
def test_slice(kernels, shape, axis, start, stop, step):
    where = [slice(None)] * len(shape)
    where[axis] = slice(start, stop, step)
    check_moves("slice", shape, lambda x: x[tuple(where)], axis=axis, start=start, stop=stop, step=step)


PERMUTATIONS = [
    ((5,), (0,)), ((3, 5), (1, 0)), ((33, 67), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((2, 3, 4), (0, 2, 1)),
    ((2, 3, 4), (1, 0, 2)), ((2, 1, 4), (1, 0, 2)), ((2, 35, 3, 33), (0, 2, 1, 3)),
    ((2, 35, 33, 3), (3, 0, 2, 1)), ((2, 3, 2, 3, 2, 3), (5, 3, 1, 0, 2, 4)), ((4, 40, 50), (2, 1, 0)),
    ((64, 2, 64), (2, 1, 0)), ((2, 3), (-1, -2)),
]  # fmt: skip


@pytest.mark.parametrize("shape,axes", PERMUTATIONS, ids=str)
def test_permute(kernels, shape, axes):
    check_moves("permute", shape, lambda x: x.transpose(axes), axes=axes)


def test_large_permutations_are_shared_between_threads(kernels):
    check_op(
        "permute",
        [numbers((3, 130, 150))],
        lambda x: x.transpose(0, 2, 1),
        axes=(0, 2, 1),
        batched=[0],
        tolerance=0,
    )
    check_op("permute", [numbers((40, 9, 130))], lambda x: x.transpose(1, 0, 2), axes=(1, 0, 2), tolerance=0)


@pytest.mark.parametrize(
    "shape,axes",
    [((5,), (0,)), ((3, 17), (1,)), ((3, 17), (0,)), ((3, 4, 5), (0, 2)), ((3, 4, 5), ())],
    ids=str,
)
def test_flip(kernels, shape, axes):
    check_moves("flip", shape, lambda x: np.flip(x, axes or None), axes=axes)


EXPANSIONS = [
    ((3,), (4, 3)), ((), (2, 3)), ((3, 1), (3, 17)), ((1, 3, 1), (5, 3, 2)), ((2, 1, 3, 1), (2, 4, 3, 5)),
    ((1, 1), (300, 200)), ((3, 2), (3, 2)), ((4, 1, 2), (-1, 3, -1)),
]  # fmt: skip


@pytest.mark.parametrize("shape,to", EXPANSIONS, ids=str)
def test_expand(kernels, shape, to):
    full = tuple(s if t == -1 else t for s, t in zip((1,) * (len(to) - len(shape)) + shape, to, strict=True))
    check_moves("expand", shape, lambda x: np.broadcast_to(x, full), shape=to)


@pytest.mark.parametrize(
    "shape,axis", [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((2, 3, 33), 1), ((2, 3, 33), -3)], ids=str
)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_repeat_and_tile(kernels, shape, axis, times):
    check_moves("repeat", shape, lambda x: np.repeat(x, times, axis), times=times, axis=axis)
    check_moves("tile", shape, lambda x: np.concatenate([x] * times, axis), times=times, axis=axis)


@pytest.mark.parametrize(
    "shape,axis", [((5,), 0), ((3, 4), 0), ((3, 4), 1), ((2, 3, 33), 1), ((90, 80, 7), 1)], ids=str
)
def test_pad_and_roll(kernels, shape, axis):
    check_moves("pad", shape, lambda x: ref.pad(x, axis, 2, 3, 7), axis=axis, before=2, after=3, value=7)
    check_moves("pad", shape, lambda x: ref.pad(x, axis, 0, 1, 0), axis=axis, after=1)
    for shift in (0, 1, -1, 7, -13):
        check_moves("roll", shape, lambda x, s=shift: np.roll(x, s, axis), shift=shift, axis=axis)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat_and_stack(kernels, axis):
    shapes = [[4, 5, 6], [4, 5, 6], [4, 5, 6]]
    for i, s in enumerate(shapes):
        s[axis] = 2 * i + 1
    check_op(
        "concat",
        [numbers(s, i) for i, s in enumerate(shapes)],
        lambda *xs: np.concatenate(xs, axis),
        axis=axis,
        tolerance=0,
    )
    check_op(
        "stack",
        [numbers((4, 33), i) for i in range(12)],
        lambda *xs: np.stack(xs, axis),
        axis=axis,
        tolerance=0,
    )
    for xs in zip(of_every_dtype((2, 3, 4)), of_every_dtype((2, 3, 4)), strict=True):
        assert np.array_equal(ops["concat"](*map(tensor, xs), axis=axis).numpy(), np.concatenate(xs, axis))
    check_op(
        "concat",
        [numbers((70, 300)), numbers((70, 300))],
        lambda *xs: np.concatenate(xs, 1),
        axis=1,
        tolerance=0,
    )


INDICES = [
    ((7,), (4,), 0), ((7, 3), (4,), 0), ((7, 33), (2, 3), 0), ((5, 7), (9,), 1), ((2, 5, 3), (4, 2), 1),
    ((5, 3), (), 0), ((2, 3, 4), (6,), -1), ((50, 40), (3000,), 0),
]  # fmt: skip


@pytest.mark.parametrize("shape,n,axis", INDICES, ids=str)
def test_gather(kernels, shape, n, axis):
    index = np.random.default_rng(1).integers(0, shape[axis], n).astype(np.int32)
    check_op(
        "gather", [numbers(shape), index], lambda x, i: np.take(x, i, axis), grads=[0], axis=axis, tolerance=0
    )
    for x in of_every_dtype(shape):
        assert np.array_equal(
            ops["gather"](tensor(x), tensor(index), axis=axis).numpy(), np.take(x, index, axis)
        )
    if len(n) == 1:
        got = ops["index_select"](tensor(numbers(shape)), tensor(index), axis=axis).numpy()
        assert np.array_equal(got, np.take(numbers(shape), index, axis))
        src = numbers(np.take(numbers(shape), index, axis).shape, 3)
        check_op(
            "scatter_add",
            [numbers(shape), index, src],
            lambda x, i, s: ref.scatter_add(x, i, s, axis),
            grads=[0, 2],
            axis=axis,
        )


@pytest.mark.parametrize(
    "shape,m,axis",
    [((7,), 3, 0), ((5, 7), 1, 1), ((5, 7), 4, 0), ((2, 5, 33), 9, 1), ((200, 300), 40, 1)],
    ids=str,
)
def test_take_along(kernels, shape, m, axis):
    into = list(shape)
    into[axis] = m
    index = np.random.default_rng(1).integers(0, shape[axis], into).astype(np.int32)
    check_op(
        "take_along",
        [numbers(shape), index],
        lambda x, i: ref.take_along(x, i, axis),
        grads=[0],
        axis=axis,
        tolerance=0,
    )
    for x in of_every_dtype(shape):
        assert np.array_equal(
            ops["take_along"](tensor(x), tensor(index), axis=axis).numpy(), ref.take_along(x, index, axis)
        )


def test_wrong_calls_say_what_was_wanted():
    x, i = tensor(numbers((2, 3))), tensor(np.array([0, 2], np.int32))
    for call, kind, words in (
        (lambda: ops["reshape"](x, (4, 2)), ValueError, r"reshape: \(2, 3\) has 6 numbers, shape takes 8"),
        (lambda: ops["reshape"](x, (4, -1)), ValueError, "shape needs a multiple of 4"),
        (lambda: ops["reshape"](x, (-1, -1)), ValueError, "reshape: shape of axis 1 is -1"),
        (lambda: ops["reshape"](x, (0, -1)), ValueError, "reshape: shape of axis 0 is 0"),
        (lambda: ops["slice"](x, 1, 2, 2), ValueError, "slice: 2:2 leaves nothing of axis 1 with length 3"),
        (lambda: ops["slice"](x, 1, 0, 3, -1), ValueError, "slice: step wanted 1 or more, got -1"),
        (lambda: ops["permute"](x, (0,)), ValueError, "permute: axes wanted 2 numbers, got 1"),
        (lambda: ops["permute"](x, (0, 0)), ValueError, "permute: axis 0 is named twice"),
        (lambda: ops["expand"](x, (2, 4)), ValueError, r"expand: x of shape \(2, 3\) does not repeat"),
        (lambda: ops["expand"](x, (3,)), ValueError, "expand: x of shape"),
        (lambda: ops["tile"](x, 0), ValueError, "tile: times wanted 1 or more, got 0"),
        (lambda: ops["repeat"](x, 2**62), ValueError, "repeat"),
        (lambda: ops["pad"](x, 0, -1), ValueError, "pad: before and after wanted 0 or more"),
        (
            lambda: ops["concat"](x, tensor(numbers((3, 3))), axis=1),
            ValueError,
            r"concat: input 1 of shape \(3, 3\) does not fit",
        ),
        (lambda: ops["concat"](x, i), TypeError, "concat: input 1 wanted float32 like input 0, got int32"),
        (lambda: ops["stack"](x, x, axis=3), ValueError, "stack: there is no axis 3 in a result of 3 axes"),
        (lambda: ops["stack"](x, tensor(numbers((2, 2)))), ValueError, "stack: input 1 of shape"),
        (lambda: ops["gather"](x, i), IndexError, r"gather: number 1 of the indices is 2, outside 0..1"),
        (
            lambda: ops["index_select"](x, tensor(np.zeros((1, 1), np.int32))),
            ValueError,
            "index_select: index wanted one axis",
        ),
        (lambda: ops["take_along"](x, i), ValueError, "take_along: index wanted the shape of x"),
        (lambda: ops["scatter_add"](x, i, x), IndexError, "scatter_add: number 1"),
        (lambda: ops["scatter_add"](x, i, tensor(numbers((3, 3)))), ValueError, "scatter_add: src wanted"),
    ):
        with pytest.raises(kind, match=words):
            call()


def test_replay_checks_indices_again():
    index = np.array([0, 1], np.int32)
    t = _core.Tensor(index)
    with _core.Tape() as tape:
        ops["gather"](tensor(numbers((2, 3))), t)
    index[1] = 9
    with pytest.raises(IndexError, match="number 1 of the indices is 9"):
        tape.replay()
