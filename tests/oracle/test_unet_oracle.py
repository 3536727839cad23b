"""Losses and every gradient of the UNet against its PyTorch twin in float64; our error beside PyTorch's own in
float32."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live oracle needs PyTorch: pip install '.[oracle]'")

import tiny_dit  # noqa: E402
import tiny_unet  # noqa: E402
import unet_twin  # noqa: E402
from worldmodel import Tape  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "dumps"))
import make_unet  # noqa: E402


def gradients_of(model, window, stream, dtype):
    twin = unet_twin.Twin(model, unet_twin.weights_of(model, dtype))
    draws = {k: torch.tensor(v) for k, v in tiny_unet.draws(model, window, stream).items()}
    losses = unet_twin.losses(twin, window, draws, dtype)
    sum(losses.values()).backward()
    grads = {n: unet_twin.as_ours(n, w.grad.double()) for n, w in twin.w.items() if w.grad is not None}
    return {k: v.item() for k, v in losses.items()}, grads


@pytest.mark.parametrize("options", [{}, dict(widths=(8, 64), depths=(2, 1)), dict(rollout=1), dict(patch=1)])
def test_losses_and_gradients_match_pytorch(kernels, options):
    model = tiny_unet.make(**options)
    window, stream = tiny_unet.window_of(1, 6, model.window), tiny_dit.stream_of(1, 6)
    with Tape() as tape:
        ours = tiny_unet.losses(model, window, stream)
        total, *rest = ours.values()
        for part in rest:
            total = total + part
    tape.backward(total)
    exact, want = gradients_of(model, window, stream, torch.float64)
    single, theirs = gradients_of(model, window, stream, torch.float32)
    assert set(ours) == set(exact)
    for k in exact:
        error, floor = abs(float(ours[k]) - exact[k]), abs(single[k] - exact[k])
        assert error <= 2 * floor + 1e-6 * abs(exact[k]), f"{k}: {error:.3g}, PyTorch's own {floor:.3g}"
    for name, t in model.named_parameters():
        size = np.abs(want[name]).max()
        error, floor = (np.abs(g - want[name]).max() / size for g in (t.grad, theirs[name]))
        assert error <= 3 * floor + 2e-5, f"{name}: {error:.3g}, PyTorch's own {floor:.3g}"


def test_the_dump_is_what_the_script_writes():
    dump = np.load(make_unet.DUMP)
    np.testing.assert_allclose(make_unet.trained()["losses"], dump["losses"], rtol=1e-6)
