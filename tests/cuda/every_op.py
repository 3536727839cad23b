"""every_op.py [OP...]: calls of every op (or of those named), with gradients, on CUDA against the processor.  Then mma.

For a library under sanitizers (sanitize.sh) or a GPU (benchmarks/gpu_check.py): WORLDMODEL_CUDA_LIBRARY names it.
"""

import sys
import time
from pathlib import Path

import numpy as np
from worldmodel import Tape, _core
from worldmodel.tensor import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "core")]
from test_every_op import CALLS, run, works  # noqa: E402


def size(call) -> int:
    values = [*call["args"], *call["kwargs"].values()]
    return sum(int(np.prod(v["shape"])) for v in values if isinstance(v, dict))


def one_of(name):
    """The largest of the op's calls that is still small, and which inputs get gradients."""
    calls = sorted((c for c in CALLS[name] if size(c) <= 1500), key=size, reverse=True)
    for call in calls or CALLS[name]:
        for wants in (None, {1}, set()):
            if works(name, call, wants):
                return call, wants
    raise AssertionError(f"{name}: no call works")


def compare(name: str) -> None:
    _core.set_device("cpu")
    call, wants = one_of(name)
    most = 1e-2 if call["kwargs"].get("bf16") else 3e-5  # a processor that multiplies bf16 rounds x too
    outs, grads = run(name, call, wants)[:2]
    _core.set_device("cuda")
    got, g = run(name, call, wants)[:2]
    for a, b in zip([*got, *(g[i] for i in grads)], [*outs, *grads.values()], strict=True):
        if b.dtype.kind == "f":
            finite = np.isfinite(b)
            assert np.abs(a - b)[finite].max(initial=0) <= most * np.abs(b[finite]).max(initial=1e-2), name
        else:
            assert (a != b).mean() < 0.01, name


def tensor_cores() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((70, 96), np.float32), rng.standard_normal((40, 96), np.float32)
    q = rng.standard_normal((1, 70, 64), np.float32)
    want = x.astype(float) @ w.T
    rounded = _core.ops["linear"](Tensor(x), Tensor(w), bf16=True).numpy()
    assert np.abs(rounded - want).max() < 1e-2 * np.abs(want).max(), "bf16 weights"
    for way, most in (("split", 3e-6), ("bf16", 1e-2)):
        _core.set_matmul(way)
        got = _core.ops["linear"](Tensor(x), Tensor(w)).numpy()
        assert np.abs(got - want).max() < most * np.abs(want).max(), way
        convolved(way, 3 * most)
    _core.set_matmul("bf16")
    fast = attended(q)
    _core.set_matmul("exact")
    for a, b in zip(fast, attended(q), strict=True):
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()


def convolved(way: str, most: float) -> None:
    """Convolutions by tensor cores, taps of fours and not, and their gradients."""
    rng = np.random.default_rng(1)
    for C in (4, 3):
        arrays = [rng.standard_normal(s, np.float32) for s in ((1, 5, 4, C), (4, 3, 3, C))]
        made = []
        for how in (way, "exact"):
            _core.set_matmul(how)
            tensors = [Tensor(a, needs_grad=True) for a in arrays]
            with Tape() as tape:
                out = _core.ops["conv2d"](*tensors)
            tape.backward(out, Tensor(np.ones(out.shape, np.float32)))
            made.append([out.numpy(), *(t.grad for t in tensors)])
        for a, b in zip(*made, strict=True):
            assert np.abs(a - b).max() < most * np.abs(b).max(), way


def attended(x) -> list:
    """Attention of x over itself, and its gradients."""
    tensors = [Tensor(x * (1 - i / 4), needs_grad=True) for i in range(3)]
    with Tape() as tape:
        out = _core.ops["attention"](*tensors, heads=2, mask="causal")
    tape.backward(out, Tensor(x[:, ::-1].copy()))
    return [out.numpy(), *(t.grad for t in tensors)]


def main() -> None:
    began, names = time.time(), sys.argv[1:] or sorted(CALLS)
    for name in names:
        compare(name)
    tensor_cores()
    print(f"{len(names)} ops and the tensor cores, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
