"""Modules: parameters with names, and the layers that the models are made of.

A module's tensors are its attributes; names are the path of attributes to them
("blocks.0.attention.qkv.weight"), as in PyTorch, so that weights of other projects map one to one.  Tensors
that need a gradient are parameters, the others buffers; both are saved.  Names that begin with "_" are
neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from . import machine
from . import ops as _ops
from .tensor import Tensor

ops: Any = _ops

# ---- initialisers -----------------------------------------------------------------------------------


_blanks: list[list[int]] = []


@contextmanager
def blank(numbers: int) -> Iterator[None]:
    """Inside, initialisers make zeros at once, and no more than so many numbers in all: for modules that a file will
    fill, whose sizes come from that file.  Raises ValueError beyond."""
    _blanks.append([numbers])
    try:
        yield
    finally:
        _blanks.pop()


def _blank(shape: Sequence[int]) -> np.ndarray | None:
    """Zeros inside `blank`, else None."""
    if not _blanks:
        return None
    _blanks[-1][0] -= math.prod(shape)
    if _blanks[-1][0] < 0:
        raise ValueError("the sizes in the file ask for more numbers than it holds")
    return np.zeros(shape, np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32) if (made := _blank(shape)) is None else made


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32) if (made := _blank(shape)) is None else made


def normal(*shape: int, std: float = 0.02) -> np.ndarray:
    if (made := _blank(shape)) is not None:
        return made
    return (machine.generator().standard_normal(shape) * std).astype(np.float32)


def fan_in_uniform(*shape: int) -> np.ndarray:
    """U(-b, b), b = 1/sqrt(fan in): PyTorch's default for linear and convolution weights (Kaiming, a = sqrt
    5)."""
    return uniform(*shape, bound=1.0 / math.sqrt(max(1, math.prod(shape[1:]))))


def xavier_uniform(*shape: int) -> np.ndarray:
    """U(-b, b), b = sqrt(6 / (fan in + fan out)) (Glorot & Bengio 2010)."""
    area = math.prod(shape[1:-1])
    return uniform(*shape, bound=math.sqrt(6.0 / max(1, area * (shape[-1] + shape[0]))))


def uniform(*shape: int, bound: float) -> np.ndarray:
    """U(-bound, bound)."""
    if (made := _blank(shape)) is not None:
        return made
    return machine.generator().uniform(-bound, bound, shape).astype(np.float32)


def orthogonal(*shape: int, gain: float = 1.0) -> np.ndarray:
    """Rows (or columns) orthonormal, from the QR of a Gaussian (Saxe et al. 2013)."""
    if (made := _blank(shape)) is not None:
        return made
    rows, cols = shape[0], math.prod(shape[1:])
    a = machine.generator().standard_normal((max(rows, cols), min(rows, cols)))
    q, r = np.linalg.qr(a)
    q = q * np.sign(np.diag(r))
    return (gain * (q.T if rows < cols else q)).reshape(shape).astype(np.float32)


_storages: list[str] = []


@contextmanager
def stored(dtype: str) -> Iterator[None]:
    """Inside, parameters of two axes are made in this dtype, float32 or bfloat16; bfloat16 ones are not trained."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"stored: dtype must be float32 or bfloat16, got {dtype!r}")
    _storages.append(dtype)
    try:
        yield
    finally:
        _storages.pop()


def parameter(values: np.ndarray) -> Tensor:
    """A tensor of its own that needs a gradient."""
    if values.ndim == 2 and _storages and _storages[-1] == "bfloat16":
        return ops.cast(Tensor(values), "bfloat16")
    return Tensor(values, needs_grad=True, copy=True)


def values_of(t: Tensor) -> np.ndarray:
    """A copy of a tensor's numbers; of bfloat16, which NumPy lacks, their bits as uint16."""
    return np.array(memoryview(t.to("cpu")) if t.dtype == "bfloat16" else t.numpy())


def view_of(t: Tensor) -> np.ndarray:
    """As values_of, but not a copy where the tensor lies in this machine's memory."""
    if t.device != "cpu":
        return values_of(t)
    return np.asarray(memoryview(t)) if t.dtype == "bfloat16" else t.numpy()


