"""dynamics: DIAMOND's denoiser and reward model as a world's dynamics (`backbone="edm"`).

    world = wm.World.create(replay, backbone="edm", size="atari")
    world = wm.World.load("agent_epoch_01000.pt")            # the original's weights, by their names

A step: the action, three denoising steps, the 8-bit frame, then reward and end from that frame and an LSTM's state.
The denoiser learns from the last frames of a window, the reward model from all of it, as from a part of an episode.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ... import ops
from ...sampling import Sampler, Step
from ...tensor import Plan, Tape, Tensor
from ..dynamics import Dynamics, Window
from .denoiser import Denoiser, InnerModel, Noise, Solver
from .outcome import RewardEnd

SIZES: dict[str, dict[str, Any]] = {
    "atari": {
        "cond": 256,
        "depths": (2, 2, 2, 2),
        "channels": (64, 64, 64, 64),
        "outcome_cond": 128,
        "outcome_depths": (2, 2, 2, 2),
        "outcome_channels": (32, 32, 32, 32),
        "lstm": 512,
    },
    "S": {
        "cond": 128,
        "depths": (1, 1, 2),
        "channels": (32, 64, 64),
        "outcome_cond": 64,
        "outcome_depths": (1, 1, 1),
        "outcome_channels": (16, 32, 32),
        "lstm": 128,
    },
    "T": {
        "cond": 64,
        "depths": (1, 1),
        "channels": (32, 32),
        "outcome_cond": 32,
        "outcome_depths": (1, 1),
        "outcome_channels": (16, 16),
        "lstm": 64,
    },
}
"""atari: as published, 4.4M parameters for the denoiser; S and T: for fewer minutes."""

TOGETHER = 4
"""Environments that a plan steps at once: of one size of frames with the caches, and a fifth faster than 32."""

SALT_SIGMA, SALT_NOISE, SALT_FIRST, SALT_END, SALT_CHURN = 201, 202, 211, 212, 220


class Diamond(Dynamics):
    """Options: context, the frames it sees; rollout, how many steps the denoiser learns from its own frames; horizon,
    the steps of a window that the reward model learns from; steps, order, churn: of the solver; those of SIZES;
    attention and outcome_attention: of a level; noise: see Noise."""

    lr = 1e-4
    clips = {"outcome": 100.0}
    draws_rewards = True

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_features: int,
        size: str = "S",
        context: int = 4,
        rollout: int = 1,
        horizon: int = 15,
        steps: int = 3,
        order: int = 1,
        churn: float = 0.0,
        attention: tuple[int, ...] | None = None,
        outcome_attention: tuple[int, ...] | None = None,
        noise: dict[str, float] | None = None,
        **sizes: Any,
    ):
        if size not in SIZES or set(sizes) - set(SIZES["atari"]):
            found = sorted(set(sizes) - set(SIZES["atari"])) or size
            raise ValueError(f"Diamond: size must be one of {', '.join(SIZES)}, options of one of them, got {found!r}")
        if context < 2 or not 1 <= rollout <= horizon:
            raise ValueError(
                f"Diamond: wanted context >= 2 and 1 <= rollout <= horizon, got {context}, {rollout}, {horizon}"
            )
        s = {**SIZES[size], **sizes}
        none = (0,) * len(s["depths"])
        C = frame_shape[2]
        self.context, self.window, self.feature_size = context, context + horizon, s["lstm"]
        self._shape, self._action_features, self._rollout = tuple(frame_shape), action_features, rollout
        self._solver = Solver(steps=steps, order=order, churn=churn)
        inner = InnerModel(C, context, action_features, s["cond"], s["depths"], s["channels"], attention or none)
        self.denoiser = Denoiser(inner, Noise(**(noise or {})))
        self.rew_end_model = RewardEnd(
            self._shape,
            action_features,
            s["outcome_cond"],
            s["outcome_depths"],
            s["outcome_channels"],
            outcome_attention or (0,) * len(s["outcome_depths"]),
            s["lstm"],
        )

    # ---- learning ----

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """frames: see Denoiser.loss, mean over the steps of the roll-out; over frames that are real."""
        B, T = window.shape
        n, R = self.context, self._rollout
        if T < n + R:
            raise ValueError(f"Diamond: windows must have {n + R} frames or more, got {T}")
        seen = [frames_of(ops.slice(window.frames, 1, t, t + 1)) for t in range(T - n - R, T)]
        total: Tensor | None = None
        for i in range(R):
            t = T - R + i
            real = window.frame_weight.numpy()[:, t]
            weight = Tensor((real * (B / max(float(real.sum()), 1.0))).astype(np.float32))
            frames = ops.reshape(ops.slice(window.frames, 1, t, t + 1), (B, *self._shape))
            past = ops.slice(window.actions, 1, t - n + 1, t + 1)
            sigma = self.denoiser.sigmas(stream, SALT_SIGMA + 10 * i)
            loss, clean = self.denoiser.loss(
                frames, ops.concat(*seen[i : i + n], axis=-1), past, weight, sigma, stream, SALT_NOISE + 10 * i
            )
            seen[i + n] = ops.stop_gradient(clean)
            total = loss if total is None else total + loss
        assert total is not None
        return {"frames": total * (1 / R)}

    def outcome_losses(self, window: Window) -> dict[str, Tensor]:
        """reward and termination of every step of a window; see RewardEnd.losses."""
        T = window.shape[1]
        frames = ops.frames_float(window.frames)
        actions, rewards, ends = (ops.slice(x, 1, 1, T) for x in (window.actions, window.rewards, window.terminated))
        return self.rew_end_model.losses(frames, actions, rewards, ends, window.step_weight.numpy()[:, 1:])

    def parts(self) -> dict[str, list[Tensor]]:
        return {"frames": self.denoiser.parameters(), "outcome": self.rew_end_model.parameters()}

    def sampler(self, n: int, **options: Any) -> DiamondSampler:
        return DiamondSampler(self, n, **options)


def frames_of(frames: Tensor) -> Tensor:
    """uint8 (B,n,H,W,C) -> (B,H,W,n C) in [-1, 1]."""
    B, n, H, W, C = frames.shape
    x = ops.permute(frames, (0, 2, 3, 1, 4)) if n > 1 else frames
    return ops.frames_float(ops.reshape(x, (B, H, W, n * C)))


class DiamondSampler(Sampler):
    """n environments: the last frames and actions, and the reward model's LSTM; a step is a plan for every few of them.

    steps and solver's other fields may be given; drawn: rewards are drawn from their distribution, as in the original,
    instead of their expectation.
    """

    def __init__(self, model: Diamond, n: int, steps: int | None = None, drawn: bool = False, **solver: Any):
        super().__init__(n, model._action_features)
        if steps is not None and steps < 1:
            raise ValueError(f"sampler: steps must be at least 1, got {steps}")
        self.model, self._drawn = model, drawn
        self.solver = dataclasses.replace(model._solver, **({"steps": steps} if steps else {}), **solver)
        H, W, C = model._shape
        self.state["frames"] = Tensor(np.zeros((n, model.context, H, W, C), np.uint8), copy=True)
        self.state["actions"] = Tensor(np.zeros((n, model.context, self.action_features), np.float32), copy=True)
        for name in ("h", "c"):
            self.state[name] = Tensor(np.zeros((n, model.feature_size), np.float32), copy=True)
        whole, rest = divmod(n, TOGETHER)
        self._plans = {size: self._record(size) for size in (TOGETHER if whole else 0, rest) if size}

    def _record(self, n: int) -> tuple[dict[str, Tensor], Plan]:
        """The plan of n environments, and the tensors that it reads."""
        m = self.model
        H, W, C = m._shape
        s = {k: Tensor(np.zeros((n, *t.shape[1:]), t.numpy().dtype), copy=True) for k, t in self.state.items()}
        with Tape(grad=False) as tape:
            ops.stream_advance(s["stream"])
            noise = ops.normal(s["stream"], salt=SALT_FIRST, shape=(n, H, W, C))
            more = range(m.denoiser.churned(self.solver))
            churn = [ops.normal(s["stream"], salt=SALT_CHURN + k, shape=(n, H, W, C)) for k in more]
            after = m.denoiser.sample(noise, frames_of(s["frames"]), s["actions"], self.solver, churn)
            now = ops.frames_float(ops.slice(s["frames"], 1, m.context - 1, m.context))
            act = ops.slice(s["actions"], 1, m.context - 1, m.context)
            frames = ops.frames_u8(after)
            shown = ops.reshape(ops.frames_float(frames), (n, 1, H, W, C))
            reward, end, h, c = m.rew_end_model(now, act, shown, s["h"], s["c"])
            reward, end = ops.reshape(reward, (n, 3)), ops.reshape(end, (n, 2))
            rewards, termination = m.rew_end_model.decode(reward, end)
            if self._drawn:
                classes = ops.cast(ops.categorical(reward, s["stream"], salt=SALT_END + 1), "float32")
                rewards = ops.scale_shift(classes, 1.0, -1.0)
            ended = ops.bernoulli(termination, s["stream"], salt=SALT_END)
        return s, tape.plan(frames, rewards, termination, ended, h, c)

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        n = self.model.context
        missing = max(0, n - frames.shape[1])
        keep = frames[:, -n:]
        keep = np.concatenate([np.repeat(keep[:, :1], missing, 1), keep], 1) if missing else keep
        led = np.zeros((len(rows), n, self.action_features), np.float32)
        led[:, n - min(n, actions.shape[1]) :] = actions[:, -n:]
        past = ops.frames_float(Tensor(np.ascontiguousarray(keep)))
        model = self.model.rew_end_model
        _, _, h, c = model(ops.slice(past, 1, 0, n - 1), Tensor(led[:, 1:].copy()), ops.slice(past, 1, 1, n))
        for name, values in (("frames", keep), ("actions", led), ("h", h.numpy()), ("c", c.numpy())):
            self.state[name][rows] = values

    def advance(self, actions: np.ndarray) -> Step:
        past = np.array(self.state["actions"].numpy())
        past[:, :-1], past[:, -1] = past[:, 1:].copy(), actions
        self.state["actions"][:] = past
        state = {name: t.numpy() for name, t in self.state.items()}
        parts: list[list[np.ndarray]] = []
        for first in range(0, self.n, TOGETHER):
            rows = slice(first, min(first + TOGETHER, self.n))
            inputs, plan = self._plans[rows.stop - rows.start]
            for name, t in inputs.items():
                t.copy_(state[name][rows])
            parts.append([np.array(t.numpy()) for t in (*plan.run(), inputs["stream"])])
        frames, rewards, termination, ended, h, c, stream = (np.concatenate(p) for p in zip(*parts, strict=True))
        history = np.concatenate([state["frames"][:, 1:], frames[:, None]], 1)
        for name, values in (("frames", history), ("h", h), ("c", c), ("stream", stream)):
            self.state[name][:] = values
        return Step(frames, rewards, ended > 0.5, termination, h)
