"""tiny_diamond: small worlds and policies of DIAMOND's kind with random weights, none 0, and inputs for them."""

import numpy as np
from gymnasium.spaces import Discrete
from worldmodel import World
from worldmodel.models.diamond import RecurrentPolicy
from worldmodel.spaces import space_to_json
from worldmodel.world import WorldConfig

ACTIONS = 5
SMALL = dict(
    channels=(32, 64), depths=(1, 2), attention=(0, 1), cond=64, outcome_channels=(32, 32), outcome_depths=(1, 1)
)


def made(shape=(16, 16, 3), size="T", seed=0, **options):
    """A world and a policy of random weights, the layers that are 0 at first among them."""
    config = WorldConfig("edm", size, shape, space_to_json(Discrete(ACTIONS)), options=options)
    world = World(config)
    policy = RecurrentPolicy(shape, config.action_space, (16, 32, 32), (1, 1, 0), 48)
    rng = np.random.default_rng(seed)
    for module in (world, policy):
        for name, t in module.named_tensors():
            fan = 1 if name.endswith("noise_emb.weight") else int(np.prod(t.shape[1:])) if t.ndim > 1 else 16
            start = 1.0 if name.endswith("norm.weight") else 0.0
            t.copy_(start + rng.standard_normal(t.shape) / np.sqrt(fan))
    return world, policy


def pixels(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def inputs(shape, B=2, n=4, seed=2):
    """noisy (B,H,W,C), context (B,H,W,n C), actions (B,n) and the same one-hot."""
    rng = np.random.default_rng(seed)
    noisy, context = pixels(rng, B, *shape) * 2, np.clip(pixels(rng, B, *shape[:2], n * shape[2]), -1, 1)
    actions = rng.integers(0, ACTIONS, (B, n))
    return noisy, context, actions, np.eye(ACTIONS, dtype=np.float32)[actions]
