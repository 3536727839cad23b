"""harness: one call proves an op: against float64, gradient by finite differences, thread count, batch size,
sentinels.

    check_op("linear", [x, w, b], lambda x, w, b: x @ w.T + b, batched=[0])

The reference is float64 NumPy.  Gradients are checked against central differences *of the reference*, so
they are good
to about 1e-7 and an error in float32 arithmetic shows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import emulated
import numpy as np
from worldmodel import _core, stubs

SENTINEL = np.float32(12345.678)


class Guarded:
    """A copy of an array with sentinels before and behind it; `intact()` says whether they still stand."""

    def __init__(self, array: np.ndarray):
        pad = 64
        self.block = np.full(array.size + 2 * pad, 77, array.dtype)
        self.view = self.block[pad : pad + array.size].reshape(array.shape)
        self.view[...] = array
        self.pad = pad

    def intact(self) -> bool:
        return bool((self.block[: self.pad] == 77).all() and (self.block[-self.pad :] == 77).all())


def tensor(array, needs_grad: bool = False) -> "_core.Tensor":
    return _core.Tensor(np.asarray(array, order="C"), needs_grad=needs_grad)


def outputs_of(result) -> list:
    return list(result) if isinstance(result, tuple) else [result]


def run(name: str, arrays: Sequence[np.ndarray | None], attrs: dict, grads: Sequence[int], seeds=None):
    """One forward and, if grads, one backward with the given output gradients; returns outputs and input
    gradients."""
    guards = [None if a is None else Guarded(a) for a in arrays]
    tensors = [
        None if g is None else _core.Tensor(g.view, needs_grad=i in grads) for i, g in enumerate(guards)
    ]
    before = _core.pool()["overruns"]
    with _core.Tape() as tape:
        outs = outputs_of(_core.ops[name](*tensors, **attrs))
    assert len(outs) in stubs.counts(_core.specs[name][0]), (
        f"{name} made {len(outs)} tensors: end its spec with '-> names'"
    )
    results = [np.array(o.numpy()) for o in outs]
    gradients = []
    if grads:
        live = [(o, s) for o, s in zip(outs, seeds, strict=True) if s is not None and o.needs_grad]
        for o, s in live:
            tape.backward(o, tensor(s.astype(np.float32)))
        gradients = [np.array(tensors[i].grad) for i in grads]
    tape.clear()
    del outs, tensors
    _core.pool_trim()
    assert _core.pool()["overruns"] == before, f"{name} wrote past the end of a buffer"
    for i, g in enumerate(guards):
        assert g is None or g.intact(), f"{name} wrote outside input {i}"
        assert g is None or np.array_equal(g.view, arrays[i], equal_nan=True), f"{name} changed input {i}"
    return results, gradients


def numeric_gradient(
    reference: Callable, arrays: Sequence, seeds: Sequence, i: int, directions: int = 4, rng=None
) -> tuple[list[np.ndarray], list[float]]:
    """Directional derivatives of sum(seed * reference) along random directions of input i: (directions,
    values)."""
    rng = rng or np.random.default_rng(0)
    wide = [None if a is None else a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]

    def value(x):
        outs = reference(*[x if j == i else a for j, a in enumerate(wide)])
        outs = outs if isinstance(outs, tuple) else (outs,)
        return sum(
            float((np.asarray(o, np.float64) * s).sum())
            for o, s in zip(outs, seeds, strict=True)
            if s is not None
        )

    h, ds, values = 1e-5, [], []
    for _ in range(directions):
        d = rng.standard_normal(wide[i].shape)
        ds.append(d)
        values.append((value(wide[i] + h * d) - value(wide[i] - h * d)) / (2 * h))
    return ds, values


def close(got: np.ndarray, want: np.ndarray, tolerance: float, what: str) -> None:
    """Largest error, in units of the largest wanted number."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, wanted {want.shape}"
    if got.size == 0:
        return
    finite = np.isfinite(want)
    assert np.array_equal(finite, np.isfinite(got)), (
        f"{what}: NaN or infinity where none belongs, or none where one does"
    )
    error = np.abs(got.astype(np.float64) - want)[finite].max(initial=0.0)
    scale = max(np.abs(want[finite]).max(initial=0.0), 1e-6)
    assert error <= tolerance * scale, (
        f"{what}: error {error:.3g} of {scale:.3g}, {error / scale:.2g} > {tolerance:.2g}"
    )