def write(t: Tensor, values: np.ndarray) -> None:
    """Overwrite a tensor with an array of its shape; a bfloat16 one with bits (uint16) or with numbers, rounded."""
    if t.dtype != "bfloat16":
        t.copy_(values)
        return
    if values.dtype != np.uint16:
        rounded = ops.cast(Tensor(np.array(values, np.float32), device="cpu"), "bfloat16")
        values = np.asarray(memoryview(rounded))
    device = t.device
    bits = np.asarray(memoryview(t.to_("cpu")))
    bits[...] = values
    del bits  # or the tensor could not move
    t.to_(device)


def buffer(values: np.ndarray) -> Tensor:
    """A tensor of its own that is saved with the module but not trained."""
    return Tensor(values, copy=True)


# ---- Module -----------------------------------------------------------------------------------------


def _children(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Module):
        yield from value.named_tensors(name + ".")
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from _children(v, f"{name}.{i}")
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from _children(v, f"{name}.{k}")


def _submodules(value: Any, name: str) -> Iterator[tuple[str, Module]]:
    if isinstance(value, Module):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        for k, v in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _submodules(v, f"{name}.{k}")


def _everything(value: Any) -> Iterator[Tensor]:
    """Every tensor of a module, those of private attributes too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Module, dict, list, tuple)):
        inside = vars(value) if isinstance(value, Module) else value
        for v in inside.values() if isinstance(inside, dict) else inside:
            yield from _everything(v)


class Module:
    """The base of every layer and model: subclass it, set tensors and modules as attributes, write
    forward."""

    _int8: frozenset[str] = frozenset()
    _bf16: frozenset[str] = frozenset()
    """Names of own weights whose products run in whole numbers, or in bfloat16 (quantize.py)."""

    def _rounded(self, name: str) -> dict[str, bool]:
        """What ops.linear and its kin take for the product of this weight."""
        return {"int8": name in self._int8, "bf16": name in self._bf16}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} has no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every parameter and buffer, in the order they were set."""
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from _children(value, prefix + name)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, "", and all below it."""
        yield prefix, self
        for name, value in vars(self).items():
            if not name.startswith("_"):
                for inner, module in _submodules(value, name):
                    yield from module.named_modules(f"{prefix}.{inner}" if prefix else inner)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for name, t in self.named_tensors():
            if t.needs_grad and id(t) not in seen:
                seen.add(id(t))
                yield name, t

    def parameters(self) -> list[Tensor]:
        return [t for _, t in self.named_parameters()]

    def parameter_count(self) -> int:
        return sum(t.size for t in self.parameters())

    def to(self, device: str) -> Self:
        """Move every tensor, tables included, to 'cpu' or 'cuda', in place.  Make optimisers and samplers afterwards.

        Raises RuntimeError, naming CUDA's status, if there is none; ValueError if a tensor's numbers are shared: by an
        optimiser's arena, a view or an array.
        """
        for t in {id(t): t for t in _everything(self)}.values():
            t.to_(device)
        return self

    def zero_grad(self) -> None:
        for t in self.parameters():
            t.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every tensor by name; bfloat16 as bits (values_of)."""
        return {name: values_of(t) for name, t in self.named_tensors()}

    def views(self) -> dict[str, np.ndarray]:
        """state_dict without copying: for writing them to a file at once."""
        return {name: view_of(t) for name, t in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> None:
        """Overwrite tensors by name.

        Raises KeyError listing missing and unknown names (strict), ValueError listing what is misshapen or no
        number; then nothing has been changed.
        """
        mine = dict(self.named_tensors())
        state = {n: np.asarray(a) for n, a in state.items()}
        missing, unknown = [n for n in mine if n not in state], [n for n in state if n not in mine]
        if strict and (missing or unknown):
            raise KeyError(f"load_state_dict: missing {missing or 'nothing'}; unknown {unknown or 'nothing'}")
        wrong = [
            f"{n}: {state[n].shape} in the file, {t.shape} here"
            for n, t in mine.items()
            if n in state and state[n].shape != t.shape
        ]
        if wrong:
            raise ValueError("load_state_dict: shapes differ: " + "; ".join(wrong))
        if bad := [n for n in mine if n in state and state[n].dtype.kind not in "fiub"]:
            raise ValueError(f"load_state_dict: these are no numbers: {bad}")
        for n, t in mine.items():
            if n in state:
                write(t, state[n])

    def save(self, path: str) -> None:
        """Write the tensors to a safetensors file, atomically."""
        from .checkpoint import write_tensors

        write_tensors(path, self.views())

    def load(self, path: str, strict: bool = True) -> None:
        """Read the tensors from a safetensors file; errors as load_state_dict's."""
        from .checkpoint import read_tensors

        self.load_state_dict(read_tensors(path, mapped=True)[0], strict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameter_count():,} parameters)"


