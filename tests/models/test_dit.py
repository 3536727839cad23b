"""The network, its losses and its sampler's options."""

import numpy as np
import pytest
import tiny_dit
from worldmodel import Tape
from worldmodel.models.dit import DiT
from worldmodel.models.dit_config import SIZES, choose_patch
from worldmodel.models.dit_sampler import denoise_window
from worldmodel.tensor import Tensor, no_grad


def losses_of(model, seed=0, B=4, T=6):
    window = tiny_dit.window_of(np.random.default_rng(seed), B, T, model.frame_shape)
    with Tape() as tape:
        losses = model.losses(window, tiny_dit.stream_of(seed, B))
        total = losses["frame"] + losses["reward"] + losses["termination"]
    return tape, losses, total


def test_sizes():
    counts = {size: DiT((64, 64, 3), 4, size=size, stem=0).parameter_count() / 1e6 for size in ("T", "S")}
    assert 1 < counts["T"] < 3 and 8 < counts["S"] < 12
    assert SIZES["B"]["width"] == 384 and SIZES["L"] == dict(width=768, layers=12, time_every=4)


@pytest.mark.parametrize(
    ("shape", "patch"), [((64, 64), 8), ((48, 64), 8), ((32, 32), 4), ((96, 96), 12), ((1, 1), 1)]
)
def test_a_patch_gives_about_64_tokens(shape, patch):
    assert choose_patch(*shape) == patch


