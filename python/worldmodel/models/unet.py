"""unet: the next frame from the last few, by a small convolutional network with AdaGN (after DIAMOND, Alonso
et al. 2024).

    c     = MLP(sinusoids(tau), sinusoids(d), z of each context action)
    x_hat = last frame + net(noisy frame, context frames; c)             predict the change
    flow  : x_tau = (1 - tau) eps + tau x, trained on |x_hat - x|^2; most samples at tau = 0, where the answer
            is the conditional mean, so that one step from pure noise is already a good one
    ends  : reward and termination by a small network of its own (outcome.py)

Convolutions pay when data and minutes are few (benchmarks/results/README.md); there is no horizon and no cache
but the last frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import nn, ops
from ..sampling import Sampler, Step
from ..tensor import Plan, Tape, Tensor
from .dynamics import Dynamics, Window
from .encoder import side_by_side
from .motion import moving
from .outcome import Outcome

SIZES = {
    "T": {"widths": (32, 48, 64), "depths": (1, 1, 1), "cond": 128},
    "S": {"widths": (32, 64, 96), "depths": (1, 1, 2), "cond": 128},
    "M": {"widths": (48, 96, 128), "depths": (1, 1, 2), "cond": 128},
    "B": {"widths": (64, 128, 192), "depths": (2, 2, 2), "cond": 256},
}


class AdaGN(nn.Module):
    """silu(GroupNorm(x) (1 + scale) + shift), scale and shift linear in c and 0 at first; groups of about 32
    channels."""

    def __init__(self, features: int, cond: int):
        self.modulation = nn.Linear(cond, 2 * features, init=nn.zeros)
        self._groups = max(1, features // 32)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.modulation(c)
        return ops.ada_group_norm(x, m, m, groups=self._groups, act="silu", scale_chunk=0, shift_chunk=1)


class Residual(nn.Module):
    """x + conv(AdaGN(conv(AdaGN(x)))), the second convolution 0 at first."""

    def __init__(self, features_in: int, features: int, cond: int):
        self.norm1, self.conv1 = AdaGN(features_in, cond), nn.Conv2d(features_in, features)
        self.norm2, self.conv2 = AdaGN(features, cond), nn.Conv2d(features, features, init=nn.zeros)
        self.skip = nn.Conv2d(features_in, features, kernel=1) if features_in != features else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, c))
        return self.conv2(self.norm2(h, c), residual=self.skip(x) if self.skip else x)


class Network(nn.Module):
    """Space to depth, levels of residual blocks down and up with skips, depth to space."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        cond: int,
        patch: int,
    ):
        self._patch = patch
        self.stem = nn.Conv2d(channels_in * patch * patch, widths[0])
        self.down = [[Residual(w, w, cond) for _ in range(d)] for w, d in zip(widths, depths, strict=True)]
        self.shrink = [nn.Conv2d(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False)]
        self.middle = Residual(widths[-1], widths[-1], cond)
        self.grow = [nn.Conv2d(b, a, upsample=2) for a, b in zip(widths, widths[1:], strict=False)]
        self.up = [
            [Residual(2 * w if j == 0 else w, w, cond) for j in range(d)]
            for w, d in zip(widths[:-1], depths[:-1], strict=True)
        ]
        self.norm, self.out = (
            AdaGN(widths[0], cond),
            nn.Conv2d(widths[0], channels_out * patch * patch, init=nn.zeros),
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B,H,W,channels_in), c (B,cond) -> (B,H,W,channels_out)."""
        B, H, W, _ = x.shape
        p = self._patch
        x = self.stem(ops.reshape(ops.patchify(x, size=p), (B, H // p, W // p, -1)))
        skips = []
        for i, blocks in enumerate(self.down):
            if i:
                x = self.shrink[i - 1](x)
            for block in blocks:
                x = block(x, c)
            skips.append(x)
        x = self.middle(x, c)
        for i in reversed(range(len(self.up))):
            x = ops.concat(self.grow[i](x), skips[i], axis=-1)
            for block in self.up[i]:
                x = block(x, c)
        x = self.out(self.norm(x, c))
        return ops.unpatchify(ops.reshape(x, (B, (H // p) * (W // p), -1)), height=H, width=W, size=p)


class UNet(Dynamics):
    """The UNet as a world's dynamics.

    Args:
        size: 'T', 'S', 'M' or 'B'; widths, depths and cond override it.
        context: frames it looks back on, at least 2.
        rollout: steps of a training window; in a share `self_fed` of the windows each step sees the guesses
            before it, not the real frames, so that it learns to hold its ground where one blurred frame would
            follow from another.
        patch: space to depth at the stem; frame sides must be multiples of patch * 2^(levels - 1).
        steps: denoising steps of a sampler unless it says otherwise.
        at_noise: share of training samples at tau = 0.
        self_fed: that share; real frames teach motion best, own guesses how to stay on course.
        forget: share of training windows that begin late (Window.forgetful).
        motion: pixels near what moved between the last two frames weigh 1 + motion in the loss: for worlds whose
            small moving things matter, and drown in the error of still walls.

    Raises ValueError for what does not fit.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_features: int,
        size: str = "S",
        context: int = 4,
        rollout: int = 4,
        patch: int = 2,
        steps: int = 1,
        at_noise: float = 0.75,
        self_fed: float = 0.5,
        forget: float = 0.1,
        motion: float = 0.0,
        reward_bins: int = 41,
        reward_limit: float = 6.0,
        widths: tuple[int, ...] | None = None,
        depths: tuple[int, ...] | None = None,
        cond: int | None = None,
    ):
        if size not in SIZES:
            raise ValueError(f"UNet: size must be one of {', '.join(SIZES)}, got {size!r}")
        if context < 2 or rollout < 1 or steps < 1 or not (0 <= at_noise <= 1 and 0 <= self_fed <= 1 and motion >= 0):
            raise ValueError(
                f"UNet: wanted context >= 2, rollout >= 1, steps >= 1, at_noise and self_fed of 0 to 1, motion >= 0, "
                f"got {context}, {rollout}, {steps}, {at_noise}, {self_fed} and {motion}"
            )
        H, W, C = frame_shape
        widths = tuple(widths or SIZES[size]["widths"])
        depths = tuple(depths or SIZES[size]["depths"])
        cond = cond or SIZES[size]["cond"]
        unit = patch * 2 ** (len(widths) - 1)
        if len(widths) != len(depths) or H % unit or W % unit:
            raise ValueError(
                f"UNet: frame sides must be multiples of {unit} and widths as many as depths, "
                f"got {H}x{W}, {len(widths)} and {len(depths)}"
            )
        self.context, self.window, self.feature_size = context, context + rollout, 128
        self._shape, self._steps, self._at_noise, self._forget = frame_shape, steps, at_noise, forget
        self._rollout, self._self_fed, self._motion = rollout, self_fed, motion
        self._action_features, self._levels = action_features, 64
        self.actions = nn.Linear(action_features + 1, 32)
        self.condition = nn.MLP(2 * self._levels + 32 * context, cond, cond)
        self.network = Network(C * (context + 1), C, widths, depths, cond, patch)
        self.outcome = Outcome(
            frame_shape, action_features + 1, context, self.feature_size, reward_bins, reward_limit
        )

    # ---- the network with its conditions ----

    def _predict(
        self, noisy: Tensor, context: Tensor, actions: Tensor, level: Tensor, size: Tensor
    ) -> Tensor:
        """noisy (B,H,W,C), context (B,H,W,n C), actions (B,n,F+1), level and size (B,) -> x_hat (B,H,W,C)."""
        B, C = noisy.shape[0], self._shape[2]
        z = ops.reshape(self.actions(actions), (B, -1))
        levels = [ops.sinusoidal(t, dim=self._levels, max_period=1000.0, scale=100.0) for t in (level, size)]
        c = ops.silu(self.condition(ops.concat(*levels, z, axis=-1)))
        change = self.network(ops.concat(noisy, context, axis=-1), c)
        return ops.add(change, ops.slice(context, -1, context.shape[-1] - C, context.shape[-1]))

    def _outcome(self, context: Tensor, actions: Tensor) -> Tensor:
        """What the coming step leaves for reward, termination and policies, (B,F)."""
        n = context.shape[-1]
        return self.outcome(ops.slice(context, -1, n - 2 * self._shape[2], n), actions)

    # ---- learning ----

    def _actions(self, window: Window) -> Tensor:
        """The window's actions with their known flags, (B,T,F+1)."""
        return ops.concat(window.actions, ops.reshape(window.known, (*window.shape, 1)), axis=-1)

    def losses(self, window: Window, stream: Tensor) -> dict[str, Tensor]:
        """frames: |x_hat - x|^2 per number over real frames, mean over the steps of the roll-out; and, from
        the second step on, reward and termination as read from the frames it has imagined itself.
        """
        B, T = window.shape
        if T != self.window:
            raise ValueError(f"UNet: windows must have {self.window} frames, got {T}")
        n, R = self.context, self._rollout
        window = window.forgetful(_generator(stream), self._forget, n)
        seen = [side_by_side(ops.slice(window.frames, 1, t, t + 1)) for t in range(T)]
        actions, zero = self._actions(window), Tensor(np.zeros(B, np.float32))
        spread, share = (Tensor(np.full(B, v, np.float32)) for v in (1 - self._at_noise, self._self_fed))
        fed = ops.reshape(ops.bernoulli(share, stream, salt=9), (B, 1, 1, 1))
        parts: dict[str, list[Tensor]] = {}
        for t in range(n, T):
            real, salt = seen[t], 10 * (t - n)
            tau = ops.mul(ops.uniform(stream, salt=salt + 1, shape=(B,)), ops.bernoulli(spread, stream, salt=salt + 2))
            context, past = ops.concat(*seen[t - n : t], axis=-1), ops.slice(actions, 1, t - n + 1, t + 1)
            guess = self._predict(ops.noise(real, stream, tau, salt=salt + 3), context, past, tau, zero)
            pair = (guess, real)
            if self._motion:
                root = moving(window.frames.numpy()[:, t - 2 : t], self._motion)
                pair = (ops.mul(guess, root), ops.mul(real, root))
            parts.setdefault("frames", []).append(ops.mse(*pair, _column(window.frame_weight, t)))
            if t > n:
                for name, loss in self._judge(window, t, context, past).items():
                    parts.setdefault(f"imagined_{name}", []).append(loss)
            own = ops.clamp(ops.stop_gradient(guess), -1.0, 1.0)
            seen[t] = ops.add(real, ops.mul(fed, ops.sub(own, real)))
        return {name: _mean(losses, R) for name, losses in parts.items()}

    def _judge(self, window: Window, t: int, context: Tensor, actions: Tensor) -> dict[str, Tensor]:
        columns = (_column(x, t) for x in (window.rewards, window.terminated, window.step_weight))
        return self.outcome.heads.losses(self._outcome(context, actions), *columns)

    def outcome_losses(self, window: Window) -> dict[str, Tensor]:
        """reward and termination of each window's last step, from real frames: see Heads."""
        T = window.shape[1]
        context = side_by_side(ops.slice(window.frames, 1, T - 3, T - 1))
        actions = ops.slice(self._actions(window), 1, T - self.context, T)
        return self._judge(window, T - 1, context, actions)

    def parts(self) -> dict[str, list[Tensor]]:
        outcome = self.outcome.parameters()
        apart = {id(t) for t in outcome}
        return {"frames": [t for t in self.parameters() if id(t) not in apart], "outcome": outcome}

    def sampler(self, n: int, **options: Any) -> UNetSampler:
        return UNetSampler(self, n, **options)


