"""train_world: batches of real windows in, a world that predicts them out.

    wm.train_world(world, replay, minutes=5, run="runs/doom/world")

The best weights are chosen by roll-outs on held-out episodes, not by loss: a falling loss with worse
roll-outs is common.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Batch, Replay
from ..metrics import decibels, mse
from ..models.dynamics import Window
from ..optim import AdamW
from ..sampling import streams
from ..tensor import Tape, Tensor
from ..world import World, check_fits
from .loop import Budget, Diverged, Run
from .rare import RareSteps


@dataclass
class TrainWorld:
    """How to train a world."""

    steps: int | None = None
    """Updates; or say minutes."""
    minutes: float | None = None
    """Training time; evaluation does not count."""
    batch: int = 6
    """Windows an update, drawn evenly."""
    rare: int = 2
    """Windows an update that end in a rare event (train/rare.py)."""
    lr: float | None = None
    """Peak learning rate; the backbone's own unless said."""
    warmup: int = 100
    """Updates until the peak."""
    floor: float = 0.02
    """The learning rate falls in a line to this share of the peak at the end of the budget."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = 0.01
    """AdamW's."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.995
    """Decay of the moving average of the weights, which is what the world keeps."""
    outcome_batch: int = 32
    """Windows an update for the losses of reward and termination alone (backbones with a network for them),
    half of
    them ending in a rare event and weighed down accordingly."""
    held_out: float = 0.1
    """Share of the episodes kept for roll-outs; 0 uses the training episodes."""
    evaluate_every: int = 500
    """Updates between roll-outs; 0: only at the end."""
    rollouts: int = 32
    """Windows of a roll-out evaluation."""
    horizon: int = 8
    """Steps of a roll-out evaluation."""
    seed: int = 0
    """Of batches and noise."""
    run: str | None = None
    """Folder of log, checkpoints and state; an unfinished run there goes on."""
    save_every: int = 200
    """Updates between saves of the state, for a run that may be killed; 0: only at the end or when
    interrupted.
    """
    quiet: bool = False
    """No progress bar."""


def train_world(world: World, replay: Replay, settings: TrainWorld | None = None, **fields: Any) -> dict[str, Any]:
    """Train a world in place; returns {'steps', 'seconds', 'psnr' (by step ahead), 'best_step', 'stopped'}.

    fields override settings.  Interrupted (Ctrl-C, SIGTERM), it saves and returns with 'stopped' true and the
    averaged weights so far in the world; run again with the same `run` folder it goes on bit for bit (with
    steps; minutes go on counting), killed outright from the last save.  Raises Diverged on NaN, after putting
    the best weights back, and ValueError for a run folder of another world or replay.
    """
    s = dataclasses.replace(settings or TrainWorld(), **fields)
    if kind := [numbers for numbers in ("int8", "bf16") if getattr(world.config, numbers)]:
        raise ValueError(f"train_world: the world computes in {kind[0]}; world.quantize(layers=[]) brings float32 back")
    learner = WorldLearner(world, s)
    try:
        result = learner.learn(replay, s.steps, s.minutes, stage="train_world")
    except Diverged:
        learner.keep(best=bool(learner.best))
        raise
    finally:
        learner.folder.close()
    learner.keep(best=not result["stopped"])
    return result


