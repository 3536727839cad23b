"""Every kernel as nvcc emitted it: its PTX, run in an interpreter (tests/cuda/ptx), against the processor's numbers.

The emulator replaces the inline assembly (tensor cores, ldmatrix, cp.async); the interpreter runs it.
"""

import json
import shutil
import sys
from pathlib import Path

import emulated
import numpy as np
import pytest
from worldmodel import _core, machine
from worldmodel.tensor import Tensor

sys.path.append(str(Path(__file__).parents[1] / "core"))
from test_every_op import CALLS, run, works  # noqa: E402

HERE, WHY_NOT = emulated.possible()
if not shutil.which("nvcc"):
    HERE, WHY_NOT = False, "there is no nvcc"
pytestmark = pytest.mark.skipif(not HERE, reason=f"no PTX: {WHY_NOT}")


@pytest.fixture(scope="module", params=[80, 90])
def ptx(request):
    """Launches run the PTX of that compute capability."""
    emulated.use()
    machine.set_device("cuda")
    emulated.interpret(emulated.ptx(request.param))
    yield request.param
    emulated.interpret(None)
    machine.set_device("cpu")


def on_cpu(name, call, wants):
    machine.set_device("cpu")
    try:
        return run(name, call, wants)[:2]
    finally:
        machine.set_device("cuda")


def close(got, want, what, most=3e-5):
    assert got.shape == want.shape and got.dtype == want.dtype, what
    if want.dtype.kind != "f":
        assert (got != want).mean() < 0.01, what
        return
    finite = np.isfinite(want)
    assert np.array_equal(finite, np.isfinite(got)), what
    scale = np.abs(want[finite]).max(initial=1e-2)
    assert np.abs(got - want)[finite].max(initial=0) <= most * scale, what


def within(call) -> float:
    """A processor that multiplies bf16 rounds x as well as the weights; CUDA's default way does not."""
    return 1e-2 if call["kwargs"].get("bf16") else 3e-5


@pytest.mark.parametrize("name", sorted(CALLS))
def test_ops(ptx, name):
    worked = 0
    for call in CALLS[name][:4]:
        machine.set_device("cpu")
        wants = next((w for w in (None, {1}, set()) if works(name, call, w)), "none")
        machine.set_device("cuda")
        if wants == "none":
            continue
        worked += 1
        outs, grads = on_cpu(name, call, wants)
        got, g = run(name, call, wants)[:2]
        for i, (a, b) in enumerate(zip(got, outs, strict=True)):
            close(a, b, f"output {i} of {json.dumps(call)}", within(call))
        for i in grads:
            close(g[i], grads[i], f"gradient {i} of {json.dumps(call)}")
    assert worked


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("way,most", [("split", 2e-6), ("bf16", 1e-2), ("cublas_bf16", 1e-2)])
def test_tensor_cores(ptx, way, most):
    x, w = numbers(70, 96), numbers(40, 96)
    _core.set_matmul(way)
    try:
        got = _core.ops["linear"](Tensor(x), Tensor(w)).numpy()
        turned = _core.ops["linear"](Tensor(x[:33]), Tensor(numbers(36, 96))).numpy()
    finally:
        _core.set_matmul("exact")
    for a, b in ((got, x.astype(float) @ w.T), (turned, x[:33].astype(float) @ numbers(36, 96).T)):
        assert np.abs(a - b).max() < most * np.abs(b).max()


@pytest.mark.parametrize("D,mask", [(32, "full"), (64, "causal")])
def test_attention_on_tensor_cores(ptx, D, mask):
    """And its gradients."""

    def call():
        tensors = [Tensor(numbers(1, 90, 2 * D, seed=i), needs_grad=True) for i in range(3)]
        with _core.Tape() as tape:
            out = _core.ops["attention"](*tensors, heads=2, mask=mask)
        tape.backward(out, Tensor(numbers(1, 90, 2 * D, seed=9)))
        return [out.numpy(), *(t.grad for t in tensors)]

    _core.set_matmul("bf16")
    try:
        fast = call()
    finally:
        _core.set_matmul("exact")
    machine.set_device("cpu")
    right = call()
    machine.set_device("cuda")
    for a, b in zip(fast, right, strict=True):
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()


