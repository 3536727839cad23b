"""diamond: agents of DIAMOND (github.com/eloialonso/diamond): `denoiser.inner_model.*`, `rew_end_model.*` and
`actor_critic.*`.

Their sizes are read from the shapes; what no shape says (sigma_data, offset noise, the solver) is as published.
"""

from __future__ import annotations

from typing import Any

from ..models.diamond import Diamond, RecurrentPolicy
from ..models.diamond.blocks import channels_first, pixels_last
from ..policy import Policy
from ..world import World, WorldConfig
from .keys import Key, Layout, count, emptied, fill, lengths, numbers, whole_root
from .stored import State

NAME = "DIAMOND's agent"
BACKBONE = "edm"
SIGNS = (
    "denoiser.inner_model.conv_in.weight",
    "rew_end_model.encoder.conv_in.weight",
    "actor_critic.actor_linear.weight",
)
REWARD_LSTM = "rew_end_model.lstm.weight_ih_l0"
FPS = 15.0
"""Atari's 60 frames a second, every fourth shown."""


def matches(state: State) -> bool:
    return any(sign in state for sign in SIGNS)


def world_of(state: State) -> World:
    """The denoiser and the reward model as a world.  Raises ValueError listing what does not fit."""
    from .. import nn

    state = _without_the_compiler(state)
    config = WorldConfig("edm", "atari", (1, 1, 1), {}, fps=FPS)
    _, cond = lengths(state, "denoiser.inner_model.cond_proj.0.weight", 2)
    actions, each = lengths(state, "denoiser.inner_model.act_emb.0.weight", 2)
    C = lengths(state, "denoiser.inner_model.conv_out.weight", 4)[0]
    context = cond // each
    depths, channels, attention = _levels(state, "denoiser.inner_model.unet.d_blocks.")
    e_depths, e_channels, e_attention = _levels(state, "rew_end_model.encoder.blocks.", extra=1)
    side = _side(state)
    config.frame_shape = (side, side, C)
    config.action_space = _discrete(actions)
    config.options = {
        "context": context,
        "cond": cond,
        "depths": depths,
        "channels": channels,
        "attention": attention,
        "outcome_cond": lengths(state, "rew_end_model.act_emb.weight", 2)[1],
        "outcome_depths": e_depths,
        "outcome_channels": e_channels,
        "outcome_attention": e_attention,
        "lstm": lengths(state, REWARD_LSTM, 2)[0] // 4,
    }
    with nn.blank(numbers(state)):
        world = World(config)
    part = {k: v for k, v in state.items() if not k.startswith("actor_critic.")}
    fill(dict(world.named_tensors()), _world_keys(world), part)
    return world


def policy_of(state: State) -> RecurrentPolicy:
    """The actor-critic as a policy.  Raises ValueError listing what does not fit."""
    from .. import nn

    state = _without_the_compiler(state)
    part = {k: v for k, v in state.items() if k.startswith("actor_critic.")}
    actions, lstm = lengths(part, "actor_critic.actor_linear.weight", 2)
    layers = "actor_critic.encoder.encoder."
    first, C = lengths(part, layers + "0.weight", 4)[:2]
    channels, down, at = [], [], 1
    while f"{layers}{at}.f.2.weight" in part:
        channels.append(lengths(part, f"{layers}{at}.f.2.weight", 4)[0])
        down.append(0 if f"{layers}{at + 1}.f.2.weight" in part else 1)
        at += 1 + down[-1]
    if not channels or channels[0] != first:
        raise ValueError(f"misshapen {layers}1.f.2.weight: wanted {first} channels")
    side = whole_root(lengths(part, "actor_critic.lstm.weight_ih", 2)[1] // channels[-1]) << sum(down)
    if REWARD_LSTM in state and _side(state) == side // 2:  # max-pooling has no names
        down[-1], side = 0, side // 2
    with nn.blank(numbers(part)):
        policy = RecurrentPolicy((side, side, C), _discrete(actions), channels, down, lstm)
    fill(dict(policy.named_tensors()), _policy_keys(policy), part)
    return policy


def state_of(world: World, policy: Policy | RecurrentPolicy | None = None) -> dict[str, Any]:
    """A world's (and a policy's) tensors under DIAMOND's names.  Raises ValueError for another policy."""
    out = emptied(dict(world.named_tensors()), _world_keys(world))
    if isinstance(policy, RecurrentPolicy):
        out |= emptied(dict(policy.named_tensors()), _policy_keys(policy))
    elif policy is not None:
        raise ValueError("torch-keys: the policy must be a RecurrentPolicy, DIAMOND's actor-critic")
    return out


def states_of(world: World, policy: Any = None) -> dict[str, dict[str, Any]]:
    """One file, ""."""
    return {"": state_of(world, policy)}


def _pixels(channels: int) -> Layout:
    return Layout(lambda a: pixels_last(a, channels), lambda a: channels_first(a, channels), lambda s: s)


def _world_keys(world: World) -> dict[str, Key]:
    keys = {}
    for ours, t in world.named_tensors():
        keys[ours] = Key.of(ours.removeprefix("dynamics."), t.shape)
    dynamics = world.dynamics
    assert isinstance(dynamics, Diamond)
    last = dynamics.rew_end_model.encoder.blocks[-1].resblocks[0].conv1.weight.shape[-1]
    keys["dynamics.rew_end_model.lstm.weight_ih_l0"] = Key((REWARD_LSTM,), _pixels(last))
    return keys


def _policy_keys(policy: RecurrentPolicy) -> dict[str, Key]:
    keys = {ours: Key.of(ours, t.shape) for ours, t in policy.named_tensors()}
    last = policy._settings["channels"][-1]
    keys["actor_critic.lstm.weight_ih"] = Key(("actor_critic.lstm.weight_ih",), _pixels(last))
    return keys


def _levels(state: State, prefix: str, extra: int = 0) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(depths, channels, attention) of the levels going down; extra: groups of blocks after them."""
    depths, channels, attention = [], [], []
    for i in range(count(state, prefix) - extra):
        blocks = f"{prefix}{i}.resblocks."
        depths.append(count(state, blocks))
        channels.append(lengths(state, blocks + "0.conv1.weight", 4)[0])
        attention.append(int(blocks + "0.attn.qkv_proj.weight" in state))
    if not depths or 0 in depths:
        raise ValueError(f"missing {prefix}0.resblocks.0")
    return tuple(depths), tuple(channels), tuple(attention)


def _side(state: State) -> int:
    """Of the square frames, in pixels, from the reward model's LSTM."""
    _, channels, _ = _levels(state, "rew_end_model.encoder.blocks.", extra=1)
    return whole_root(lengths(state, REWARD_LSTM, 2)[1] // channels[-1]) << (len(channels) - 1)


def _without_the_compiler(state: State) -> State:
    """torch.compile puts `_orig_mod.` into names."""
    return {name.replace("._orig_mod.", "."): tensor for name, tensor in state.items()}


def _discrete(n: int) -> dict[str, Any]:
    from gymnasium.spaces import Discrete

    from ..spaces import space_to_json

    return space_to_json(Discrete(n))


__all__ = ["NAME", "matches", "policy_of", "state_of", "states_of", "world_of"]