@pytest.mark.parametrize("shape", [(64, 64, 3), (48, 64, 1), (17, 23, 3), (5, 3, 2), (84, 84, 4)])
@pytest.mark.parametrize("stem", [0, 4])
def test_any_frame_size(shape, stem):
    model = DiT(
        shape, 3, "T", width=32, head_width=16, layers=2, stem=stem, context=2, window=3, outcome="start"
    )
    losses = model.losses(tiny_dit.window_of(np.random.default_rng(0), 2, 3, shape), tiny_dit.stream_of(0, 2))
    assert np.isfinite(float(losses["frame"]))
    sampler = model.sampler(2, steps=2)
    sampler.reset(tiny_dit.frames_of(np.random.default_rng(0), 2, 1, shape=shape))
    assert sampler.step(np.eye(3, dtype=np.float32)[:2]).frames.shape == (2, *shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size="XXL"), "size must be one of"),
        (dict(wdith=3), "unknown options"),
        (dict(width=30), "head_width must divide"),
        (dict(slots=3), "must hold the context"),
        (dict(outcome="tea"), "outcome"),
        (dict(layers=0), "layers"),
        (dict(action_dropout=1.0), "action_dropout"),
        (dict(objective=dict(finest=3)), "finest"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        DiT((16, 16, 3), 3, **{"size": "T", **options})


def test_a_new_network_says_the_frame_before():
    model = tiny_dit.make(awake=False)
    sampler = model.sampler(2, steps=1, context_level=1.0)
    frames = tiny_dit.frames_of(np.random.default_rng(1), 2, 2)
    sampler.reset(frames)
    step = sampler.step(tiny_dit.actions_of(np.random.default_rng(1), 2))
    assert np.abs(step.frames.astype(int) - frames[:, -1]).max() <= 1
    assert np.allclose(step.rewards, 0, atol=1e-3) and np.allclose(step.termination, 0.5)


def test_every_parameter_learns(kernels):
    model = tiny_dit.make(objective=dict(context=(0.2, 0.6), start=0.5, led=0.5))
    tape, losses, total = losses_of(model, B=8)
    assert set(losses) == {"frame", "reward", "termination"} and all(
        np.isfinite(float(v)) for v in losses.values()
    )
    tape.backward(total)
    for name, t in model.named_parameters():
        assert np.isfinite(t.grad).all() and np.abs(t.grad).max() > 0, name


def test_the_outcome_network_learns_apart():
    model = tiny_dit.make(outcome="apart", forget=0.3)
    window = tiny_dit.window_of(np.random.default_rng(0), 8)
    with Tape() as tape:
        losses = model.losses(window, tiny_dit.stream_of(0, 8)) | model.outcome_losses(window)
        assert set(losses) == {"frame", "reward", "termination"}
        total = losses["frame"] + losses["reward"] + losses["termination"]
    tape.backward(total)
    parts = model.parts()
    assert sum(len(p) for p in parts.values()) == len(model.parameters()) and set(parts) == {
        "frames",
        "outcome",
    }
    for name, t in model.named_parameters():
        assert np.abs(t.grad).max() > 0, name
    with Tape() as tape:
        loss = model.outcome_losses(window)["reward"]
    model.zero_grad()
    tape.backward(loss)
    assert all(t.grad is None or not t.grad.any() for t in parts["frames"])


def test_losses_depend_on_the_stream_only_by_its_numbers():
    model = tiny_dit.make()
    a, b = losses_of(model, 1)[1], losses_of(model, 1)[1]
    assert all(float(a[k]) == float(b[k]) for k in a)
    assert float(losses_of(model, 2)[1]["frame"]) != float(a["frame"])


def test_frames_that_do_not_count_change_no_loss():
    model = tiny_dit.make()
    rng = np.random.default_rng(5)
    window = tiny_dit.window_of(rng)
    window.frame_weight.numpy()[:, -1] = 0
    window.step_weight.numpy()[:, -1] = 0
    first = model.losses(window, tiny_dit.stream_of(0, 4))
    window.frames.numpy()[:, -1] = 255 - window.frames.numpy()[:, -1]
    window.rewards.numpy()[:, -1] += 5
    second = model.losses(window, tiny_dit.stream_of(0, 4))
    assert float(first["frame"]) == float(second["frame"]) and float(first["reward"]) == float(
        second["reward"]
    )


def test_an_unseen_last_frame_does_not_tell_the_heads():
    """Where a terminal frame is not observed, what stands in its place must not show: heads read at tau =
    0."""
    model = tiny_dit.make(objective=dict(start=1.0, context=(0.0, 0.0), led=0.0))
    window = tiny_dit.window_of(np.random.default_rng(6))
    first = model.losses(window, tiny_dit.stream_of(0, 4))
    window.frames.numpy()[...] = 255 - window.frames.numpy()
    second = model.losses(window, tiny_dit.stream_of(0, 4))
    assert float(first["termination"]) == float(second["termination"])


def test_actions_change_frames_and_unknown_ones_are_the_null():
    model = tiny_dit.make()
    samplers = [model.sampler(1) for _ in range(4)]
    frames = tiny_dit.frames_of(np.random.default_rng(0), 1, 2)
    for s in samplers:
        s.reset(frames, seeds=[3])
    actions = [np.eye(3, dtype=np.float32)[[i]] for i in (0, 1)] + [np.full((1, 3), np.nan, np.float32)] * 2
    out = [s.step(a).features for s, a in zip(samplers, actions, strict=True)]
    assert (
        not np.array_equal(out[0], out[1])
        and not np.array_equal(out[0], out[2])
        and np.array_equal(out[2], out[3])
    )


@pytest.mark.parametrize("guidance", [dict(action_guidance=2.0), dict(history_guidance=1.5)])
def test_guidance_of_one_is_exact_and_more_is_not(guidance):
    model = tiny_dit.make()
    frames = tiny_dit.frames_of(np.random.default_rng(0), 1, 2)

    def roll(**options):
        s = model.sampler(1, steps=2, **options)
        s.reset(frames, seeds=[3])
        return s.step(np.eye(3, dtype=np.float32)[:1]).features

    plain = roll()
    assert np.array_equal(plain, roll(**dict.fromkeys(guidance, 1.0)))
    assert not np.array_equal(plain, roll(**guidance))


def test_guidance_is_linear_in_its_weight():
    from worldmodel.diffusion import guide

    rng = np.random.default_rng(0)
    a, b = (Tensor(rng.standard_normal((2, 3)).astype(np.float32)) for _ in range(2))
    assert np.array_equal(guide(a, a, b, 1.0).numpy(), a.numpy())
    assert np.allclose(guide(a, a, b, 2.0).numpy(), 2 * a.numpy() - b.numpy(), atol=1e-6)


@pytest.mark.parametrize("steps", [0, 3, 16])
def test_wrong_steps_are_errors(steps):
    with pytest.raises(ValueError, match="steps must be a power of two up to 8"):
        tiny_dit.make().sampler(1, steps=steps)


@pytest.mark.parametrize("outcome", ["start", "frame", "apart"])
def test_steps_of_all_counts_and_heads(outcome):
    model = tiny_dit.make(outcome=outcome)
    for steps in (1, 2, 4, 8):
        sampler = model.sampler(2, steps=steps)
        sampler.reset(tiny_dit.frames_of(np.random.default_rng(0), 2, 2))
        step = sampler.step(tiny_dit.actions_of(np.random.default_rng(0), 2))
        assert step.frames.shape == (2, *tiny_dit.SHAPE) and step.frames.dtype == np.uint8
        assert step.rewards.shape == (2,) and step.terminated.dtype == bool and step.features.shape == (2, 16)


@pytest.mark.parametrize("schedule", ["autoregressive", "pyramid", "full"])
def test_windows_denoised_at_once(schedule):
    model = tiny_dit.make()
    rng = np.random.default_rng(0)
    frames = tiny_dit.frames_of(rng, 2, 5)
    actions = np.stack([tiny_dit.actions_of(rng, 5) for _ in range(2)])
    known = np.ones((2, 5), np.float32)
    with no_grad():
        out = denoise_window(model, frames, actions, known, tiny_dit.stream_of(0, 2), schedule, steps=2)
    assert np.array_equal(out[:, :2], frames[:, :2]) and out.shape == frames.shape
    later = frames.copy()
    later[:, 2:] = 7  # what is to be imagined cannot matter
    assert np.array_equal(
        out, denoise_window(model, later, actions, known, tiny_dit.stream_of(0, 2), schedule, steps=2)
    )


def test_an_autoregressive_window_ignores_later_actions():
    model = tiny_dit.make()
    rng = np.random.default_rng(0)
    frames = tiny_dit.frames_of(rng, 1, 5)
    actions, known = tiny_dit.actions_of(rng, 5)[None], np.ones((1, 5), np.float32)
    other = actions.copy()
    other[:, 4] = 1 - other[:, 4]
    a, b = (
        denoise_window(model, frames, x, known, tiny_dit.stream_of(0, 1), "autoregressive", steps=2)
        for x in (actions, other)
    )
    assert np.array_equal(a[:, :4], b[:, :4]) and not np.array_equal(a[:, 4], b[:, 4])


def test_weights_survive_a_file(tmp_path):
    model, other = tiny_dit.make(seed=1), tiny_dit.make(seed=2)
    path = str(tmp_path / "dit.safetensors")
    model.save(path)
    other.load(path)
    assert all(
        np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    assert float(losses_of(model)[1]["frame"]) == float(losses_of(other)[1]["frame"])


def test_windows_longer_than_the_tables_are_errors():
    model = tiny_dit.make()
    with pytest.raises(ValueError, match="windows of at most 6 frames, got 7"):
        losses_of(model, T=7)


def test_a_training_step_allocates_nothing_in_steady_state():
    from worldmodel import _core

    model = tiny_dit.make()
    for i in range(4):
        before = _core.pool()["misses"]
        tape, _, total = losses_of(model, i)
        tape.backward(total)
        tape.clear()
        model.zero_grad()
    assert _core.pool()["misses"] == before