class Sequential(Module):
    """Modules or functions, one after the other; names are "0", "1", ..."""

    def __init__(self, *layers: Callable[[Tensor], Tensor]):
        self._layers = layers
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return x


# ---- layers -----------------------------------------------------------------------------------------


class Linear(Module):
    """act(x weight^T + bias) over the last axis.  weight (features_out, features_in)."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        bias: bool = True,
        act: str = "none",
        init: Callable[..., np.ndarray] = fan_in_uniform,
    ):
        self.weight = parameter(init(features_out, features_in))
        self.bias = parameter(zeros(features_out)) if bias else None
        self._act = act

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias, act=self._act, **self._rounded("weight"))


class Conv2d(Module):
    """Convolution of x (B, H, W, features_in), channels last; weight (features_out, kernel, kernel,
    features_in). padding -1 keeps the size at stride 1."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int = 3,
        stride: int = 1,
        upsample: int = 1,
        padding: int = -1,
        bias: bool = True,
        act: str = "none",
        init: Callable[..., np.ndarray] = fan_in_uniform,
    ):
        self.weight = parameter(init(features_out, kernel, kernel, features_in))
        self.bias = parameter(zeros(features_out)) if bias else None
        self._how = {"stride": stride, "upsample": upsample, "padding": padding, "act": act}

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return ops.conv2d(x, self.weight, self.bias, residual, **self._how)


class LayerNorm(Module):
    """Zero mean and unit variance over the last axis, then weight and bias (Ba et al. 2016)."""

    def __init__(self, features: int, eps: float = 1e-5, affine: bool = True):
        self.weight = parameter(ones(features)) if affine else None
        self.bias = parameter(zeros(features)) if affine else None
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self._eps)


class RMSNorm(Module):
    """x / sqrt(mean x^2 + eps) over the last axis, times weight (Zhang & Sennrich 2019)."""

    def __init__(self, features: int, eps: float = 1e-6, affine: bool = True):
        self.weight = parameter(ones(features)) if affine else None
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self._eps)


class GroupNorm(Module):
    """Zero mean and unit variance over space and each group of channels (Wu & He 2018), channels last."""

    def __init__(self, groups: int, features: int, eps: float = 1e-5, affine: bool = True):
        self.weight = parameter(ones(features)) if affine else None
        self.bias = parameter(zeros(features)) if affine else None
        self._groups, self._eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm(x, self.weight, self.bias, groups=self._groups, eps=self._eps)


class Embedding(Module):
    """A row of a table (rows, features) for every index."""

    def __init__(self, rows: int, features: int, std: float = 1.0):
        self.weight = parameter(normal(rows, features, std=std))

    def forward(self, index: Tensor) -> Tensor:
        return ops.embedding(self.weight, index)


