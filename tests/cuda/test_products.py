"""The ways to multiply on CUDA (set_matmul): float32, tensor cores on bf16, tensor cores on split floats, cuBLAS
(on the emulator a stand-in, tests/cuda/emulator/cublas.cpp)."""

import os
import subprocess
import sys

import emulated
import numpy as np
import pytest
from harness import scheduled, tensor
from worldmodel import Tape, _core, machine
from worldmodel.tensor import Tensor

HERE, WHY_NOT = emulated.possible()
pytestmark = pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}")
WAYS = {"exact": 2e-6, "split": 2e-6, "cublas": 2e-6, "bf16": 1e-2, "cublas_bf16": 1e-2}
"""How far a product may be off, of its largest number."""
SIZES = [(1, 1, 1), (1, 4, 3), (4, 1, 3), (4, 3, 1), (3, 5, 7)]
SIZES += [(64, 64, 32), (65, 33, 64), (70, 66, 130), (130, 48, 96)]


@pytest.fixture(params=WAYS)
def way(request):
    emulated.use()
    machine.set_device("cuda")
    _core.set_matmul(request.param)
    yield request.param
    _core.set_matmul("exact")
    machine.set_device("cpu")


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("act", ["none", "gelu"])
@pytest.mark.parametrize("R,N,K", SIZES)
def test_linear(way, R, N, K, act):
    """Forward and all three gradients, each of which is a product."""
    x, w, b = Tensor(numbers(R, K), needs_grad=True), Tensor(numbers(N, K), needs_grad=True), Tensor(numbers(N))
    g = numbers(R, N, seed=1)
    with Tape() as tape:
        out = _core.ops["linear"](x, w, b, act=act)
    tape.backward(out, tensor(g))
    u, v = numbers(R, K).astype(float), numbers(N, K).astype(float)
    pre = u @ v.T + numbers(N)
    t = np.tanh(np.sqrt(2 / np.pi) * (pre + 0.044715 * pre**3))
    want = pre if act == "none" else pre * (1 + t) / 2
    slope = 1 if act == "none" else (1 + t) / 2 + pre * (1 - t * t) / 2 * np.sqrt(2 / np.pi) * (1 + 0.134145 * pre**2)
    dv = g * slope
    for name, got, right in (("out", out.numpy(), want), ("dx", x.grad, dv @ v), ("dw", w.grad, dv.T @ u)):
        error = np.abs(got - right).max() / np.abs(right).max()
        assert error < WAYS[way] * (3 if name != "out" else 1), f"{name} {error:.2g}"


@pytest.mark.parametrize("rows", [2048, 4096, 4200])
@pytest.mark.parametrize("way", ["cublas", "cublas_bf16"], indirect=True)
def test_long_sums_are_a_batch_of_their_parts(way, rows):
    x, w, g = numbers(rows, 5), Tensor(numbers(3, 5), needs_grad=True), numbers(rows, 3)
    for times in (1, 2):
        with Tape() as tape:
            out = _core.ops["linear"](Tensor(x), w)
        tape.backward(out, tensor(g))
        want = times * (g.astype(float).T @ x)
        assert np.abs(w.grad - want).max() < WAYS[way] * 100 * times  # the largest sums are about 100


@pytest.mark.parametrize("way", ["cublas", "cublas_bf16"], indirect=True)
def test_cublas_in_a_captured_plan(way):
    x, w = Tensor(np.zeros((3, 8), np.float32)), numbers(4, 8)
    with Tape(grad=False) as tape:
        out = _core.ops["linear"](x, Tensor(w), Tensor(numbers(4)), act="silu")
    plan = tape.plan(out)
    for seed in range(3):
        x.copy_(numbers(3, 8, seed=seed))
        v = numbers(3, 8, seed=seed).astype(float) @ w.T + numbers(4)
        assert np.abs(plan.run()[0].numpy() - v / (1 + np.exp(-v))).max() < 5 * WAYS[way]
    assert plan.captured


@pytest.mark.parametrize("named,why", [("libm.so.6", "cuBLAS lacks cublasCreate_v2"), ("/nowhere", "cuBLAS cannot be")])
def test_without_a_cublas_there_is_one_clear_error(named, why):
    emulated.use()
    if not emulated.is_emulator(emulated.emulator()):
        pytest.skip("beside a GPU there may be a real cuBLAS")
    code = 'from worldmodel import _core; _core.set_device("cuda"); _core.set_matmul("cublas")'
    environment = {**os.environ, "WM_CUBLAS": named}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode and said.startswith("RuntimeError: ") and why in said


@pytest.mark.parametrize("way", ["exact", "split"], indirect=True)
def test_the_same_bits_at_any_batch_size(way):
    x, w = numbers(70, 96), Tensor(numbers(40, 96))
    whole = _core.ops["linear"](Tensor(x), w).numpy()
    for rows in (1, 3, 64):
        assert np.array_equal(_core.ops["linear"](Tensor(x[:rows]), w).numpy(), whole[:rows])


