"""train: one training step of world S on windows of 64x64 frames: noise, loss with bootstrap, backward, clip,
AdamW and moving average, against the twin in PyTorch (tests/oracle/dit_training.py), eager and compiled."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from works.step import FEATURES, SHAPE, awake
from worldmodel import machine, ops
from worldmodel.models.dit import DiT
from worldmodel.models.dynamics import Window
from worldmodel.optim import AdamW
from worldmodel.sampling import streams
from worldmodel.tensor import Tape, Tensor

HOW = dict(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)


def window_of(B: int, T: int) -> Window:
    rng = np.random.default_rng(0)
    stepped = np.ones((B, T), np.float32)
    stepped[:, 0] = 0
    actions = np.eye(FEATURES, dtype=np.float32)[rng.integers(0, FEATURES, (B, T))] * stepped[..., None]
    return Window(
        frames=Tensor(rng.integers(0, 256, (B, T, *SHAPE), np.uint8)),
        actions=Tensor(actions),
        known=Tensor(stepped.copy()),
        rewards=Tensor(rng.standard_normal((B, T)).astype(np.float32) * stepped),
        terminated=Tensor(np.zeros((B, T), np.float32)),
        frame_weight=Tensor(np.ones((B, T), np.float32)),
        step_weight=Tensor(stepped.copy()),
    )


def model_of(**options) -> DiT:
    """The same weights every time."""
    machine.seed(0)
    return awake(DiT(SHAPE, FEATURES, "S", outcome="start", forget=0.0, **options))


def our_step(B: int, T: int, recompute: int = 0) -> Callable[[], float]:
    """recompute: of the 8 blocks, see DiTConfig."""
    model, window, stream = model_of(recompute=recompute), window_of(B, T), Tensor(streams(np.arange(B)), copy=True)
    optimiser = AdamW(model, clip=1.0, ema=0.995, **HOW)

    def step() -> float:
        ops.stream_advance(stream)
        with Tape() as tape:
            frame, reward, end = model.losses(window, stream).values()
            loss = frame + reward + end
        tape.backward(loss)
        optimiser.step()
        return loss.item()

    return step


def torch_step(torch, B: int, T: int, compiled: bool) -> Callable[[], float]:
    """Noise and levels are drawn by ours on both sides: they are data."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "oracle"))
    from dit_training import twin_losses, twin_of

    model, window, stream = model_of(), window_of(B, T), Tensor(streams(np.arange(B)), copy=True)
    twin = twin_of(model, torch.float32)
    if compiled:
        twin.say = torch.compile(twin.say, dynamic=False)
    parameters = [p for p in twin.w.values() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(parameters, fused=True, **HOW)

    def step() -> float:
        ops.stream_advance(stream)
        optimiser.zero_grad(set_to_none=True)
        loss = sum(twin_losses(twin, model, window, stream, torch.float32).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 5e-3)
        return float(loss.detach())

    return step
