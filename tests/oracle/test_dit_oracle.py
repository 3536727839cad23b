"""Losses and every gradient of the DiT against its PyTorch twin in float64; our error beside PyTorch's own in
float32."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live oracle needs PyTorch: pip install '.[oracle]'")

import tiny_dit  # noqa: E402
from dit_training import twin_losses, twin_of  # noqa: E402
from worldmodel import Tape  # noqa: E402


def gradients_of(model, window, stream, dtype):
    twin = twin_of(model, dtype)
    losses = twin_losses(twin, model, window, stream, dtype)
    sum(losses.values()).backward()
    return {k: v.item() for k, v in losses.items()}, {n: w.grad.double().numpy() for n, w in twin.w.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(change=False, stem=0),
        dict(objective=dict(weight="ramp", bootstrap=0.5)),
        dict(layers=5, time_every=1),
    ],
)
def test_losses_and_gradients_match_pytorch(kernels, options):
    model = tiny_dit.make(**options)
    window, stream = tiny_dit.window_of(np.random.default_rng(1), 6), tiny_dit.stream_of(1, 6)
    with Tape() as tape:
        ours = model.losses(window, stream)
        total = ours["frame"] + ours["reward"] + ours["termination"]
    tape.backward(total)
    exact, want = gradients_of(model, window, stream, torch.float64)
    single, theirs = gradients_of(model, window, stream, torch.float32)
    for k in exact:
        error, floor = abs(float(ours[k]) - exact[k]), abs(single[k] - exact[k])
        assert error <= 2 * floor + 1e-6 * abs(exact[k]), f"{k}: {error:.3g}, PyTorch's own {floor:.3g}"
    for name, t in model.named_parameters():
        size = np.abs(want[name]).max()
        error, floor = (
            np.abs(t.grad - want[name]).max() / size,
            np.abs(theirs[name] - want[name]).max() / size,
        )
        assert error <= 3 * floor + 2e-5, f"{name}: {error:.3g}, PyTorch's own {floor:.3g}"