@pytest.mark.parametrize("way", ["bf16", "split", "cublas_bf16"], indirect=True)
def test_bf16_weights_and_gates(way):
    x, w, gate, residual = numbers(34, 64), numbers(48, 64), numbers(2, 48), numbers(34, 48)
    half = _core.ops["cast"](Tensor(w), to="bfloat16")
    rounded = _core.ops["cast"](half, to="float32").numpy().astype(float)
    got = _core.ops["linear_gated"](Tensor(x), half, None, Tensor(gate), Tensor(residual)).numpy()
    want = residual + np.repeat(gate, 17, 0) * (x.astype(float) @ rounded.T)
    assert np.abs(got - want).max() < WAYS[way] * np.abs(want).max()


@pytest.mark.parametrize("way", ["split"], indirect=True)
def test_split_keeps_what_bf16_would_lose(way):
    """Numbers of very different sizes in one row; what was infinite is not finite."""
    x = (numbers(8, 32) * np.exp(np.random.default_rng(0).uniform(-12, 12, (8, 32)))).astype(np.float32)
    got = _core.ops["linear"](Tensor(x), Tensor(np.eye(32, dtype=np.float32))).numpy()
    assert (np.abs(got - x) <= 2e-7 * np.abs(x)).all()
    x[0, 0] = np.inf
    assert not np.isfinite(_core.ops["linear"](Tensor(x), Tensor(np.ones((1, 32), np.float32))).numpy()[0, 0])


MASKS = [("full", {}), ("causal", {}), ("window", {"window": 9}), ("frame_causal", {"frame": 8, "window": 3})]


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
@pytest.mark.parametrize("mask,options", MASKS)
@pytest.mark.parametrize("D", [32, 64])
@pytest.mark.parametrize("Nq,Nk", [(16, 16), (130, 130), (5, 70)])
def test_attention_on_tensor_cores(way, mask, options, D, Nq, Nk):
    q, k, v = numbers(2, Nq, 2 * D), numbers(2, Nk, 2 * D, seed=1), numbers(2, Nk, 2 * D, seed=2)
    options = {"heads": 2, "mask": mask, **options}
    lib = emulated.emulator()
    before = lib.emulator_count(4) if emulated.is_emulator(lib) else -1
    fast = _core.ops["attention"](Tensor(q), Tensor(k), Tensor(v), **options).numpy()
    assert before < 0 or lib.emulator_count(4) > before, "no tensor core was used"
    _core.set_matmul("exact")
    right = _core.ops["attention"](Tensor(q), Tensor(k), Tensor(v), **options).numpy()
    assert np.abs(fast - right).max() < 1e-2 * np.abs(right).max()


def attended(q, k, v, lengths=None, wanted=(0, 1, 2), **options):
    """out, and the gradients of q, k and v that are wanted, twice over (they are added)."""
    tensors = [Tensor(x, needs_grad=i in wanted) for i, x in enumerate((q, k, v))]
    for _ in range(2):
        with Tape() as tape:
            out = _core.ops["attention"](*tensors, None if lengths is None else Tensor(lengths), **options)
        tape.backward(out, tensor(numbers(*out.shape, seed=9)))
    return [out.numpy(), *(tensors[i].grad for i in wanted)]


def near(fast, right, most):
    for name, a, b in zip(("out", "dq", "dk", "dv"), fast, right, strict=True):
        assert np.isfinite(a).all(), name
        assert np.abs(a - b).max() < most * np.abs(b).max(), f"{name}: {np.abs(a - b).max() / np.abs(b).max():.2g}"


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
@pytest.mark.parametrize("mask,options", MASKS)
@pytest.mark.parametrize("D,Nq,Nk", [(32, 16, 16), (64, 70, 70), (32, 130, 130), (64, 5, 70), (32, 40, 33)])
def test_gradients_of_attention_on_tensor_cores(way, mask, options, D, Nq, Nk):
    arrays = [numbers(2, n, 2 * D, seed=i) for i, n in enumerate((Nq, Nk, Nk))]
    options = {"heads": 2, "mask": mask, **options}
    lib = emulated.emulator()
    before = lib.emulator_count(4) if emulated.is_emulator(lib) else 0
    fast = attended(*arrays, **options)
    if emulated.is_emulator(lib):
        forward = lib.emulator_count(4)
        _core.ops["attention"](*map(Tensor, arrays), **options)
        forward = lib.emulator_count(4) - forward
        assert lib.emulator_count(4) - before > 5 * forward, "no tensor core was used backward"
    _core.set_matmul("exact")
    near(fast, attended(*arrays, **options), 2e-2)


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,)])
def test_each_gradient_of_attention_alone(way, wanted):
    arrays = [numbers(1, 40, 64, seed=i) for i in range(3)]
    alone, all_of_them = attended(*arrays, wanted=wanted, heads=2), attended(*arrays, heads=2)
    assert np.array_equal(alone[1], all_of_them[1 + wanted[0]])


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
def test_gradients_of_attention_over_an_inner_axis_lengths_and_groups(way):
    """Axis 1 of (B, N, inner, width); four query heads on two of keys; numbers that no query sees do not matter."""
    q, k, v = numbers(2, 40, 3, 4 * 32), numbers(2, 40, 3, 2 * 32, seed=1), numbers(2, 40, 3, 2 * 32, seed=2)
    lengths, options = np.array([33, 0], np.int32), {"heads": 4, "kv_heads": 2, "axis": 1}
    right = attended(q, k, v, lengths, **options)
    k[:, 33:], v[:, 33:] = np.nan, np.nan
    fast = attended(q, k, v, lengths, **options)
    _core.set_matmul("exact")
    near(fast, right, 1e-9)
    k[:, 33:], v[:, 33:] = 0, 0
    near(fast, attended(q, k, v, lengths, **options), 2e-2)
    assert all((x[1] == 0).all() for x in fast) and not fast[2][:, 33:].any()


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
def test_gradients_of_attention_have_the_same_bits_in_any_batch_and_order(way):
    arrays = [numbers(3, 70, 64, seed=i) for i in range(3)]
    whole = attended(*arrays, heads=2, mask="causal")
    for order in (1, 2):
        with scheduled(order):
            again = attended(*arrays, heads=2, mask="causal")
        assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
    seed = numbers(3, 70, 64, seed=9)
    alone = [Tensor(x[1:2], needs_grad=True) for x in arrays]
    with Tape() as tape:
        out = _core.ops["attention"](*alone, heads=2, mask="causal")
    tape.backward(out, tensor(seed[1:2])), tape.backward(out, tensor(seed[1:2]))
    assert all(np.array_equal(t.grad[0], g[1]) for t, g in zip(alone, whole[1:], strict=True))