class MLP(Module):
    """Linear layers with an activation after every one but the last."""

    def __init__(self, *features: int, act: str = "silu", zero_last: bool = False):
        last = len(features) - 2
        self.layers = [
            Linear(
                features[i],
                features[i + 1],
                act="none" if i == last else act,
                init=zeros if zero_last and i == last else fan_in_uniform,
            )
            for i in range(len(features) - 1)
        ]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class SwiGLU(Module):
    """down(silu(x w1) * (x w2)) (Shazeer 2020); hidden features by default 8/3 of the input's, to a multiple
    of 32."""

    def __init__(self, features: int, hidden: int | None = None):
        hidden = hidden or (features * 8 // 3 + 31) // 32 * 32
        self.up = parameter(fan_in_uniform(2 * hidden, features))
        self.down = Linear(hidden, features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(ops.swiglu(x, self.up))


class AdaLN(Module):
    """x + gate f(norm(x) (1 + scale) + shift); shift, scale and gate are a linear map of a condition that
    starts at 0, so that f is silent at first: AdaLN-Zero (Peebles & Xie 2023)."""

    def __init__(self, features: int, condition_features: int, eps: float = 1e-6):
        self.modulation = Linear(condition_features, 3 * features, init=zeros)
        self._eps = eps

    def forward(self, x: Tensor, condition: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """x (..., features), condition (G..., condition_features): one for a sample, a frame or a token."""
        m = self.modulation(condition)
        h = f(ops.adaln(x, m, m, scale_chunk=1, shift_chunk=0, eps=self._eps))
        return ops.gate_residual(x, h, m, gate_chunk=2)


class Attention(Module):
    """Attention of x (..., N, features) to itself, or to a context (Vaswani et al. 2017), RMS norm and a
    learned scale on queries and keys (Dehghani et al. 2023), rotary positions if tables are given.

    kv_heads: that many heads of keys and values, each for several of queries.  mask, window, frame: as in
    ops.attention. context_features: attend to a context (..., M, context_features) instead.
    """

    def __init__(
        self,
        features: int,
        heads: int,
        kv_heads: int = 0,
        mask: str = "full",
        window: int = 0,
        frame: int = 0,
        context_features: int = 0,
    ):
        if heads < 1 or features % heads or (kv_heads and heads % kv_heads):
            raise ValueError(
                f"Attention: heads must divide features {features}, kv_heads heads; got {heads}, {kv_heads}"
            )
        width = features // heads
        kv = (kv_heads or heads) * width
        if context_features:
            self.q, self.kv = (
                Linear(features, features, bias=False),
                Linear(context_features, 2 * kv, bias=False),
            )
        else:
            self.qkv = Linear(features, features + 2 * kv, bias=False)
        self.q_scale, self.k_scale = parameter(ones(width)), parameter(ones(width))
        self.out = Linear(features, features)
        self._heads, self._kv_heads, self._kv, self._crosses = (
            heads,
            kv_heads or heads,
            kv,
            bool(context_features),
        )
        self._how = {"mask": mask, "window": window, "frame": frame}

    def forward(
        self, x: Tensor, cos: Tensor | None = None, sin: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        """cos, sin (N, columns / 2), of ops.rotary_table, turn queries and keys; not with a context, which
        has no order."""
        counts: dict[str, Any] = {"heads": self._heads, "kv_heads": self._kv_heads}
        if not self._crosses:
            qkv = self.qkv(x)
            q, k = ops.qkv_norm_rotary(qkv, cos, sin, self.q_scale, self.k_scale, **counts)
            return self.out(ops.attention_qkv(qkv, q, k, **counts, **self._how))
        if context is None or cos is not None:
            raise ValueError("Attention: with context_features, pass a context and no rotary tables")
        kv = self.kv(context)
        q = ops.qk_norm_rotary(self.q(x), None, None, self.q_scale, heads=self._heads)
        k = ops.qk_norm_rotary(ops.slice(kv, -1, 0, self._kv), None, None, self.k_scale, heads=self._kv_heads)
        return self.out(ops.attention(q, k, ops.slice(kv, -1, self._kv, 2 * self._kv), **counts, **self._how))


def _uniform(shape: Sequence[int], bound: float) -> Tensor:
    return parameter(uniform(*shape, bound=bound))


class LSTM(Module):
    """Long short-term memory over x (B, T, features_in) (Hochreiter & Schmidhuber 1997), gates i, f, g, o."""

    def __init__(self, features_in: int, features: int):
        bound = 1.0 / math.sqrt(features)
        self.weight_ih, self.weight_hh = (
            _uniform((4 * features, features_in), bound),
            _uniform((4 * features, features), bound),
        )
        self.bias_ih, self.bias_hh = _uniform((4 * features,), bound), _uniform((4 * features,), bound)
        self._features = features

    def forward(
        self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, features_in), state h and c (B, features), reset (B, T) uint8: 1 forgets the state before
        that step. Returns the outputs (B, T, features) and the last h and c."""
        gates = ops.linear(x, self.weight_ih, self.bias_ih)
        return ops.lstm(gates, self.weight_hh, self.bias_hh, h, c, reset)


class GRU(Module):
    """Gated recurrent unit over x (B, T, features_in) (Cho et al. 2014), gates r, z, n."""

    def __init__(self, features_in: int, features: int):
        bound = 1.0 / math.sqrt(features)
        self.weight_ih, self.weight_hh = (
            _uniform((3 * features, features_in), bound),
            _uniform((3 * features, features), bound),
        )
        self.bias_ih, self.bias_hh = _uniform((3 * features,), bound), _uniform((3 * features,), bound)
        self._features = features

    def forward(
        self, x: Tensor, h: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As LSTM's, with one state.  Returns the outputs (B, T, features) and the last h."""
        gates = ops.linear(x, self.weight_ih, self.bias_ih)
        return ops.gru(gates, self.weight_hh, self.bias_hh, h, reset)