@pytest.mark.parametrize("way,most", [("split", 3e-6), ("bf16", 2e-2)])
@pytest.mark.parametrize("C,made", [(3, 5), (8, 4)])
def test_convolutions_on_tensor_cores(ptx, way, most, C, made):
    """And their gradients."""

    def call():
        tensors = [Tensor(numbers(1, 6, 7, C), needs_grad=True), Tensor(numbers(made, 3, 3, C), needs_grad=True)]
        with _core.Tape() as tape:
            out = _core.ops["conv2d"](*tensors)
        tape.backward(out, Tensor(numbers(*out.shape, seed=9)))
        return [out.numpy(), *(t.grad for t in tensors)]

    _core.set_matmul(way)
    try:
        fast = call()
    finally:
        _core.set_matmul("exact")
    machine.set_device("cpu")
    right = call()
    machine.set_device("cuda")
    for a, b in zip(fast, right, strict=True):
        assert np.abs(a - b).max() < most * np.abs(b).max()


def test_an_optimiser_step(ptx):
    def steps(device):
        machine.set_device(device)
        w = [Tensor(numbers(40, 30), needs_grad=True), Tensor(numbers(30), needs_grad=True)]
        arena = _core.Arena(tuple(w))
        arena.shadow(0.9)
        for _ in range(2):
            with _core.Tape() as tape:
                loss = _core.ops["mse"](w[0], Tensor(numbers(40, 30, seed=1)))
            tape.backward(loss)
            norm = arena.adamw(lr=0.01, decay=0.1, clip=0.5)[0]
        return [norm, *(np.array(t.numpy()) for t in w), *(arena.part(4, i).numpy() for i in range(2))]

    for a, b in zip(steps("cpu"), steps("cuda"), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-7)


def against_the_processor(name, *arrays, grads=(), **attributes):
    def once(device):
        machine.set_device(device)
        tensors = [Tensor(a.copy(), needs_grad=i in grads) for i, a in enumerate(arrays)]
        with _core.Tape() as tape:
            out = _core.ops[name](*tensors, **attributes)
        if grads:
            tape.backward(out, Tensor(np.ones(out.shape, np.float32)))
        return [out.numpy(), *(tensors[i].grad for i in grads)]

    for i, (a, b) in enumerate(zip(once("cuda"), once("cpu"), strict=True)):
        close(a, b, f"{name}: {i}")


@pytest.mark.parametrize("way", ["exact", "split", "cublas"])
def test_long_sums(ptx, way):
    """More rows than one part of a product, or one piece of a sum, takes."""
    _core.set_matmul(way)
    try:
        against_the_processor("linear", numbers(2100, 5), numbers(6, 5), numbers(6), grads=(0, 1, 2))
    finally:
        _core.set_matmul("exact")
    against_the_processor("sum", numbers(9000), axes=0)


def test_rounded_numbers_and_enlarged_images(ptx):
    against_the_processor("linear", numbers(7, 30), numbers(9, 30), int8=True)
    few_bits = np.rint(numbers(7, 30) * 16) / 16  # bfloat16 holds them: the processor may round x, the device does not
    against_the_processor("linear", few_bits.astype(np.float32), numbers(9, 30), bf16=True)
    against_the_processor("conv2d", numbers(2, 4, 5, 3), numbers(4, 3, 3, 3), grads=(0, 1), upsample=2)


def test_every_kernel_ran(ptx):
    """Last of the module: what nvcc emitted was run by the tests above (those of a template's larger heads too)."""
    lib = emulated.interpreter()
    left = set(lib.ptx_kernels().split()) - set(lib.ptx_ran().split())
    rare = {k for k in left if b"ILi" in k}  # other widths of a template that did run
    assert not left - rare, "\n".join(sorted(k.decode() for k in left - rare))