def check_op(
    name: str,
    arrays: Sequence[np.ndarray | None],
    reference: Callable,
    *,
    grads: Sequence[int] | None = None,
    batched: Sequence[int] = (),
    tolerance: float = 2e-6,
    grad_tolerance: float = 2e-5,
    grad_reference: Callable | None = None,
    seed: int = 0,
    **attrs,
) -> list[np.ndarray]:
    """Prove one op in the kernel table now in use; see the head of this file.

    arrays: inputs (float32, uint8 or int32; None for an absent optional one).  reference(*arrays in float64)
    -> outputs.
    grads: inputs whose gradient is checked (default: every float32 input; () for none).  batched: inputs
    whose leading
    axis is the batch: each single sample must give the same bits as the batch.
    """
    rng = np.random.default_rng(seed)
    arrays = [None if a is None else np.asarray(a, order="C") for a in arrays]
    if grads is None:
        grads = [i for i, a in enumerate(arrays) if a is not None and a.dtype == np.float32]
    wide = [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in arrays]
    wants = reference(*wide)
    wants = [np.asarray(w) for w in (wants if isinstance(wants, tuple) else (wants,))]
    seeds = [rng.standard_normal(w.shape).astype(np.float32) if w.dtype.kind == "f" else None for w in wants]
    _core.pool_guard(True)
    try:
        outs, gradients = run(name, arrays, attrs, grads, seeds)
        assert len(outs) == len(wants), f"{name}: {len(outs)} outputs, wanted {len(wants)}"
        for k, (o, w) in enumerate(zip(outs, wants, strict=True)):
            close(o, w, tolerance, f"{name} output {k}")
        for i, g in zip(grads, gradients, strict=True):
            ds, values = numeric_gradient(grad_reference or reference, arrays, seeds, i, rng=rng)
            for d, v in zip(ds, values, strict=True):
                got = float((g.astype(np.float64) * d).sum())
                scale = float(np.abs(g.astype(np.float64) * d).sum()) + abs(v) + 1e-6
                assert abs(got - v) <= grad_tolerance * scale, (
                    f"{name} gradient of input {i}: {got:.8g}, wanted {v:.8g}"
                )
        check_threads(name, arrays, attrs, grads, seeds, outs, gradients)
        check_added(name, arrays, attrs, grads, seeds, gradients)
    finally:
        _core.pool_guard(False)
    if batched:
        check_batch(name, arrays, attrs, batched, outs)
    return outs


@contextmanager
def scheduled(n: int) -> Iterator[None]:
    """n threads; on emulated CUDA, threads and blocks in order n: forward, backward, shuffled."""
    on_cuda = _core.device() == "cuda"
    keep, choose = (0, emulated.schedule) if on_cuda else (_core.threads(), _core.set_threads)
    choose(n)
    try:
        yield
    finally:
        choose(keep)


def schedules() -> list[int]:
    """What to try with `scheduled`: none of them may change a bit."""
    return [0, 1, 2] if _core.device() == "cuda" else [1, 2, 3]


def check_threads(name, arrays, attrs, grads, seeds, outs, gradients) -> None:
    """The same bits with any number of threads; on emulated CUDA, in any order of threads and blocks."""
    now = 0 if _core.device() == "cuda" else _core.threads()
    for n in schedules():
        if n == now:
            continue
        with scheduled(n):
            o, g = run(name, arrays, attrs, grads, seeds)
        for a, b in zip(outs + gradients, o + g, strict=True):
            assert np.array_equal(a, b, equal_nan=True), f"{name}: other bits with schedule {n} than with {now}"


def check_added(name, arrays, attrs, grads, seeds, gradients) -> None:
    """Gradients are added: two backwards give about twice the gradient of one."""
    if not grads:
        return
    tensors = [
        None if a is None else _core.Tensor(a.copy(), needs_grad=i in grads) for i, a in enumerate(arrays)
    ]
    for _ in range(2):
        with _core.Tape() as tape:
            outs = outputs_of(_core.ops[name](*tensors, **attrs))
        for o, s in zip(outs, seeds, strict=True):
            if s is not None and o.needs_grad:
                tape.backward(o, tensor(s))
    for i, g in zip(grads, gradients, strict=True):
        close(tensors[i].grad, 2 * g.astype(np.float64), 1e-5, f"{name}: twice the gradient of input {i}")


def check_batch(name, arrays, attrs, batched, outs) -> None:
    n = arrays[batched[0]].shape[0]
    for b in range(n):
        single = [a[b : b + 1].copy() if i in batched else a for i, a in enumerate(arrays)]
        alone, _ = run(name, single, attrs, ())
        for k, (o, whole) in enumerate(zip(alone, outs, strict=True)):
            assert np.array_equal(o[0], whole[b], equal_nan=True), (
                f"{name} output {k}: sample {b} alone has other bits than in the batch"
            )