def _generator(stream: Tensor) -> np.random.Generator:
    """The augmentation's draws depend on the stream only, so a resumed run repeats them."""
    return np.random.default_rng(stream.numpy().view(np.uint32).ravel().tolist())


def _column(x: Tensor, t: int) -> Tensor:
    """Column t of (B,T)."""
    return Tensor(np.ascontiguousarray(x.numpy()[:, t]))


def _mean(losses: list[Tensor], count: int) -> Tensor:
    total, *rest = losses
    for loss in rest:
        total = total + loss
    return total * (1 / count)


class UNetSampler(Sampler):
    """n environments, each the last frames and actions; a step is one plan."""

    def __init__(self, model: UNet, n: int, steps: int | None = None):
        super().__init__(n, model._action_features)
        self.model, self.steps = model, steps or model._steps
        if self.steps < 1:
            raise ValueError(f"sampler: steps must be at least 1, got {steps}")
        H, W, C = model._shape
        self.state["frames"] = Tensor(np.zeros((n, model.context, H, W, C), np.uint8), copy=True)
        self.state["actions"] = Tensor(
            np.zeros((n, model.context, self.action_features + 1), np.float32), copy=True
        )
        self._plan = self._record()

    def _record(self) -> Plan:
        m, n = self.model, self.n
        H, W, C = m._shape
        with Tape(grad=False) as tape:
            ops.stream_advance(self.state["stream"])
            context = side_by_side(self.state["frames"])
            x = ops.normal(self.state["stream"], salt=11, shape=(n, H, W, C))
            for k in range(self.steps):
                tau = k / self.steps
                level, size = (Tensor(np.full(n, v, np.float32)) for v in (tau, 0.0))
                guess = m._predict(x, context, self.state["actions"], level, size)
                if k + 1 < self.steps:  # Euler: x += (x_hat - x) dtau / (1 - tau)
                    step = (1 / self.steps) / (1 - tau)
                    x = ops.add(ops.scale_shift(x, 1 - step, 0.0), ops.scale_shift(guess, step, 0.0))
            frames = ops.frames_u8(guess)
            features = m._outcome(context, self.state["actions"])
            rewards, termination = m.outcome.heads.decode(features)
            ended = ops.bernoulli(termination, self.state["stream"], salt=12)
        return tape.plan(frames, rewards, termination, ended, features)

    def begin(self, rows: np.ndarray, frames: np.ndarray, actions: np.ndarray) -> None:
        n = self.model.context
        missing = max(0, n - frames.shape[1])
        keep = frames[:, -n:]
        self.state["frames"][rows] = (
            np.concatenate([np.repeat(keep[:, :1], missing, 1), keep], 1) if missing else keep
        )
        past = np.zeros((len(rows), n, self.action_features + 1), np.float32)
        led = actions[:, -n:]
        past[:, n - led.shape[1] :, :-1] = led
        past[..., -1] = np.abs(past[..., :-1]).max(-1, initial=0) > 0
        self.state["actions"][rows] = past

    def advance(self, actions: np.ndarray) -> Step:
        past, history = self.state["actions"], self.state["frames"]
        past[:, :-1] = past.numpy()[:, 1:]
        past[:, -1, :-1], past[:, -1, -1] = actions, 1
        frames, rewards, termination, ended, features = (np.array(t.numpy()) for t in self._plan.run())
        history[:, :-1] = history.numpy()[:, 1:]
        history[:, -1] = frames
        return Step(frames, rewards, ended > 0.5, termination, features)
