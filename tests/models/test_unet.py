"""The UNet: ten AdamW steps against PyTorch's (dumps/unet.npz); batches are singles; a sampler goes on as it would."""

from pathlib import Path

import numpy as np
import pytest
import tiny_dit
import tiny_unet
from worldmodel import Tape, optim
from worldmodel.models.dynamics import Window
from worldmodel.models.motion import moving
from worldmodel.models.unet import UNet
from worldmodel.tensor import Tensor

DUMP = Path(__file__).parent.parent / "dumps" / "unet.npz"


def test_ten_steps_match_pytorch(kernels):
    dump = np.load(DUMP)
    model = tiny_unet.make()
    model.load_state_dict({n[6:]: dump[n].astype(np.float32) for n in dump.files if n.startswith("first.")})
    window = Window(**{n: Tensor(dump[f"window.{n}"], copy=True) for n in Window.__dataclass_fields__})
    adamw = optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    trace = []
    for step in range(10):
        with Tape() as tape:
            losses = tiny_unet.losses(model, window, tiny_dit.stream_of(step + 1, 4))
            total, *rest = losses.values()
            for part in rest:
                total = total + part
        tape.backward(total)
        adamw.step()
        trace.append([float(losses[k]) for k in tiny_unet.PARTS])
    assert np.allclose(trace, dump["losses"], rtol=5e-4, atol=1e-6)
    for name, t in model.named_tensors():
        want = dump["moved." + name]
        moved = (t.numpy().astype(np.float64) - dump["first." + name]).reshape(len(want), -1).sum(1)
        assert np.abs(moved - want).mean() <= 0.02 * np.abs(want).mean() + 1e-5, name


def test_windows_that_feed_themselves_see_their_own_guesses():
    """Nothing fed: a step's loss does not depend on the guess before it; all fed: it does."""
    window, stream = tiny_unet.window_of(3), tiny_dit.stream_of(3, 4)
    real = [float(tiny_unet.make(self_fed=s).losses(window, stream)["frames"]) for s in (0.0, 1.0)]
    single = tiny_unet.make(rollout=1)
    by_hand = []
    for t in range(2):
        part = {k: v.numpy()[:, t : t + 3] for k, v in vars(window).items()}
        part = Window(**{k: Tensor(np.ascontiguousarray(v)) for k, v in part.items()})
        by_hand.append(float(single.losses(part, stream)["frames"]))
    assert abs(by_hand[0] + by_hand[1] - 2 * real[0]) < 0.2 * real[0] and real[0] != real[1]


def test_what_moved_weighs_more():
    """By hand: with one pixel that moved, the loss is the mean of |x_hat - x|^2 under weights of mean 1."""
    frames = np.full((1, 2, 8, 8, 1), 100, np.uint8)
    frames[0, 1, 4, 4] = 160
    root = moving(frames, gain=3.0).numpy()[0, :, :, 0]
    near = np.zeros((8, 8), bool)
    near[2:7, 2:7] = True
    mean = (64 + 3 * 25) / 64
    np.testing.assert_allclose(root**2, np.where(near, 4, 1) / mean, rtol=1e-6)
    window, stream = tiny_unet.window_of(3), tiny_dit.stream_of(3, 4)
    window.frames.numpy()[:, :, :, :4] = 100  # half of it keeps still
    plain, weighed = (float(tiny_unet.make(motion=m).losses(window, stream)["frames"]) for m in (0.0, 5.0))
    assert plain != weighed and 0.2 < weighed / plain < 5


@pytest.mark.parametrize("steps", [1, 3])
def test_a_batch_is_its_singles(kernels, steps):
    model, rng = tiny_unet.make(), np.random.default_rng(4)
    frames = tiny_dit.frames_of(rng, 3, 2, shape=tiny_unet.SHAPE)
    actions = tiny_dit.actions_of(rng, 6).reshape(3, 2, -1)
    told = [tiny_dit.actions_of(rng, 3) for _ in range(3)]
    together = model.sampler(3, steps=steps)
    together.reset(frames, actions, seeds=np.arange(3))
    many = [together.step(a) for a in told]
    for i in range(3):
        alone = model.sampler(1, steps=steps)
        alone.reset(frames[i : i + 1], actions[i : i + 1], seeds=np.array([i]))
        for step, a in zip(many, told, strict=True):
            one = alone.step(a[i : i + 1])
            assert (one.frames[0] == step.frames[i]).all() and one.rewards[0] == step.rewards[i]


@pytest.mark.parametrize(
    "bad", [dict(context=1), dict(rollout=0), dict(self_fed=1.5), dict(motion=-1.0), dict(widths=(8,)), dict(size="Z")]
)
def test_a_wrong_size_is_an_error(bad):
    with pytest.raises(ValueError, match="UNet: "):
        UNet(tiny_unet.SHAPE, 3, **{**tiny_unet.SMALL, **bad})
