"""bounds: our error against float64 beside PyTorch's own in float32."""

import numpy as np
import torch


def close(got, exact, single, times=2, floor=3e-7):
    """Error against float64 at most so many times PyTorch's own in float32, and a few units in the last place."""
    exact, single = (np.asarray(a.detach().double()) for a in (exact, single))
    assert got.shape == exact.shape
    top = np.abs(exact).max(initial=0)
    for norm in (lambda d: np.sqrt(np.mean(d**2)), lambda d: np.abs(d).max(initial=0)):
        error, own = norm(got - exact), norm(single - exact)
        assert error <= times * own + floor * top, f"error {error:.3g}, PyTorch's own {own:.3g}, of {top:.3g}"


def both(f, *arrays):
    """f(dtype, *tensors) in float64 and in float32."""
    return [f(d, *[torch.tensor(a, dtype=d) for a in arrays]) for d in (torch.float64, torch.float32)]


def first(x):
    """Channels last -> channels first, for PyTorch."""
    return np.ascontiguousarray(np.moveaxis(x, -1, -3))
