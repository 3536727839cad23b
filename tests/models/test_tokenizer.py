"""What a DiT computes on: pixels or latents; the autoencoder, its file, its training, and worlds on it."""

import numpy as np
import pytest
import tiny_dit
import worldmodel as wm
from gymnasium import spaces
from worldmodel import Tape, ops
from worldmodel.checkpoint import read_tensors, write_tensors
from worldmodel.models.tokenizer import Autoencoder, Pixels
from worldmodel.tensor import Tensor, no_grad
from worldmodel.train.loop import Budget
from worldmodel.train.tokenizer import psnr, train_tokenizer

SMALL = dict(down=4, channels=4, width=8, batch=8, quiet=True)


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    """Squares of two colours that move over a floor of stripes."""
    rng = np.random.default_rng(0)

    def episode(i):
        actions = rng.integers(0, 2, 12)
        at = np.clip(np.cumsum([6, *(4 * actions - 2)]), 0, 15)
        frames = np.zeros((len(at), 18, 21, 3), np.uint8)
        frames[:, ::3] = 60
        for t, x in enumerate(at):
            frames[t, 6:12, x : x + 6, i % 3] = 250
        return {"frames": frames, "actions": actions, "rewards": np.zeros(12), "terminated": False}

    path = tmp_path_factory.mktemp("squares") / "replay"
    return wm.Replay.from_arrays(path, spaces.Discrete(2), (episode(i) for i in range(8)))


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# ---- the two tokenizers ----


@pytest.mark.parametrize("shape", [(16, 16, 3), (18, 21, 1), (5, 7, 4), (1, 1, 3)])
@pytest.mark.parametrize("down", [2, 4, 8])
def test_any_frame_goes_there_and_back(shape, down):
    made = Autoencoder(shape, down=down, channels=5, width=4)
    frames = Tensor(tiny_dit.frames_of(np.random.default_rng(0), 2, 3, shape=shape))
    with no_grad():
        z = made.encode(frames)
        assert z.shape == (2, 3, *made.shape) and made.shape == (-(-shape[0] // down), -(-shape[1] // down), 5)
        assert np.abs(z.numpy()).max() < 1
        assert made.decode(z).shape == frames.shape
        assert made.picture(z).numpy().dtype == np.uint8


def test_what_stands_still_keeps_its_latents():
    """No norm: a change in one corner leaves the latents of the other as they were, bit for bit."""
    made = tiny_dit.tokenizer(shape=(64, 64, 3))
    a = tiny_dit.frames_of(np.random.default_rng(0), 1, shape=(64, 64, 3))
    b = a.copy()
    b[:, :8, :8] ^= 255
    with no_grad():
        x, y = (made.encode(Tensor(f)).numpy() for f in (a, b))
    assert not np.array_equal(x[:, :2, :2], y[:, :2, :2])
    assert np.array_equal(x[:, 8:, 8:], y[:, 8:, 8:])


def test_pixels_are_the_frames_themselves():
    pixels, rng = Pixels((4, 5, 3)), np.random.default_rng(1)
    frames, stream = Tensor(tiny_dit.frames_of(rng, 2, 3, shape=(4, 5, 3))), tiny_dit.stream_of(0, 2)
    tau = Tensor(rng.random((2, 3)).astype(np.float32))
    z = pixels.encode(frames)
    assert np.array_equal(pixels.picture(z).numpy(), frames.numpy())
    want = [t.numpy() for t in ops.noise_frames(frames, stream, tau, salt=7)[:2]]
    for got, w in zip(pixels.noised(frames, stream, tau, 7), want, strict=True):
        assert np.array_equal(got.numpy(), w)
    assert np.array_equal(pixels.kept(z, frames, stream, tau, 7).numpy(), want[0])


def test_latents_are_noised_as_pixels_are():
    made, rng = tiny_dit.tokenizer(), np.random.default_rng(2)
    frames, stream = Tensor(tiny_dit.frames_of(rng, 2, 3)), tiny_dit.stream_of(0, 2)
    tau = np.array([[0.0, 0.5, 1.0]] * 2, np.float32)
    with no_grad():
        noisy, clean = (t.numpy() for t in made.noised(frames, stream, Tensor(tau), 7))
        eps = ops.normal(stream, salt=7, shape=clean.shape).numpy()
        kept = made.kept(Tensor(3 * clean), frames, stream, Tensor(tau), 7).numpy()
    level = tau[..., None, None, None]
    np.testing.assert_allclose(noisy, level * clean + (1 - level) * eps, atol=1e-6)
    np.testing.assert_allclose(kept, level * np.clip(3 * clean, -1, 1) + (1 - level) * eps, atol=1e-6)


def test_no_gradient_reaches_a_tokenizer_from_a_world():
    tokenizer = tiny_dit.tokenizer()
    model = tiny_dit.make(tokenizer=tokenizer, stem=0, patch=1)
    with Tape() as tape:
        losses = model.losses(tiny_dit.window_of(np.random.default_rng(0)), tiny_dit.stream_of(0, 4))
    tape.backward(losses["frame"])
    mine = {id(t) for t in tokenizer.parameters()}
    assert not mine & {id(t) for part in model.parts().values() for t in part}
    assert all(t.grad is None or not t.grad.any() for t in tokenizer.parameters())


@pytest.mark.parametrize("wrong", [dict(down=3), dict(down=1), dict(channels=0), dict(width=0), dict(depth=0)])
def test_settings_that_make_no_network_are_errors(wrong):
    with pytest.raises(ValueError, match="Autoencoder: "):
        Autoencoder((16, 16, 3), **wrong)


# ---- its file ----


def test_a_file_keeps_every_bit(tmp_path):
    made = tiny_dit.tokenizer()
    made.save(tmp_path / "t.safetensors")
    read = Autoencoder.read(tmp_path / "t.safetensors")
    assert same(read.state_dict(), made.state_dict()) and read.settings == made.settings and read.shape == made.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(kind="world"), "not a tokenizer"),
        (dict(format=9), "not a tokenizer"),
        (dict(frame_shape=[12, 16]), "frame_shape must be three lengths"),
        (dict(frame_shape=[12, 16, 5000]), "frame_shape must be three lengths"),
        (dict(down=1 << 30), "whole numbers"),
        (dict(down="4"), "whole numbers"),
        (dict(width=4096), "more numbers than it holds"),
        (dict(depth=4000), "more numbers than it holds"),
        (dict(channels=3), "shapes differ"),
        (dict(tea=1), "unexpected keyword"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path, change, message):
    path = tmp_path / "t.safetensors"
    tiny_dit.tokenizer().save(path)
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {"worldmodel": {**about["worldmodel"], **change}})
    with pytest.raises(ValueError, match=message) as said:
        Autoencoder.read(path)
    assert str(path) in str(said.value)


