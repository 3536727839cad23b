"""conv2d and the norms against PyTorch: error against float64 at most twice PyTorch's own, thrice in gradients.

Convolutions by Winograd round otherwise than PyTorch's direct ones: here they are held to the same bound.
"""

import numpy as np
import pytest
from worldmodel import _core

torch = pytest.importorskip("torch", reason="the oracle tests compare with PyTorch: pip install '.[oracle]'")
F = torch.nn.functional


def in_torch(call, arrays, seed, dtype):
    inputs = [torch.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
    out = call(*inputs)
    out.backward(torch.tensor(seed, dtype=dtype))
    return [out.detach().double().numpy(), *(x.grad.double().numpy() for x in inputs)]


def compare(call, torch_call, arrays, seed):
    exact, theirs = (in_torch(torch_call, arrays, seed, d) for d in (torch.float64, torch.float32))
    inputs = [_core.Tensor(a, needs_grad=True) for a in arrays]
    with _core.Tape() as tape:
        out = call(*inputs)
    tape.backward(out, _core.Tensor(seed))
    for i, (o, t, e) in enumerate(zip([out.numpy(), *(x.grad for x in inputs)], theirs, exact, strict=True)):
        allowed = 3 if i else 2
        rms = [float(np.sqrt(np.mean((x - e) ** 2))) for x in (o, t)]
        top = [float(np.abs(x - e).max()) for x in (o, t)]
        floor = 1e-7 * float(np.abs(e).max())
        assert rms[0] <= allowed * rms[1] + floor / 4, f"{'gradient' if i else 'output'} {i}: rms {rms}"
        assert top[0] <= allowed * top[1] + floor, f"{'gradient' if i else 'output'} {i}: largest {top}"


def normal(*shape, seed=0):
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("B, H, W, C, N, k, stride, upsample", [
    (2, 32, 32, 64, 64, 3, 1, 1), (2, 16, 16, 32, 32, 3, 1, 1), (2, 8, 8, 256, 128, 3, 1, 1),
    (1, 13, 9, 16, 20, 3, 1, 1), (2, 16, 16, 64, 64, 3, 2, 1), (2, 8, 8, 64, 32, 3, 1, 2),
    (2, 24, 24, 15, 64, 3, 1, 1), (2, 16, 16, 128, 64, 1, 1, 1)])
@pytest.mark.parametrize("inputs", ["normal", "positive"])
def test_conv2d_errs_no_more_than_twice_as_much(kernels, B, H, W, C, N, k, stride, upsample, inputs):
    x, b = normal(B, H, W, C), normal(N, seed=2)
    w = normal(N, k, k, C, seed=1) / np.float32(np.sqrt(k * k * C))
    x = np.maximum(x, 0) if inputs == "positive" else x

    def torch_call(x, w, b):
        x = x.permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=upsample, mode="nearest") if upsample > 1 else x
        w = w.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, w, b, stride=stride, padding=k // 2).permute(0, 2, 3, 1)

    def call(x, w, b):
        return _core.ops["conv2d"](x, w, b, stride=stride, upsample=upsample)

    OH, OW = (H * upsample - 1) // stride + 1, (W * upsample - 1) // stride + 1
    compare(call, torch_call, [x, w, b], normal(B, OH, OW, N, seed=3))


@pytest.mark.parametrize("C", [64, 384, 777])
def test_norms_err_no_more_than_twice_as_much(kernels, C):
    op = _core.ops
    x, w, b, seed = normal(8, 50, C), normal(C), normal(C, seed=1), normal(8, 50, C, seed=2)
    compare(op["layer_norm"], lambda x, w, b: F.layer_norm(x, (C,), w, b), [x, w, b], seed)
    compare(op["rms_norm"], lambda x, w: F.rms_norm(x, (C,), w, eps=1e-6), [x, w], seed)
    cond = normal(8, 3 * C)
    compare(lambda x, c: op["adaln"](x, c, c, scale_chunk=1, shift_chunk=2),
            lambda x, c: F.layer_norm(x, (C,), eps=1e-6) * (1 + c[:, None, C : 2 * C]) + c[:, None, 2 * C :],
            [x, cond], seed)
    compare(lambda r, x, c: op["gate_residual"](r, x, c, gate_chunk=1),
            lambda r, x, c: r + c[:, None, C : 2 * C] * x, [normal(8, 50, C, seed=5), x, cond], seed)


@pytest.mark.parametrize("H, C, groups", [(32, 64, 2), (8, 96, 3), (16, 30, 5)])
@pytest.mark.parametrize("act", ["none", "silu"])
def test_group_norms_err_no_more_than_twice_as_much(kernels, H, C, groups, act):
    x, seed = normal(3, H, H, C), normal(3, H, H, C, seed=2)

    def grouped(x, w=None, b=None):
        return F.group_norm(x.permute(0, 3, 1, 2), groups, w, b)

    def end(z):
        return (F.silu(z) if act == "silu" else z).permute(0, 2, 3, 1)

    compare(lambda x, w, b: _core.ops["group_norm"](x, w, b, groups=groups, act=act),
            lambda x, w, b: end(grouped(x, w, b)), [x, normal(C), normal(C, seed=1)], seed)
    compare(lambda x, c: _core.ops["ada_group_norm"](x, c, c, groups=groups, act=act, shift_chunk=1),
            lambda x, c: end(grouped(x) * (1 + c[:, :C, None, None]) + c[:, C:, None, None]),
            [x, normal(3, 2 * C)], seed)
