"""Tensor's operators: x + y, 2 * x, x @ w, x[1:], x.reshape(...): each one op, recorded like any other.

The type itself (sharing with NumPy, DLPack, gradients) is csrc/binding/tensor.c; this file gives it Python's
syntax.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from . import _core

Tensor = _core.Tensor
Tape = _core.Tape
Plan = _core.Plan
from_dlpack = _core.from_dlpack
_ops = _core.ops


class no_grad:
    """`with no_grad():` nothing is recorded, so nothing gets a gradient."""

    def __enter__(self) -> None:
        self._tape = _core._pause_recording()

    def __exit__(self, *_: object) -> None:
        _core._resume_recording(self._tape)


def checkpoint(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """function(*tensors); where a tape records gradients, what lies between them and the result is forgotten
    and computed again in backward: less memory, one more forward.  Does not nest."""
    tape = _core._pause_recording()
    _core._resume_recording(tape)
    wanted = tape is not None and any(t.needs_grad for t in tensors)
    return tape.checkpoint(function, *tensors) if wanted else function(*tensors)


def _operand(value: Any, beside: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value, np.float32), device=beside.device)


def _add(x: Tensor, y: Any) -> Tensor:
    return _ops["scale_shift"](x, 1.0, float(y)) if isinstance(y, Real) else _ops["add"](x, _operand(y, x))


def _sub(x: Tensor, y: Any) -> Tensor:
    return _ops["scale_shift"](x, 1.0, -float(y)) if isinstance(y, Real) else _ops["sub"](x, _operand(y, x))


def _rsub(x: Tensor, y: Any) -> Tensor:
    return _ops["scale_shift"](x, -1.0, float(y)) if isinstance(y, Real) else _ops["sub"](_operand(y, x), x)


def _mul(x: Tensor, y: Any) -> Tensor:
    return _ops["scale_shift"](x, float(y), 0.0) if isinstance(y, Real) else _ops["mul"](x, _operand(y, x))


def _div(x: Tensor, y: Any) -> Tensor:
    return _ops["div"](x, _operand(y, x))


def _rdiv(x: Tensor, y: Any) -> Tensor:
    return _ops["div"](_operand(y, x), x)


def _pow(x: Tensor, y: Any) -> Tensor:
    if not isinstance(y, Real):
        raise TypeError(f"Tensor ** power: the power must be a number, not {type(y).__name__}")
    return _ops["square"](x) if y == 2 else _ops["pow"](x, float(y))


def _matmul(x: Tensor, w: Tensor) -> Tensor:
    """x (..., K) @ w (K, N).  Weights of layers are stored (N, K): use ops.linear for those, without a
    transposition."""
    if not isinstance(w, Tensor) or w.ndim != 2:
        raise TypeError("Tensor @ w: w must be a Tensor of two axes")
    return _ops["linear"](x, _ops["permute"](w, (1, 0)))


def _index(x: Tensor, key: Any) -> Tensor:
    """Integers, slices and ... on leading axes; a Tensor or integer array gathers rows."""
    if isinstance(key, Tensor):
        return _ops["gather"](x, key)
    if isinstance(key, (np.ndarray, list)):
        return _ops["gather"](x, Tensor(np.asarray(key), dtype="int32", device=x.device))
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys = keys[:at] + (slice(None),) * (x.ndim - len(keys) + 1) + keys[at + 1 :]
    if len(keys) > x.ndim:
        raise IndexError(f"Tensor: {len(keys)} indices for {x.ndim} axes")
    shape: list[int] = []
    for axis, k in enumerate(keys):
        n = x.shape[axis]
        if isinstance(k, slice):
            start, stop, step = k.indices(n)
            if step < 1:
                raise IndexError(f"Tensor: the step of a slice must be at least 1, not {step}")
            stop = max(stop, start)
            if (start, stop, step) != (0, n, 1):
                x = _ops["slice"](x, axis, start, stop, step)
            shape.append(x.shape[axis])
            continue
        i = k.__index__()
        if not -n <= i < n:
            raise IndexError(f"Tensor: index {i} on axis {axis} of length {n}")
        x = _ops["slice"](x, axis, i % n, i % n + 1, 1)
        shape.append(0)
    kept = tuple(n for n in shape if n) + x.shape[len(keys) :]
    return _ops["reshape"](x, kept) if kept != x.shape else x


def _assign(x: Tensor, key: Any, value: Any) -> None:
    """x[key] = value as NumPy means it; of a CUDA tensor the whole goes down, is changed and goes up again."""
    if x.device == "cpu":
        x.numpy()[key] = value
        return
    numbers = np.array(x.numpy())
    numbers[key] = value
    x.copy_(numbers)


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same numbers under another shape; one length may be -1."""
    return _ops["reshape"](self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)


def _rebuild(array: np.ndarray, needs_grad: bool) -> Tensor:
    return Tensor(array, needs_grad=needs_grad, copy=True)


def _iterate(x: Tensor):
    return (x[i] for i in range(len(x)))


for _name, _function in {
    "__add__": _add,
    "__radd__": _add,
    "__sub__": _sub,
    "__rsub__": _rsub,
    "__mul__": _mul,
    "__rmul__": _mul,
    "__truediv__": _div,
    "__rtruediv__": _rdiv,
    "__pow__": _pow,
    "__matmul__": _matmul,
    "__neg__": lambda x: _ops["scale_shift"](x, -1.0, 0.0),
    "__getitem__": _index,
    "__setitem__": _assign,
    "__iter__": _iterate,
    "__float__": lambda x: float(x.item()),
    "__int__": lambda x: int(x.item()),
    "__reduce__": lambda x: (_rebuild, (np.array(x.numpy()), x.needs_grad)),
    "__array_ufunc__": None,
    "reshape": _reshape,
    "detach": lambda self: _ops["stop_gradient"](self),
    "sum": lambda self, axes=(), keepdims=False: _ops["sum"](self, axes, keepdims),
    "mean": lambda self, axes=(), keepdims=False: _ops["mean"](self, axes, keepdims),
    "tolist": lambda self: self.numpy().tolist(),
}.items():
    setattr(Tensor, _name, _function)