# ---- training it ----


def test_it_learns_the_frames_and_goes_on_bit_for_bit(replay, tmp_path, monkeypatch):
    made = train_tokenizer(replay, steps=150, run=str(tmp_path / "whole"), **SMALL)
    frames = replay.sample(3, 32, 1).frames[:, 0]
    untrained = psnr(train_tokenizer(replay, steps=0, **SMALL), frames)
    assert psnr(made, frames) > untrained + 8
    monkeypatch.setattr(Budget, "spent", lambda self, spent=Budget.spent: self.done >= 60 or spent(self))
    train_tokenizer(replay, steps=150, run=str(tmp_path / "cut"), **SMALL)
    monkeypatch.undo()
    resumed = train_tokenizer(replay, steps=150, run=str(tmp_path / "cut"), **SMALL)
    assert same(made.state_dict(), resumed.state_dict())


def test_another_networks_run_folder_is_an_error(replay, tmp_path):
    train_tokenizer(replay, steps=1, run=str(tmp_path), **SMALL)
    with pytest.raises(ValueError, match="not the state of this tokenizer"):
        train_tokenizer(replay, steps=2, run=str(tmp_path), **{**SMALL, "width": 4})


# ---- worlds on it ----


@pytest.fixture(scope="module")
def world(replay):
    tokenizer = train_tokenizer(replay, steps=60, **SMALL)
    made = wm.World.create(replay, "T", "dit", tokenizer=tokenizer, width=64, layers=2, time_every=2)
    before = tokenizer.state_dict()
    wm.train_world(made, replay, steps=4, batch=2, rare=0, outcome_batch=2, evaluate_every=0, rollouts=2, quiet=True)
    assert same(made.tokenizer.state_dict(), before)  # held still
    return made


def test_a_world_on_latents_steps_saves_and_loads(replay, world, tmp_path):
    world.save(tmp_path / "w.safetensors")
    again = wm.World.load(tmp_path / "w.safetensors")
    assert again.config == world.config and world.dynamics.tokenizer is world.tokenizer
    frames, _ = world.starts
    for a, b in zip(world.starts, again.starts, strict=True):
        assert np.array_equal(a, b)
    films = [wm.rollout(w, frames[0], [0, 1, 1, 0], seed=4) for w in (world, again)]
    assert films[0].shape == (4, *replay.frame_shape) and np.array_equal(*films)


def test_a_world_on_latents_is_quantised_by_what_its_pictures_lose(replay, world):
    choice = world.quantize(replay, windows=4, loss_db=3.0)
    try:
        assert choice.layers and choice.psnr < 60
        assert wm.rollout(world, world.starts[0][0], [1, 1]).shape == (2, *replay.frame_shape)
    finally:
        world.quantize(layers=[])


def test_what_does_not_fit_is_an_error(replay, world, tmp_path):
    with pytest.raises(ValueError, match="unet backbone computes on pixels"):
        wm.World.create(replay, "T", "unet", tokenizer=world.tokenizer)
    with pytest.raises(ValueError, match="the tokenizer is for frames"):
        wm.World.create(replay, "T", "dit", tokenizer=tiny_dit.tokenizer())
    world.save(tmp_path / "w.safetensors")
    tensors, about = read_tensors(tmp_path / "w.safetensors")
    for described, message in (({"kind": "tea"}, "must be one of"), ({"kind": "autoencoder", "tea": 1}, "unexpected")):
        about["worldmodel"]["config"]["tokenizer"] = described
        write_tensors(tmp_path / "x.safetensors", tensors, about)
        with pytest.raises(ValueError, match=message):
            wm.World.load(tmp_path / "x.safetensors")
