"""The parameter arena and AdamW through C, against float64 NumPy."""

import ctypes as c
import os
import shlex
import shutil
import subprocess
from glob import glob
from pathlib import Path

import numpy as np
import pytest
from harness import Guarded
from worldmodel import _core

ROOT = Path(__file__).resolve().parents[2]
CC = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
pytestmark = pytest.mark.skipif(not CC, reason="no C compiler: the optimiser's C is tested through one")
POINTER = ("make", "values", "gradient", "wm_params_new", "wm_params_part")


@pytest.fixture(scope="module")
def lib(tmp_path_factory):
    so = tmp_path_factory.mktemp("optim") / "optim.so"
    sources = [f for folder in ("base", "optim") for f in glob(f"csrc/{folder}/*.c", root_dir=ROOT)]
    flags = "-std=gnu11 -O1 -fopenmp -fPIC -shared -ffp-contract=fast -fno-math-errno -fno-trapping-math -w"
    sources += ["tests/core/arena.c", "csrc/tensor/tensor.c", "csrc/kernels/device.c"]
    subprocess.run([*CC, *flags.split(), "-o", so, *sources, "-lm", "-ldl"], cwd=ROOT, check=True)
    lib = c.CDLL(str(so))
    for name in POINTER:
        getattr(lib, name).restype = c.c_void_p
    lib.error.restype = c.c_char_p
    lib.version.restype = c.c_uint64
    lib.size.restype = lib.steps.restype = c.c_int64
    lib.wm_schedule_at.restype = c.c_double
    return lib


class Arena:
    """n tensors in an arena; values and gradients as NumPy views of C's memory."""

    def __init__(self, lib, shapes, decays=None, seed=0):
        self.lib, self.rng = lib, np.random.default_rng(seed)
        self.start = [self.rng.standard_normal(s).astype(np.float32) for s in shapes]
        self.tensors = [make(lib, a) for a in self.start]
        flags = None if decays is None else (c.c_uint8 * len(decays))(*decays)
        self.params = lib.wm_params_new((c.c_void_p * len(shapes))(*self.tensors), len(shapes), flags)
        assert self.params, lib.error()

    def view(self, get, i):
        p = c.cast(get(c.c_void_p(self.tensors[i])), c.POINTER(c.c_float))
        return np.ctypeslib.as_array(p, self.start[i].shape)

    def part(self, which, i):
        t = self.lib.wm_params_part(c.c_void_p(self.params), which, i)
        assert t, self.lib.error()
        p = c.cast(self.lib.values(c.c_void_p(t)), c.POINTER(c.c_float))
        return np.ctypeslib.as_array(p, self.start[i].shape).copy()

    def values(self, i):
        return self.view(self.lib.values, i)

    def gradient(self, i):
        return self.view(self.lib.gradient, i)

    def update(self, lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, decay=0.1, clip=0.0, warm=False):
        out = (c.c_double * 3)()
        numbers = (c.c_double * 6)(lr, beta1, beta2, eps, decay, clip)
        self.lib.update(c.c_void_p(self.params), numbers, int(warm), out)
        return out[0], bool(out[1]), bool(out[2])

    def free(self):
        self.lib.wm_params_free(c.c_void_p(self.params))
        for t in self.tensors:
            self.lib.wm_drop(c.c_void_p(t))


def make(lib, array, needs_grad=1):
    shape = (c.c_int64 * array.ndim)(*array.shape)
    return lib.make(array.ctypes.data_as(c.c_void_p), array.ndim, shape, needs_grad)


