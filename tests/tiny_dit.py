"""tiny_dit: a DiT small enough for every test, with no weight left at 0, and windows to feed it."""

import numpy as np
from worldmodel import machine
from worldmodel.models.dit import DiT
from worldmodel.models.dynamics import Window
from worldmodel.models.tokenizer import Autoencoder
from worldmodel.sampling import streams
from worldmodel.tensor import Tensor

SHAPE = (12, 16, 3)
FEATURES = 3


def make(seed=0, awake=True, **options):
    """awake: parameters that start at 0 (gates, the last layer, heads) are drawn, or nothing would depend on
    anything."""
    machine.seed(seed)
    chosen = dict(
        width=32,
        layers=3,
        time_every=2,
        head_width=16,
        patch=4,
        stem=4,
        window=6,
        context=2,
        slots=6,
        features=16,
        bins=11,
        token_features=3,
        outcome="start",
        forget=0.0,
    )
    model = DiT(SHAPE, FEATURES, size="T", **{**chosen, **options})
    rng = np.random.default_rng(seed)
    for name, t in model.named_parameters():
        if awake and not t.numpy().any():
            t[...] = rng.standard_normal(t.shape) * (0.3 if "modulation" in name else 0.1)
    return model


def tokenizer(seed=5, shape=SHAPE):
    """An autoencoder whose every weight counts."""
    machine.seed(seed)
    made = Autoencoder(shape, down=4, channels=2, width=4)
    rng = np.random.default_rng(seed)
    for _, t in made.named_parameters():
        if not t.numpy().any():
            t[...] = rng.standard_normal(t.shape) * 0.1
    return made


def frames_of(rng, *lead, shape=SHAPE):
    return rng.integers(0, 256, (*lead, *shape)).astype(np.uint8)


def window_of(rng, B=4, T=6, shape=SHAPE, features=FEATURES):
    def number(a):
        return Tensor(np.ascontiguousarray(a, np.float32))

    stepped = np.ones((B, T))
    stepped[:, 0] = 0
    known = stepped * (rng.random((B, T)) > 0.1)
    actions = np.eye(features)[rng.integers(0, features, (B, T))] * known[..., None]
    return Window(
        frames=Tensor(frames_of(rng, B, T, shape=shape)),
        actions=number(actions),
        known=number(known),
        rewards=number(rng.standard_normal((B, T)) * 3 * stepped),
        terminated=number((rng.random((B, T)) > 0.9) * stepped),
        frame_weight=number(np.ones((B, T))),
        step_weight=number(stepped),
    )


def stream_of(seed, B):
    return Tensor(streams(np.arange(B) + 1000 * seed), copy=True)


def actions_of(rng, n):
    return np.eye(FEATURES, dtype=np.float32)[rng.integers(0, FEATURES, n)]