class WorldLearner:
    """A world with its optimiser; `learn` may be called again and again as the replay grows.

    Between calls the world holds the raw weights; `with learner.averaged():` shows their moving average.
    """

    def __init__(self, world: World, s: TrainWorld):
        self.world, self.s = world, s
        self.lr = world.dynamics.lr if s.lr is None else s.lr
        self.optimisers = {
            name: AdamW(
                part,
                lr=self.lr,
                betas=s.betas,
                weight_decay=s.weight_decay,
                clip=world.dynamics.clips.get(name, s.clip),
                ema=s.ema,
            )
            for name, part in world.dynamics.parts().items()
        }
        self.seeds = np.uint64(s.seed) * np.uint64(1 << 20) + np.arange(s.batch + s.rare, dtype=np.uint64)
        self.folder = Run(s.run, dataclasses.asdict(s))
        self.step = 0
        self.best: dict[str, np.ndarray] = {}
        self.best_score, self.best_step = -np.inf, 0

    def learn(
        self,
        replay: Replay,
        steps: int | None = None,
        minutes: float | None = None,
        stage: str = "",
        falling: bool = True,
    ) -> dict[str, Any]:
        """So many updates, or minutes, on a replay; see train_world.

        stage: a name under which the run's folder keeps this call's state, and an interrupted one goes on; ""
        always begins anew.  falling: the learning rate falls to its floor by the end (else it stays at its
        peak, for a budget that is one of several).
        """
        s = self.s
        self.stage = stage
        check_fits(self.world.config, replay)
        self.train, self.test = replay.held_out(s.held_out, s.seed)
        self.rare = RareSteps(self.train, self.world.dynamics.window)
        with self.train.batches(s.batch, self.world.dynamics.window, seed=s.seed + self.step) as self.batches:
            done, seconds = self._resume() if stage else (0, 0.0)
            self.folder.rewind(self.step)
            self.budget = Budget(steps, minutes, "world", done, seconds, quiet=s.quiet)
            for _ in self.budget:
                numbers = self.update(max(s.floor, 1 - self.budget.fraction) if falling else 1.0)
                if self.step % 10 == 0:
                    self.folder.log(self.step, **numbers)
                    self.budget.note(**{k: v for k, v in numbers.items() if k in self.losses})
                if s.evaluate_every and self.step % s.evaluate_every == 0:
                    self.evaluate()
                if stage and s.save_every and self.step % s.save_every == 0:
                    self.save_state()
            curve = [] if self.budget.stopped else self.evaluate()
            self.save_state()
        return {
            "steps": self.budget.done,
            "seconds": self.budget.seconds,
            "psnr": curve,
            "best_step": self.best_step,
            "stopped": self.budget.stopped,
        }

    # ---- one update ----

    def update(self, rate: float) -> dict[str, float]:
        """One step of the optimiser at a share of the peak learning rate; returns the losses."""
        window = self.windows(next(self.batches), self.s.rare, 0)
        stream = streams(self.seeds[: window.shape[0]])
        stream[:, 3] = self.step
        outcomes = self.windows(None, self.s.outcome_batch // 2, 1)
        with Tape() as tape:
            losses = self.world.losses(window, Tensor(stream)) | self.world.dynamics.outcome_losses(outcomes)
            self.losses = tuple(losses)
            total, *rest = losses.values()
            for part in rest:
                total = total + part
        tape.backward(total)
        lr = self.lr * min(1.0, (self.step + 1) / max(1, self.s.warmup)) * rate
        numbers = {name: value.item() for name, value in losses.items()} | {"lr": lr}
        for name, optimiser in self.optimisers.items():
            optimiser.lr = lr
            update = optimiser.step()
            numbers[f"grad_norm_{name}"] = update.norm
            if update.skipped:
                raise Diverged(
                    f"step {self.step}: the gradient of {name} is not finite; the last good checkpoint is kept"
                )
        self.step += 1
        return numbers

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the world holds the moving average of its weights."""
        with ExitStack() as stack:
            for optimiser in self.optimisers.values():
                stack.enter_context(optimiser.averaged())
            yield

    def windows(self, even: Batch | None, rare: int, salt: int) -> Window:
        """Windows drawn evenly (as many as rare ones if none are given) and windows that end in a rare event,
        the last step of each weighed to undo the bias.
        """
        rng, length = np.random.default_rng([self.s.seed, self.step, salt]), self.world.dynamics.window
        even = self.train.sample(rng, max(rare, 1), length) if even is None else even
        if not rare or not len(self.rare):
            return self.world.window(self.train, even)
        share = rare / (rare + len(even.mask))
        window = Window.join([self.world.window(self.train, b) for b in (even, self.rare.draw(rng, rare))])
        last = self.rare.weight(window.rewards.numpy()[:, -1], window.terminated.numpy()[:, -1] > 0, share)
        window.step_weight[:, -1] = window.step_weight.numpy()[:, -1] * last
        return window

    def evaluate(self) -> list[float]:
        """PSNR of the averaged weights 1, 2, ... steps ahead on held-out windows; keeps the best."""
        with self.budget.pause(), self.averaged():
            curve = rollout_psnr(self.world, self.test, self.s.rollouts, self.s.horizon)
            score = float(np.mean(curve)) if curve else 0.0
            self.folder.log(self.step, **{f"psnr_{i + 1}": v for i, v in enumerate(curve)})
            if score >= self.best_score:
                self.best, self.best_score, self.best_step = self.world.state_dict(), score, self.step
                if self.folder.folder:
                    self.world.save(self.folder.folder / "best.safetensors", step=self.step, psnr=curve)
        return curve

    # ---- going on ----

    def keep(self, best: bool) -> None:
        """Leave in the world the best weights so far, or the average of the latest."""
        with self.averaged():
            weights = self.best if best else self.world.state_dict()
        self.world.load_state_dict(weights)

    def save_state(self) -> None:
        """All that it takes to go on bit for bit."""
        if not self.folder.folder:
            return
        tensors = {f"world.{k}": v for k, v in self.world.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            tensors |= {f"optimiser.{name}.{k}": v for k, v in optimiser.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        self.folder.save(
            tensors,
            {
                "stage": self.stage,
                "step": self.step,
                "done": self.budget.done,
                "seconds": self.budget.seconds,
                "batches": self.batches.state(),
                "best_score": self.best_score if self.best else None,
                "best_step": self.best_step,
            },
        )

    def restore(self) -> dict[str, Any] | None:
        """Take up weights, moments and step count of the run's folder; returns what was saved beside them,
        or None.  Raises ValueError for the state of another world."""
        found = self.folder.load()
        if found is None:
            return None
        tensors, about = found
        try:
            self._take(tensors, about)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder.state_path}: not the state of this world: {error.args[0]}") from None
        return about

    def _take(self, tensors: dict[str, np.ndarray], about: dict[str, Any]) -> None:

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.world.load_state_dict(part("world."))
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(part(f"optimiser.{name}."))
        self.step, self.best, self.best_step = about["step"], part("best."), about["best_step"]
        self.best_score = -np.inf if about["best_score"] is None else about["best_score"]

    def _resume(self) -> tuple[int, float]:
        """Steps done and seconds spent of a stage that was interrupted."""
        if (self.folder.load_about() or {}).get("stage") != self.stage:
            return 0, 0.0
        about = self.restore()
        assert about is not None
        self.batches.set_state(about["batches"])
        return about["done"], about["seconds"]


def rollout_psnr(
    world: World,
    replay: Replay,
    count: int,
    horizon: int,
    seed: int = 0,
    shuffled: bool = False,
    **options: Any,
) -> list[float]:
    """PSNR in dB 1 to `horizon` steps ahead of self-fed roll-outs from real starts with the real actions
    (or, shuffled,
    another window's), over windows whose frames are all real."""
    n = world.context
    batch = replay.sample(np.random.default_rng(seed), 4 * count, n + horizon)
    good = np.flatnonzero((batch.mask & batch.frame_known).all(1))[:count]
    if len(good) < 2:
        return []
    window = Window.of(batch, replay.features(batch))
    frames, led = batch.frames[good], window.actions.numpy()[good]
    sampler = world.sampler(len(good), **options)
    sampler.reset(frames[:, :n], led[:, :n], seeds=np.arange(len(good)) + seed)
    curve = []
    for t in range(n, n + horizon):
        step = sampler.step(np.roll(led[:, t], 1, axis=0) if shuffled else led[:, t])
        curve.append(float(decibels(mse(step.frames, frames[:, t]).mean())))
    return curve
