"""quantize: products in whole numbers (int8 weights and activations: csrc/kernels/cpu/int8.c) or in bfloat16
(csrc/kernels/cpu/bf16.c), layer by layer, where that is measured to be harmless.

    E     mean square of what the network predicts in float32 less the real frames
    e_i   mean square of the prediction with layer i alone in those numbers less that in float32
    chosen: layers in order of e_i a multiply-add, while (E + sum of e_i) / E stays within the budget; then the
    error of all of them together is measured, and the worst are let go until it is within the budget too.

int8 weights have one scale a row, activations one a token, found as they pass: there is nothing else to calibrate.
bfloat16 keeps float32's range and 8 bits of its mantissa.  Norms, softmax and convolutions stay float32; for int8
modulations too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from .models.dynamics import Dynamics, Window
from .nn import Module
from .sampling import streams
from .tensor import Tensor

if TYPE_CHECKING:
    from .data import Replay
    from .world import World


Numbers = Literal["int8", "bf16"]


@dataclass(frozen=True)
class Choice:
    """Which layers run in int8 or bf16, and what it costs.

    loss_db: PSNR of predictions against real frames, float32 less rounded, as measured with all chosen layers
    together; psnr: that of float32; share: of the possible multiply-adds; errors: of each layer alone, in dB.
    """

    layers: tuple[str, ...]
    loss_db: float = float("nan")
    psnr: float = float("nan")
    share: float = float("nan")
    errors: dict[str, float] = field(default_factory=dict)
    numbers: Numbers = "int8"

    def __str__(self) -> str:
        if np.isnan(self.loss_db):
            return f"{self.numbers}: {len(self.layers)} layers"
        return (
            f"{self.numbers}: {len(self.layers)} of {len(self.errors)} layers, {self.share:.0%} of their "
            f"multiply-adds; predictions {self.psnr:.2f} dB, {self.loss_db:.3f} dB less in {self.numbers}"
        )


def layers_for(model: Module, numbers: str) -> list[str]:
    """Names of the weights whose products may run in these numbers.  Raises ValueError for other numbers."""
    if numbers not in ("int8", "bf16"):
        raise ValueError(f"quantize: numbers must be 'int8' or 'bf16', got {numbers!r}")
    return getattr(model, f"{numbers}_layers")() if isinstance(model, Dynamics) else []


def set_products(model: Module, layers: Iterable[str], numbers: str = "int8") -> None:
    """Make exactly these weights' products run in int8 or bf16, the others in float32.  Raises ValueError for a name
    that cannot."""
    wanted = set(layers)
    if unknown := sorted(wanted - set(layers_for(model, numbers))):
        raise ValueError(f"quantize: no layers that can run in {numbers}: {', '.join(unknown)}")
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        own = frozenset(n[len(start) :] for n in wanted if n.startswith(start) and n[len(start) :] in vars(module))
        module._int8 = own if numbers == "int8" else frozenset()
        module._bf16 = own if numbers == "bf16" else frozenset()


def choose(
    world: World, replay: Replay, loss_db: float = 0.1, windows: int = 16, seed: int = 0, numbers: Numbers = "int8"
) -> Choice:
    """Which layers may run in int8 or bf16 (the head's rule); leaves the world as it was.

    Raises ValueError if the backbone has none, the budget is below 0, or the replay holds no whole window.
    """
    model = world.dynamics
    names = layers_for(model, numbers)
    if not names:
        raise ValueError(f"quantize: the {world.config.backbone} backbone has no products that run in {numbers}")
    if loss_db < 0 or windows < 1:
        raise ValueError(f"quantize: wanted loss_db >= 0 and windows >= 1, got {loss_db} and {windows}")
    window, stream = _windows(world, replay, windows, seed)
    before = [(m, m._int8, m._bf16) for _, m in model.named_modules()]
    try:
        return _choose(model, names, window, stream, loss_db, numbers)
    finally:
        for module, int8, bf16 in before:
            module._int8, module._bf16 = int8, bf16


def _windows(world: World, replay: Replay, count: int, seed: int) -> tuple[Window, Tensor]:
    """Windows of a context and one frame more, all of it real."""
    batch = replay.sample(np.random.default_rng(seed), 4 * count, world.context + 1)
    good = np.flatnonzero((batch.mask & batch.frame_known).all(1))[:count]
    if not len(good):
        raise ValueError(f"quantize: {replay.path} holds no {world.context + 1} frames in a row")
    whole = world.window(replay, batch)
    picked = {name: Tensor(np.ascontiguousarray(t.numpy()[good])) for name, t in vars(whole).items()}
    return Window(**picked), Tensor(streams(np.arange(len(good)) + seed))


def _choose(
    model: Dynamics, names: list[str], window: Window, stream: Tensor, loss_db: float, numbers: Numbers
) -> Choice:
    def predicted(layers: Iterable[str]) -> np.ndarray:
        set_products(model, layers, numbers)
        return model.guess(window, stream)[0]

    set_products(model, ())
    plain, real = model.guess(window, stream)
    error = max(_square(plain, real), 1e-12)
    alone = {name: _square(predicted([name]), plain) for name in names}
    sizes = {n: t.size for n, t in model.named_parameters() if n in alone}
    room, lost = (10 ** (loss_db / 10) - 1) * error, 0.0
    chosen: list[str] = []
    for name in sorted(names, key=lambda n: alone[n] / sizes[n]):
        if sum(alone[n] for n in chosen) + alone[name] <= room:
            chosen.append(name)
    while chosen and (lost := _lost(predicted(chosen), plain, real)) > loss_db:
        chosen = chosen[: max(0, len(chosen) - max(1, len(chosen) // 16))]
    return Choice(
        layers=tuple(n for n in names if n in chosen),
        loss_db=lost if chosen else 0.0,
        psnr=float(10 * np.log10(4 / error)),
        share=sum(sizes[n] for n in chosen) / sum(sizes.values()),
        errors={n: float(10 * np.log10(1 + e / error)) for n, e in alone.items()},
        numbers=numbers,
    )


def _square(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(np.subtract(a, b, dtype=np.float64)).mean())


def _lost(guess: np.ndarray, plain: np.ndarray, real: np.ndarray) -> float:
    """dB that the distance to float32 costs: never below what independent errors would (a lucky sign of the
    few windows counts for nothing)."""
    error = max(_square(plain, real), 1e-12)
    return 10 * float(np.log10(max(_square(guess, real), error + _square(guess, plain)) / error))
