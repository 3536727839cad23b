"""train_tokenizer: an autoencoder of a replay's frames, trained alone before the world that computes on its latents.

    tokenizer = wm.train_tokenizer(replay, minutes=2)
    world = wm.World.create(replay, tokenizer=tokenizer)

    loss = |decode(z + noise n) - x|^2,   z = encode(x), n normal; pixels near what moves weigh 1 + motion

The noise teaches the decoder that latents a world imagines are never exact.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import machine, ops
from ..data import Replay
from ..metrics import decibels, mse
from ..models.motion import moving
from ..models.tokenizer import Autoencoder, Tokenizer, numbers
from ..optim import AdamW
from ..sampling import streams
from ..tensor import Tape, Tensor, no_grad
from .loop import Budget, Diverged, Run

SALT_NOISE = 301


@dataclass
class TrainTokenizer:
    """How to train a tokenizer."""

    steps: int | None = None
    """Updates; or say minutes."""
    minutes: float | None = None
    """Training time."""
    down: int = 4
    """Height and width of the frame over those of its latents, a power of two."""
    channels: int = 8
    """Of a latent."""
    width: int = 32
    """Channels of the convolutions at half resolution."""
    depth: int = 1
    """Residual blocks at each resolution."""
    batch: int = 16
    """Frames an update."""
    lr: float = 2e-3
    """Peak learning rate."""
    warmup: int = 50
    """Updates until the peak."""
    floor: float = 0.02
    """The learning rate falls in a line to this share of the peak."""
    ema: float = 0.99
    """Decay of the moving average of the weights, which is what is kept."""
    motion: float = 4.0
    """Pixels near what moved since the frame before weigh 1 + motion."""
    noise: float = 0.05
    """Of the latents, in training."""
    held_out: float = 0.1
    """Share of the episodes kept for measuring."""
    seed: int = 0
    """Of weights, batches and noise."""
    run: str | None = None
    """Folder of log and state; an unfinished run there goes on."""
    save_every: int = 500
    """Updates between saves of the state; 0: only when interrupted and at the end."""
    quiet: bool = False
    """No progress bar."""


def train_tokenizer(replay: Replay, settings: TrainTokenizer | None = None, **fields: Any) -> Autoencoder:
    """A tokenizer for the frames of a replay; fields override settings.

    Interrupted (Ctrl-C, SIGTERM) it saves and returns what it has; run again with the same `run` folder it goes on bit
    for bit.  Raises Diverged on NaN, ValueError for settings that make no network or a run folder of another.
    """
    s = dataclasses.replace(settings or TrainTokenizer(), **fields)
    machine.seed(s.seed)
    tokenizer = Autoencoder(tuple(replay.frame_shape), s.down, s.channels, s.width, s.depth)
    optimiser = AdamW(tokenizer.parameters(), lr=s.lr, betas=(0.9, 0.99), weight_decay=0.0, clip=1.0, ema=s.ema)
    train, test = replay.held_out(s.held_out, s.seed)
    folder, seeds = Run(s.run, dataclasses.asdict(s)), np.arange(s.batch, dtype=np.uint64) + (np.uint64(s.seed) << 20)
    with train.batches(s.batch, 2, seed=s.seed) as batches:
        done, seconds = _resume(folder, tokenizer, optimiser, batches)
        folder.rewind(done)
        budget = Budget(s.steps, s.minutes, "tokenizer", done, seconds, quiet=s.quiet)
        try:
            for step in budget:
                stream = streams(seeds)
                stream[:, 3] = step
                optimiser.lr = s.lr * min(1.0, (step + 1) / max(1, s.warmup)) * max(s.floor, 1 - budget.fraction)
                loss = update(tokenizer, optimiser, next(batches).frames, Tensor(stream), s)
                if step % 10 == 0:
                    folder.log(step + 1, loss=loss, lr=optimiser.lr)
                    budget.note(loss=loss)
                if s.save_every and (step + 1) % s.save_every == 0:
                    _save(folder, tokenizer, optimiser, batches, budget)
            _save(folder, tokenizer, optimiser, batches, budget)
            with optimiser.averaged():
                folder.log(budget.done, psnr=psnr(tokenizer, test.sample(s.seed, 64, 1).frames[:, 0]))
                weights = tokenizer.state_dict()
        finally:
            folder.close()
    tokenizer.load_state_dict(weights)
    return tokenizer


def update(
    tokenizer: Autoencoder, optimiser: AdamW, frames: np.ndarray, stream: Tensor, s: TrainTokenizer
) -> float:
    """One step on pairs of neighbouring frames (B,2,H,W,C), of which the second is learned; returns the loss."""
    picture = Tensor(np.ascontiguousarray(frames[:, 1]))
    with Tape() as tape:
        z = tokenizer.encode(picture)
        told = z + ops.normal(stream, salt=SALT_NOISE, std=s.noise, shape=z.shape) if s.noise else z
        root = moving(frames, s.motion)
        loss = ops.mse(ops.mul(tokenizer.decode(told), root), ops.mul(numbers(picture), root))
    tape.backward(loss)
    if optimiser.step().skipped:
        raise Diverged("tokenizer: the gradient is not finite")
    return loss.item()


def psnr(tokenizer: Tokenizer, frames: np.ndarray) -> float:
    """Decibels of frames (n,H,W,C) uint8 encoded and decoded: the best that a world on these latents can reach."""
    with no_grad():
        made = tokenizer.picture(tokenizer.encode(Tensor(np.ascontiguousarray(frames)))).numpy()
    return float(decibels(mse(made, frames).mean()))


def _save(folder: Run, tokenizer: Autoencoder, optimiser: AdamW, batches: Any, budget: Budget) -> None:
    tensors = {f"tokenizer.{k}": v for k, v in tokenizer.state_dict().items()}
    tensors |= {f"optimiser.{k}": v for k, v in optimiser.state_dict().items()}
    folder.save(tensors, {"done": budget.done, "seconds": budget.seconds, "batches": batches.state()})


def _resume(folder: Run, tokenizer: Autoencoder, optimiser: AdamW, batches: Any) -> tuple[int, float]:
    """Updates done and seconds spent of a run that was interrupted."""
    found = folder.load()
    if found is None:
        return 0, 0.0
    tensors, about = found
    parts: dict[str, dict[str, np.ndarray]] = {"tokenizer": {}, "optimiser": {}}
    try:
        for name, values in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = values
        tokenizer.load_state_dict(parts["tokenizer"])
        optimiser.load_state_dict(parts["optimiser"])
        batches.set_state(about["batches"])
        return about["done"], about["seconds"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder.state_path}: not the state of this tokenizer: {error.args[0]}") from None
