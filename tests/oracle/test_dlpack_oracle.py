"""DLPack with PyTorch, both ways: the same memory, alive as long as anybody holds it."""

import gc

import numpy as np
import pytest
from worldmodel import Tensor, _core, from_dlpack, ops

torch = pytest.importorskip("torch", reason="the live oracle needs PyTorch: pip install '.[oracle]'")


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32"])
def test_ours_in_torch(dtype):
    t = Tensor(np.arange(6).astype(dtype).reshape(2, 3), copy=True)
    there = torch.from_dlpack(t)
    assert there.shape == (2, 3) and str(there.dtype) == f"torch.{dtype}" and there.data_ptr() == t.numpy().ctypes.data
    there[1, 2] = 77
    assert t.numpy()[1, 2] == 77
    del t
    gc.collect()
    assert there.sum().item() == 0 + 1 + 2 + 3 + 4 + 77


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int32", "bfloat16"])
def test_torchs_here(dtype):
    there = torch.arange(6).to(getattr(torch, dtype)).reshape(2, 3)
    t = from_dlpack(there)
    assert t.shape == (2, 3) and t.dtype == dtype
    there[0, 0] = 5
    now = ops.cast(t, to="float32").numpy() if dtype == "bfloat16" else t.numpy()
    assert now[0, 0] == 5 and now[1, 2] == 5
    del there, now
    gc.collect()
    assert float(ops.cast(t, to="float32").numpy().sum()) == 5 + 1 + 2 + 3 + 4 + 5


def test_bfloat16_weights_of_torch_train_nothing_but_compute():
    w = torch.randn(4, 8).to(torch.bfloat16)
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    y = ops.linear(Tensor(x), from_dlpack(w))
    np.testing.assert_allclose(y.numpy(), x @ w.float().numpy().T, rtol=1e-5, atol=1e-5)
    back = torch.from_dlpack(from_dlpack(w))
    assert back.data_ptr() == w.data_ptr() and back.dtype == torch.bfloat16


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="not contiguous"):
        from_dlpack(torch.zeros(4, 4).T[:, :2])
    with pytest.raises(TypeError, match="float32, bfloat16, uint8 or int32"):
        from_dlpack(torch.zeros(3, dtype=torch.float64))
    with pytest.raises((BufferError, RuntimeError)):
        from_dlpack(torch.zeros(3, requires_grad=True))
    with pytest.raises(ValueError, match="7 axes"):
        from_dlpack(torch.zeros((1,) * 7))


def test_a_weight_that_torch_writes_into_is_packed_anew():
    w = torch.randn(32, 16)
    x, ours = Tensor(np.eye(16, dtype=np.float32)), from_dlpack(w)
    for _ in range(3):
        w.normal_()
        np.testing.assert_allclose(ops.linear(x, ours).numpy(), w.numpy().T, atol=1e-6)


def test_handing_back_and_forth_leaks_nothing():
    t = ops.silu(Tensor(np.ones(10_000, np.float32)))
    gc.collect()
    before = _core.pool()["bytes_in_use"]
    for _ in range(200):
        from_dlpack(torch.from_dlpack(t))
    gc.collect()
    assert _core.pool()["bytes_in_use"] == before
