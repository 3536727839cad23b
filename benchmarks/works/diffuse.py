"""diffuse: noised frames, random numbers, a solver step, resized bytes, recurrent sequences, against PyTorch."""

from collections.abc import Iterator

import numpy as np
from measure import Work
from works.linear import numbers, ours, torch_module
from worldmodel import _core

op = _core.ops


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    yield from noising(torch, 16, 8, 64)
    yield from draws(torch, 16, 1 << 16)
    yield from step(torch, 64, 64)
    if quick:
        return
    yield from resizing(torch, 16, (240, 320), 64)
    for name in ("lstm", "gru"):
        yield from recurrent(torch, name, 32, 16, 512)


def streams(n: int) -> "_core.Tensor":
    return ours(np.random.default_rng(0).integers(0, 1 << 30, (n, 4)).astype(np.int32))


def noising(torch, B: int, T: int, size: int) -> Iterator[Work]:
    """uint8 frames -> noisy and clean floats: a byte read and two floats written a number."""
    frames = np.random.default_rng(0).integers(0, 256, (B, T, size, size, 3)).astype(np.uint8)
    level = np.random.default_rng(1).random((B, T), np.float32)
    f, s, tau = ours(frames), streams(B), ours(level)
    peers = {}
    if torch:
        tf, at = torch.from_numpy(frames), torch.from_numpy(level)[..., None, None, None]

        def call():
            x = tf.float() / 127.5 - 1
            return at * x + (1 - at) * torch.randn_like(x), x

        peers["torch"] = call
    traffic = frames.size * 9
    yield Work(f"noise {B}x{T} frames {size}x{size}", "GB/s", traffic, lambda: op["noise_frames"](f, s, tau),
               peers, goal=2.0, limit="copy")


def draws(torch, S: int, n: int) -> Iterator[Work]:
    s, peer = streams(S), {}
    for name in ("uniform", "normal"):
        if torch:
            draw = {"uniform": torch.rand, "normal": torch.randn}[name]
            peer = {"torch": lambda f=draw: f(S, n)}
        yield Work(f"{S * n / 1e6:.1f}M {name} numbers", "GB/s", 4.0 * S * n,
                   lambda f=op[name]: f(s, shape=(S, n)), peer, goal=1.0, limit="copy")


def step(torch, B: int, size: int) -> Iterator[Work]:
    y, x = numbers(B, size, size, 3), numbers(B, size, size, 3)
    level = np.random.default_rng(0).uniform(0.1, 0.5, B).astype(np.float32)
    new = level + np.float32(0.25)
    args, peers = [ours(a) for a in (y, x, level, new)], {}
    if torch:
        ty, tx, a, b = (torch.from_numpy(t) for t in (y, x, level, new))
        a, b = a[:, None, None, None], b[:, None, None, None]
        peers["torch"] = lambda: ty + (b - a) * (tx - ty) / (1 - a)
    yield Work(f"Euler step, {B} frames {size}x{size}", "GB/s", 3.0 * y.nbytes, lambda: op["euler_step"](*args),
               peers, goal=2.0, limit="copy")


def resizing(torch, B: int, size: tuple[int, int], to: int) -> Iterator[Work]:
    """uint8 (B, H, W, 3) -> (B, to, to, 3); PyTorch in its own layout, rounded back to bytes."""
    frames = np.random.default_rng(0).integers(0, 256, (B, *size, 3)).astype(np.uint8)
    f = ours(frames)
    interpolate = torch and torch.nn.functional.interpolate
    for mode in ("area", "bilinear"):
        peers = {}
        if torch:
            tf = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
            options = {"size": (to, to), "mode": mode}
            peers["torch"] = lambda tf=tf, o=options: interpolate(tf.float(), **o).round().byte()
        yield Work(f"resize {mode} {size[0]}x{size[1]} to {to}", "GB/s", float(frames.nbytes),
                   lambda m=mode: op["resize"](f, height=to, width=to, mode=m), peers, limit="copy")


def recurrent(torch, name: str, B: int, T: int, H: int) -> Iterator[Work]:
    gates = {"lstm": 4, "gru": 3}[name]
    scale = np.float32(H**-0.5)
    x, w_ih, w_hh = numbers(B, T, H), numbers(gates * H, H) * scale, numbers(gates * H, H, 1)[..., 0] * scale
    X, W, U = ours(x), ours(w_ih), ours(w_hh)
    peers = {}
    if torch:
        layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](H, H, batch_first=True)
        tx = torch.from_numpy(x)
        peers["torch"] = torch.no_grad()(lambda: layer(tx))
    flop = 2.0 * B * T * 2 * gates * H * H
    yield Work(f"{name} {B}x{T}x{H}", "GFLOP/s", flop, lambda: op[name](op["linear"](X, W), U), peers)
