"""policy: from what is seen to what is done, for any action space; acts the same in imagined and real
environments.

    policy = wm.Policy.for_world(world)
    actions, state = policy(frames, first, state)          # frames (N,H,W,C) uint8; collecting and
    evaluating call it so
    policy.save("policy.safetensors"); policy = wm.Policy.load("policy.safetensors")

It sees the last two frames and the action between them (actions take effect late in many games).  Each slot
of the action
space has its own head: a categorical distribution, or a Gaussian squashed by tanh; the parts are independent
given the features.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from . import nn, ops
from .checkpoint import read_tensors
from .models.acting import FORMAT, ActionHead, FramePolicy
from .models.encoder import FrameEncoder, side_by_side
from .sampling import streams
from .tensor import Plan, Tape, Tensor


class Policy(FramePolicy):
    """An actor and a critic on one encoder.

    frames: how many it sees, the newest last.  repeat: steps for which it holds an action before it takes another one
    (the options of Sutton, Precup and Singh 1999, of fixed length): where one step changes little, what a decision is
    worth shows sooner.
    """

    def __init__(
        self,
        frame_shape: tuple[int, int, int],
        action_space: dict[str, Any],
        width: int = 32,
        features: int = 128,
        bins: int = 127,
        limit: float = 6.0,
        frames: int = 2,
        repeat: int = 1,
        environment: dict[str, Any] | None = None,
    ):
        if repeat < 1:
            raise ValueError(f"Policy: repeat must be at least 1, got {repeat}")
        settings = {
            "frame_shape": list(frame_shape),
            "action_space": action_space,
            "width": width,
            "features": features,
            "bins": bins,
            "limit": limit,
            "frames": frames,
            "repeat": repeat,
            "environment": environment,
        }
        super().__init__(settings)
        self._frames, self.repeat = frames, repeat
        self.encoder = FrameEncoder(self._shape, frames, width, features)
        self.action = nn.Linear(self._table.feature_size, features, bias=False)
        self.trunk = nn.Linear(features, features, act="silu")
        self.actor = ActionHead(self._table, features)
        self.critic = nn.Linear(features, bins, init=nn.zeros)
        self._bins = ops.two_hot_bins(count=bins, high=limit)
        self._plans: dict[tuple[int, bool], _Acting] = {}

    @classmethod
    def for_world(cls, world: Any, recurrent: bool = False, **settings: Any) -> Any:
        """A policy for a world's frames and actions; it remembers which real environment they are of.  recurrent: one
        with an LSTM instead (models.diamond.RecurrentPolicy, with its settings), which train_policy learns by
        REINFORCE."""
        if not recurrent:
            return super().for_world(world, **settings)
        from .models.diamond import RecurrentPolicy

        return RecurrentPolicy.for_world(world, **settings)

    def forward(self, frames: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """frames (B,n,H,W,C) uint8, the features of the action before (B,F) -> action distribution (B,D),
        value logits (B,bins)."""
        h = self.trunk(ops.add(self.encoder(side_by_side(frames)), self.action(last)))
        return self.actor(h), self.critic(h)

    def value(self, logits: Tensor) -> Tensor:
        """Expected return (B,) of value logits (B,bins) (two-hot; Hafner et al. 2023)."""
        return ops.two_hot_mean(logits, self._bins)

    def acting(self, n: int, greedy: bool = False) -> _Acting:
        """The plan that acts for n environments; it reads the weights as they are at each call."""
        key = (n, greedy)
        if key not in self._plans:
            self._plans[key] = _Acting(self, n, greedy)
        return self._plans[key]

    def __call__(
        self, frames: np.ndarray, first: np.ndarray, state: Any = None, greedy: bool = False, seed: int = 0
    ) -> tuple[Any, Any]:
        """Act: frames (N,H,W,C) uint8 now, first (N,): an episode begins here, state: what the last call
        returned.

        Returns (N actions, state): each action `repeat` times in a row, fewer where an episode ends.  Random draws
        depend on seed, lane and step only.
        """
        N = len(frames)
        self._check_frames(frames)
        if state is None:
            state = {
                "past": np.repeat(frames[:, None], self._frames, 1),
                "last": np.zeros((N, self._table.feature_size), np.float32),
                "held": np.zeros(N, np.int64),
                "actions": [None] * N,
                "stream": streams(np.uint64(seed) * np.uint64(1 << 20) + np.arange(N, dtype=np.uint64)),
            }
        past, last = state["past"].copy(), state["last"].copy()
        past[:, :-1] = past[:, 1:]
        past[:, -1] = frames
        past[first], last[first] = frames[first][:, None], 0
        picks, numbers, _ = self.acting(N, greedy).act(past, last, state["stream"])
        codes = self.actor.codes(picks, numbers)
        stream, decides = state["stream"].copy(), first | (state["held"] == 0)
        stream[:, 3] += 1
        actions = [self._table.decode(codes[i]) if decides[i] else state["actions"][i] for i in range(N)]
        return actions, {
            "past": past,
            "last": np.where(decides[:, None], self._table.features(codes), last),
            "held": np.where(decides, self.repeat, state["held"]) - 1,
            "actions": actions,
            "stream": stream,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_plans": {}}  # plans are made again when they are wanted

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Any:
        """Read a file of save, of a RecurrentPolicy too, or of a project that `pretrained` knows by its keys.  Raises
        FileNotFoundError, or ValueError saying what is wrong with the file."""
        from .pretrained import is_ours

        if not is_ours(path):
            from .pretrained.families import load_policy

            return load_policy(path)
        tensors, metadata = read_tensors(path)
        about = metadata.get("worldmodel")
        if not isinstance(about, dict) or about.get("kind") != "policy" or about.get("format") != FORMAT:
            raise ValueError(f"{os.fspath(path)}: not a policy of this library and version")
        make = cls
        if about.get("make") == "recurrent":
            from .models.diamond import RecurrentPolicy as make
        try:
            policy = make(**about["settings"])
            policy.load_state_dict(tensors)
            scale = about.get("reward_scale")
            policy.reward_scale = None if scale is None else float(scale)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: {error.args[0] if error.args else error}") from None
        return policy


class _Acting:
    """A frozen forward pass for n environments."""

    def __init__(self, policy: Policy, n: int, greedy: bool):
        H, W, C = policy._shape
        self.frames = Tensor(np.zeros((n, policy._frames, H, W, C), np.uint8), copy=True)
        self.last = Tensor(np.zeros((n, policy.table.feature_size), np.float32), copy=True)
        self.stream = Tensor(np.zeros((n, 4), np.int32), copy=True)
        with Tape(grad=False) as tape:
            d, value = policy.forward(self.frames, self.last)
            picks, numbers = policy.actor.sample(d, self.stream, greedy)
            outputs = [*picks, *([numbers] if numbers is not None else []), policy.value(value)]
        self.choices, self.has_numbers = len(picks), numbers is not None
        self.plan: Plan = tape.plan(*outputs)

    def act(
        self, frames: np.ndarray, last: np.ndarray, stream: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """-> picks (n,choices) int32, numbers (n,K) or None, values (n,)."""
        self.frames.copy_(frames), self.last.copy_(last), self.stream.copy_(stream)
        out = [np.array(t.numpy()) for t in self.plan.run()]
        picks = np.stack(out[: self.choices], 1) if self.choices else np.zeros((len(frames), 0), np.int32)
        return picks, out[self.choices] if self.has_numbers else None, out[-1]
