"""Random ops: Philox against published vectors, draws against NumPy, one stream a sample."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference import random as ref
from worldmodel import _core


def streams(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**31), 2**31, (n, 4)).astype(np.int32)


# Random123's kat_vectors, "philox4x32 10"
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_reference_knows_the_published_vectors(counter, key, words):
    assert ref.philox(np.array(counter), np.array(key)).tolist() == words


def test_the_kernels_know_a_published_vector(kernels):
    zeros = tensor(np.zeros((1, 4), np.int32))
    got = _core.ops["integers"](zeros, low=-(2**31), high=2**31, shape=(1, 4)).numpy()
    assert (got[0].astype(np.int64) + 2**31).tolist() == KNOWN[0][2]


@pytest.mark.parametrize("n", [1, 5, 64, 1023, 1025, 2500])
@pytest.mark.parametrize("S", [1, 3])
def test_plain_draws_match_numpy(kernels, n, S):
    s = streams(S, n)
    shape = (S, n)
    check_op("uniform", [s], lambda s: -2 + 5 * ref.uniform(s, 7, n), shape=shape, salt=7, low=-2, high=3)
    check_op("normal", [s], lambda s: 0.5 + 3 * ref.normal(s, 2**31, n),
             shape=shape, salt=2**31, mean=0.5, std=3)
    eleven, half = np.uint64(11), np.uint64(32)
    check_op("integers", [s], lambda s: -5 + (ref.bits(s, 1, n) * eleven >> half).astype(np.int64),
             shape=shape, salt=1, low=-5, high=6)


def test_a_sample_draws_the_same_alone_and_with_others(kernels):
    s = streams(4)
    whole = _core.ops["normal"](tensor(s), shape=(8, 333)).numpy()
    for i in range(4):
        alone = _core.ops["normal"](tensor(s[i : i + 1]), shape=(2, 333)).numpy()
        assert np.array_equal(alone, whole[2 * i : 2 * i + 2])


def test_salt_stream_and_step_all_matter():
    base = np.array([[1, 2, 3, 4]], np.int32)
    seen = [ref.normal(base, 0, 4), ref.normal(base, 1, 4)]
    seen += [ref.normal(base + np.eye(4, dtype=np.int32)[i], 0, 4) for i in range(4)]
    assert len({tuple(x[0]) for x in seen}) == 6


def test_normals_are_normal(kernels):
    x = _core.ops["normal"](tensor(streams(1)), shape=(1, 1 << 20)).numpy().astype(np.float64).ravel()
    assert abs(x.mean()) < 5e-3 and abs(x.var() - 1) < 8e-3
    assert abs((x**3).mean()) < 2e-2 and abs((x**4).mean() - 3) < 5e-2
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 5e-3
    for z, tail in [(1, 0.31731), (2, 0.04550), (3, 0.0026998)]:
        assert abs((np.abs(x) > z).mean() / tail - 1) < 0.08


def test_bernoulli_and_dropout(kernels):
    rng = np.random.default_rng(3)
    s, x = streams(3), rng.standard_normal((3, 5, 77)).astype(np.float32)
    p = rng.random((3, 5, 77)).astype(np.float32)
    u = ref.uniform(s, 4, 5 * 77).reshape(x.shape)
    check_op("bernoulli", [p, s], lambda p, s: (u < p).astype(np.float64), grads=(), salt=4)
    check_op("dropout", [x, s], lambda x, s: x * (u >= np.float32(0.3)) / (1 - 0.3), salt=4, p=0.3)
    same = _core.ops["dropout"](tensor(x), tensor(s), p=0).numpy()
    assert np.array_equal(same, x)


def test_samples_of_bernoulli_and_dropout_stand_alone(kernels):
    s, p = streams(3), np.random.default_rng(0).random((3, 40)).astype(np.float32)
    drop = _core.ops["dropout"]
    whole = drop(tensor(p), tensor(s), p=0.5).numpy()
    alone = [drop(tensor(p[i : i + 1]), tensor(s[i : i + 1]), p=0.5).numpy()[0] for i in range(3)]
    assert np.array_equal(whole, alone)


@pytest.mark.parametrize("C", [1, 2, 17, 40])
def test_categorical(kernels, C):
    rng = np.random.default_rng(C)
    s, logits = streams(2, C), rng.standard_normal((6, 5, C)).astype(np.float32) * 2

    def reference(logits, s):
        u = ref.uniform(s, 9, 15).reshape(6, 5)
        return ref.inverse_cdf(ref.softmax(logits), u)

    check_op("categorical", [logits, s], reference, grads=(), salt=9)


def test_categorical_never_draws_what_is_masked_and_follows_its_probabilities(kernels):
    logits = np.full((1, 20000, 4), -np.inf, np.float32)
    logits[..., 1], logits[..., 3] = np.log(0.25), np.log(0.75)
    got = _core.ops["categorical"](tensor(logits), tensor(streams(1))).numpy()
    counts = np.bincount(got.ravel(), minlength=4) / got.size
    assert counts[0] == counts[2] == 0 and abs(counts[1] - 0.25) < 0.02


@pytest.mark.parametrize("unimix", [0.0, 0.25])
@pytest.mark.parametrize("C", [2, 33])
def test_onehot_sample_is_straight_through(kernels, unimix, C):
    s, logits = streams(3), np.random.default_rng(C).standard_normal((3, 4, C)).astype(np.float32)

    def probabilities(logits, s):
        return (1 - unimix) * ref.softmax(logits) + unimix / C

    def reference(logits, s):
        u = ref.uniform(s, 0, 4).reshape(3, 4)
        return np.eye(C)[ref.inverse_cdf(probabilities(logits, s), u)]

    check_op("onehot_sample", [logits, s], reference, grad_reference=probabilities, grads=[0],
             batched=[0, 1], unimix=unimix)


@pytest.mark.parametrize("C", [1, 6, 19])
def test_gaussian_samples(kernels, C):
    rng = np.random.default_rng(C)
    s = streams(4, C)
    mean, log_std = (rng.standard_normal((4, 3, C)).astype(np.float32) for _ in range(2))

    def gaussian(mean, log_std, s):
        return mean + np.exp(log_std) * ref.normal(s, 5, 3 * C).reshape(mean.shape)

    def tanh_gaussian(mean, log_std, s):
        e = ref.normal(s, 5, 3 * C).reshape(mean.shape)
        u = mean + np.exp(log_std) * e
        correction = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))
        return np.tanh(u), (-0.5 * e**2 - log_std - 0.5 * np.log(2 * np.pi) - correction).sum(-1)

    check_op("gaussian_sample", [mean, log_std, s], gaussian, batched=[0, 1, 2], salt=5)
    check_op("tanh_gaussian_sample", [mean, log_std, s], tanh_gaussian, batched=[0, 1, 2], salt=5,
             tolerance=4e-6)


def test_a_replay_draws_anew_when_the_step_moves():
    s = tensor(streams(2))
    with _core.Tape() as tape:
        advanced = _core.ops["stream_advance"](s)
        out = _core.ops["normal"](advanced, shape=(2, 8))
    first, step = out.numpy().copy(), s.numpy()[:, 3].copy()
    tape.replay()
    assert not np.array_equal(out.numpy(), first)
    assert np.array_equal(s.numpy()[:, 3], (step.astype(np.int64) + 1).astype(np.int32))


@pytest.mark.parametrize(("name", "shapes", "attrs", "text"), [
    ("normal", [(2, 3)], {"shape": (2,)}, "samples, 4"),
    ("normal", [(2, 4)], {"shape": (3,)}, "divisor"),
    ("normal", [(2, 4)], {"shape": (2, 0)}, "at least 1"),
    ("integers", [(1, 4)], {"shape": (3,), "low": 2, "high": 2}, "low < high"),
    ("dropout", [(2, 3), (1, 4)], {"p": 1.0}, "p wanted"),
    ("gaussian_sample", [(2, 3), (2, 4), (1, 4)], {}, "log_std"),
    ("onehot_sample", [(2, 3), (1, 4)], {"unimix": 2.0}, "unimix"),
])
def test_wrong_use_is_told(name, shapes, attrs, text):
    """The last argument is the stream."""
    args = [tensor(np.zeros(s, np.float32)) for s in shapes[:-1]] + [tensor(np.zeros(shapes[-1], np.int32))]
    with pytest.raises(ValueError, match=text):
        _core.ops[name](*args, **attrs)