@pytest.mark.parametrize("way", ["bf16"], indirect=True)
def test_attention_lengths_and_groups_on_tensor_cores(way):
    q, k, v = numbers(2, 70, 4 * 32), numbers(2, 70, 2 * 32, seed=1), numbers(2, 70, 2 * 32, seed=2)
    call = lambda: _core.ops["attention"](  # noqa: E731
        Tensor(q), Tensor(k), Tensor(v), Tensor(np.array([33, 0], np.int32)), heads=4, kv_heads=2
    ).numpy()
    fast = call()
    _core.set_matmul("exact")
    right = call()
    assert (fast[1] == 0).all() and np.abs(fast - right).max() < 1e-2 * np.abs(right).max()


CONVS = [  # x, weight, attributes: taps of fours and not, strides, enlarged images, pads, no padding, long sums
    ((2, 5, 7, 3), (5, 3, 3, 3), {}),
    ((1, 9, 8, 8), (68, 3, 3, 8), {"act": "silu"}),
    ((2, 9, 7, 4), (4, 3, 3, 4), {"stride": 2}),
    ((1, 4, 5, 8), (6, 3, 3, 8), {"upsample": 2}),
    ((1, 7, 6, 36), (33, 1, 1, 36), {}),
    ((1, 11, 6, 16), (8, 5, 3, 16), {"padding": 0}),
    ((2, 40, 40, 4), (4, 1, 1, 4), {}),
]


@pytest.mark.parametrize("way", ["split", "bf16"], indirect=True)
@pytest.mark.parametrize("shape,weight,options", CONVS)
def test_convolutions_on_tensor_cores(way, shape, weight, options):
    """Forward and all gradients, beside the same in float32."""
    arrays = [numbers(*shape), numbers(*weight) / np.sqrt(np.prod(weight[1:]), dtype=np.float32), numbers(weight[0])]

    def run():
        tensors = [Tensor(a, needs_grad=True) for a in arrays]
        with Tape() as tape:
            out = _core.ops["conv2d"](*tensors, **options)
        tape.backward(out, tensor(numbers(*out.shape, seed=9)))
        return [out.numpy(), *(t.grad for t in tensors)]

    lib = emulated.emulator()
    before = lib.emulator_count(4) if emulated.is_emulator(lib) else -1
    fast = run()
    assert before < 0 or lib.emulator_count(4) > before, "no tensor core was used"
    _core.set_matmul("exact")
    for name, a, b in zip(("out", "dx", "dw", "db"), fast, run(), strict=True):
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error < WAYS[way] * (3 if name != "out" else 1), f"{name} {error:.2g}"


@pytest.mark.parametrize("way", ["split", "bf16"], indirect=True)
def test_convolutions_have_the_same_bits_at_any_batch_size(way):
    x, w = numbers(3, 6, 7, 8), Tensor(numbers(5, 3, 3, 8))
    whole = _core.ops["conv2d"](Tensor(x), w).numpy()
    assert np.array_equal(_core.ops["conv2d"](Tensor(x[1:2]), w).numpy()[0], whole[1])


def test_unknown_ways_are_refused():
    emulated.use()
    with pytest.raises(RuntimeError, match="wanted 'exact', 'bf16', 'split', 'cublas' or 'cublas_bf16', got 'tf32'"):
        _core.set_matmul("tf32")