def adamw(p, g, m, v, t, lr, decay, beta1=0.9, beta2=0.99, eps=1e-8):
    """Loshchilov and Hutter, algorithm 2, with the learning rate on the decay."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p - lr * (step + decay * p), m, v


SHAPES = [(3, 5), (7,), (1,), (200, 333), (4, 4), (2, 3, 5)]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_ten_steps_match_numpy(lib, clip):
    arena = Arena(lib, SHAPES)
    ema = [arena.lib.wm_params_shadow(c.c_void_p(arena.params), c.c_float(d)) for d in (0.9, 0.5)]
    assert ema == [0, 1]
    p = [a.astype(np.float64) for a in arena.start]
    m, v, shadows = [0 * a for a in p], [0 * a for a in p], [[a.copy() for a in p] for _ in ema]
    for t in range(1, 11):
        g = [arena.rng.standard_normal(s).astype(np.float32) for s in SHAPES]
        for i, a in enumerate(g):
            arena.gradient(i)[...] += a
        norm, clipped, skipped = arena.update(clip=clip)
        want = np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in g))
        assert norm == pytest.approx(want, rel=1e-6) and clipped == (clip > 0) and not skipped
        scale = clip / want if clip else 1.0
        for i, a in enumerate(g):
            p[i], m[i], v[i] = adamw(p[i], a * scale, m[i], v[i], t, 1e-2, 0.1 if a.ndim > 1 else 0.0)
            for s, d in zip(shadows, (0.9, 0.5), strict=True):
                s[i] += (1 - d) * (p[i] - s[i])
    for i in range(len(SHAPES)):
        assert np.abs(arena.values(i) - p[i]).max() < 2e-6
        assert np.abs(arena.part(2, i) - m[i]).max() < 1e-6 and np.abs(arena.part(3, i) - v[i]).max() < 1e-6
        assert np.abs(arena.part(4, i) - shadows[0][i]).max() < 2e-6
        assert np.abs(arena.part(5, i) - shadows[1][i]).max() < 2e-6
        assert not arena.gradient(i).any()
    assert lib.steps(c.c_void_p(arena.params)) == 10
    arena.free()


class Numbers(c.Structure):
    """wm_adamw_numbers of kernels.h."""

    _fields_ = [(k, c.c_float) for k in "step root rest1 beta2 rest2 eps keep clip".split()]
    _fields_ += [("follow", c.c_float * 4), ("shadows", c.c_int)]


@pytest.mark.parametrize("n", [1, 17, 16384, 16385, 70001])
def test_every_table_does_the_same_arithmetic(kernels, n):
    def kernel(name, result, *arguments):
        return c.CFUNCTYPE(result, *arguments)(_core.kernel_address(kernels, name))

    norm = kernel("gradient_norm", c.c_double, c.c_void_p, c.c_void_p, c.c_int64)
    step = kernel("adamw_step", None, *[c.c_void_p] * 8, c.c_int64, c.c_int64)
    arrays = np.random.default_rng(n).standard_normal((5, n)).astype(np.float32)
    p, g, m, v, e = (Guarded(a).view for a in arrays)
    np.abs(v, out=v)
    parts, at = np.zeros(n // 2**14 + 1), [a.ctypes.data for a in (p, g, m, v)]
    length = np.linalg.norm(g.astype(np.float64))
    assert norm(parts.ctypes.data, g.ctypes.data, n) == pytest.approx(length, rel=1e-6)
    P, G, M, V, E = (a.astype(np.float64) for a in (p, g, m, v, e))
    cut = n // 3
    ends, decays = np.array([cut, n]) if cut else np.array([n]), np.array([1, 0] if cut else [1], np.uint8)
    numbers = Numbers(0.01, 1.5, 0.1, 0.99, 0.01, 1e-6, 0.9, 0.5, (0.25,), 1)
    shadows = (c.c_void_p * 1)(e.ctypes.data)
    step(*at, shadows, c.byref(numbers), ends.ctypes.data, decays.ctypes.data, len(ends), n)
    M, V = M + 0.1 * (G / 2 - M), 0.99 * V + 0.01 * (G / 2) ** 2
    keep = np.where(np.arange(n) < (cut or n), 0.9, 1)
    P = keep * P - 0.01 * M / (np.sqrt(V) * 1.5 + 1e-6)
    for got, want in [(p, P), (g, 0 * G), (m, M), (v, V), (e, E + 0.25 * (P - E))]:
        assert np.abs(got - want).max() < 3e-6


def test_the_numbers_move_and_old_gradients_come_along(lib):
    a = np.arange(5, dtype=np.float32)
    t = make(lib, a)
    view = np.ctypeslib.as_array(c.cast(lib.gradient(c.c_void_p(t)), c.POINTER(c.c_float)), (5,))
    view[...] = 2
    params = lib.wm_params_new((c.c_void_p * 1)(t), 1, None)
    get = {
        f: np.ctypeslib.as_array(c.cast(getattr(lib, f)(c.c_void_p(t)), c.POINTER(c.c_float)), (5,))
        for f in ("values", "gradient")
    }
    assert np.array_equal(get["values"], a) and (get["gradient"] == 2).all()
    assert lib.size(c.c_void_p(params)) == 16
    lib.wm_grad_clear(c.c_void_p(t))
    assert not get["gradient"].any(), "an arena's gradient is zeroed, not given back"
    lib.wm_params_free(c.c_void_p(params))
    assert np.array_equal(get["values"], a), "a tensor outlives its arena"
    lib.wm_drop(c.c_void_p(t))


def test_any_thread_count_gives_the_same_bits(lib):
    results = []
    for threads in (1, 2, 3):
        lib.threads(threads)
        arena = Arena(lib, [(300, 1000), (77,), (50, 1001)])
        lib.wm_params_shadow(c.c_void_p(arena.params), c.c_float(0.99))
        for _ in range(3):
            for i in range(3):
                arena.gradient(i)[...] += arena.rng.standard_normal(arena.start[i].shape).astype(np.float32)
            norm = arena.update(clip=1.0)[0]
        results.append([norm, *(arena.values(i).tobytes() for i in range(3)), arena.part(4, 2).tobytes()])
        arena.free()
    lib.threads(1)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_gradient_that_is_not_finite_skips_the_step(lib, bad):
    arena = Arena(lib, [(4, 4), (3,)])
    arena.gradient(0)[...] = 1
    arena.update()
    before, moments = arena.values(0).copy(), arena.part(2, 0)
    arena.gradient(1)[...] = bad
    norm, _, skipped = arena.update()
    assert skipped and not np.isfinite(norm)
    assert np.array_equal(arena.values(0), before) and np.array_equal(arena.part(2, 0), moments)
    assert not arena.gradient(1).any() and lib.steps(c.c_void_p(arena.params)) == 1
    arena.free()


def test_decay_follows_the_flags(lib):
    arena = Arena(lib, [(4, 4), (4, 4), (3,), (3,)], decays=[1, 0, 1, 0])
    arena.update(lr=0.1, decay=0.5)
    for i, keep in enumerate([0.95, 1, 0.95, 1]):
        assert np.allclose(arena.values(i), arena.start[i] * keep, rtol=1e-6)
    arena.free()


def test_the_average_warms_up_and_swaps(lib):
    arena = Arena(lib, [(4, 4)])
    lib.wm_params_shadow(c.c_void_p(arena.params), c.c_float(0.999))
    arena.gradient(0)[...] = 1
    version = lib.version(c.c_void_p(arena.tensors[0]))
    arena.update(warm=True)
    assert lib.version(c.c_void_p(arena.tensors[0])) > version, "packed weights must notice"
    values, shadow = arena.values(0).copy(), arena.part(4, 0)
    assert np.allclose(shadow, arena.start[0] + (1 - 2 / 11) * (values - arena.start[0]), atol=1e-6)
    lib.wm_params_swap(c.c_void_p(arena.params), 0)
    assert np.array_equal(arena.values(0), shadow) and np.array_equal(arena.part(4, 0), values)
    arena.free()


def test_wrong_use_is_told(lib):
    a = np.zeros((2, 2), np.float32)
    t, frozen = make(lib, a), make(lib, a, needs_grad=0)
    for tensors, text in [([t, t], b"the same"), ([t, frozen], b"no gradient"), ([], b"at least one")]:
        assert not lib.wm_params_new((c.c_void_p * len(tensors))(*tensors), len(tensors), None)
        assert text in lib.error()
    arena = Arena(lib, [(2, 2)])
    for k in range(4):
        assert lib.wm_params_shadow(c.c_void_p(arena.params), c.c_float(0.5)) == k
    assert lib.wm_params_shadow(c.c_void_p(arena.params), c.c_float(0.5)) == -1
    assert not lib.wm_params_part(c.c_void_p(arena.params), 0, 1) and b"tensor 1" in lib.error()
    arena.free()


def test_schedules(lib):
    def at(kind, step, warmup=10, total=110, peak=2.0, floor=0.5):
        whole = [c.c_int64(n) for n in (step, warmup, total)]
        return lib.wm_schedule_at(kind, *whole, c.c_double(peak), c.c_double(floor))

    for kind in range(3):
        assert at(kind, 0) == pytest.approx(0.2) and at(kind, 9) == pytest.approx(2.0)
    assert at(0, 1000) == 2.0
    assert at(1, 60) == pytest.approx(1.25) and at(1, 500) == pytest.approx(0.5)
    assert at(2, 60) == pytest.approx(1.25)
    assert at(2, 35) == pytest.approx(0.5 + 1.5 * 0.5 * (1 + np.cos(np.pi / 4)))
    assert at(2, 110) == pytest.approx(0.5) and at(2, 10) == pytest.approx(2.0)
