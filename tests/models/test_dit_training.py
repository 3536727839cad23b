"""Ten AdamW steps against PyTorch's (dumps/dit.npz), and what training does on a toy: shortcuts agree, frames
come out."""

from pathlib import Path

import numpy as np
import tiny_dit
from worldmodel import Tape, _core, machine, ops, optim
from worldmodel.models.dit import DiT
from worldmodel.models.dynamics import Window
from worldmodel.tensor import Tensor, no_grad

cuda_too = True
DUMP = Path(__file__).parent.parent / "dumps" / "dit.npz"
SMALL = dict(
    width=16,
    layers=2,
    time_every=2,
    head_width=8,
    patch=4,
    stem=4,
    window=4,
    context=2,
    slots=4,
    features=6,
    bins=5,
)


def test_ten_steps_match_pytorch(kernels):
    dump = np.load(DUMP)
    model = tiny_dit.make(**SMALL)
    model.load_state_dict({n[6:]: dump[n] for n in dump.files if n.startswith("first.")})
    window = Window(**{n: Tensor(dump[f"window.{n}"], copy=True) for n in Window.__dataclass_fields__})
    adamw = optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    trace = []
    for step in range(10):
        with Tape() as tape:
            losses = model.losses(window, tiny_dit.stream_of(step + 1, 4))
            total = losses["frame"] + losses["reward"] + losses["termination"]
        tape.backward(total)
        adamw.step()
        trace.append([float(losses[k]) for k in ("frame", "reward", "termination")])
    assert np.allclose(trace, dump["losses"], rtol=3e-4, atol=1e-6)
    for name, t in model.named_tensors():
        moved = np.abs(dump["last." + name] - dump["first." + name]).mean()
        error = np.abs(t.numpy() - dump["last." + name]).mean()
        assert error <= 0.02 * moved + 1e-7, f"{name}: {error:.3g} of {moved:.3g}"


def coins(rng, B, T, side=8):
    """A square that goes left or right by a coin nobody sees: what comes next has two answers, so one step
    from noise and two half steps differ until the shortcut is learned."""
    frames = np.full((B, T, side, side, 1), 40, np.uint8)
    x = rng.integers(0, side, B)
    for t in range(T):
        for b in range(B):
            frames[b, t, 3:5, [x[b] % side, (x[b] + 1) % side]] = 220
        x = x + np.where(rng.random(B) < 0.5, 2, -2)
    zero, one = np.zeros((B, T), np.float32), np.ones((B, T), np.float32)
    return Window(
        frames=Tensor(frames),
        actions=Tensor(np.zeros((B, T, 1), np.float32)),
        known=Tensor(zero),
        rewards=Tensor(zero),
        terminated=Tensor(zero),
        frame_weight=Tensor(one),
        step_weight=Tensor(zero),
    )


def trained(bootstrap, steps=400):
    machine.seed(1)
    objective = dict(finest=2, bootstrap=bootstrap, start=0.5, context=(0.5, 0.9), low=0.95)
    model = DiT(
        (8, 8, 1),
        1,
        "T",
        width=32,
        head_width=16,
        layers=2,
        time_every=2,
        patch=2,
        stem=0,
        window=4,
        context=2,
        features=8,
        outcome="start",
        forget=0.0,
        action_dropout=0.0,
        objective=objective,
    )
    adamw, rng, trace = optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), clip=1.0), np.random.default_rng(0), []
    for step in range(steps):
        window = coins(rng, 16, 4)
        with Tape() as tape:
            loss = model.losses(window, tiny_dit.stream_of(step, 16))["frame"]
        tape.backward(loss)
        adamw.step()
        trace.append(float(loss))
    return model, trace


def disagreement(model):
    """Mean squared difference between one step of size 1 from noise and two of size 1/2, given a clean
    past."""
    rng = np.random.default_rng(9)
    window, T = coins(rng, 64, 4), 4
    level = np.full((64, T), 0.98, np.float32)
    level[:, -1] = 0
    with no_grad():
        y, _ = ops.noise_frames(window.frames, tiny_dit.stream_of(99, 64), Tensor(level))
        z = model.condition.vector(window.actions, window.known)

        def say(x, tau, d):
            taus, sizes = level.copy(), np.full((64, T), 0.5, np.float32)
            taus[:, -1], sizes[:, -1] = tau, d
            return model.say(x, taus, sizes, z, features=False)[0].numpy()[:, -1:]

        one = say(y, 0.0, 1.0)
        half = y.numpy().copy()
        half[:, -1:] += 0.5 * (say(y, 0.0, 0.5) - half[:, -1:])
        two = say(Tensor(half), 0.5, 0.5)
    return float(((one - two) ** 2).mean())


def test_shortcut_steps_agree_more_with_training():
    plain, trace = trained(0.0)
    shortcut, _ = trained(0.5)
    assert np.mean(trace[-20:]) < 0.5 * np.mean(trace[:5])  # it learns at all
    assert disagreement(shortcut) < 0.6 * disagreement(plain)


def test_blocks_that_compute_again_give_the_same_gradients_in_less_memory():
    gradients, most = [], []
    for recompute in (0, 3):
        model = tiny_dit.make(recompute=recompute)
        window, stream = tiny_dit.window_of(np.random.default_rng(0)), tiny_dit.stream_of(1, 4)
        for _ in range(2):
            model.zero_grad()
            before = _core.pool()["bytes_in_use"]
            with Tape() as tape:
                total = sum(model.losses(window, stream).values(), start=Tensor(np.zeros((), np.float32)))
            recorded = _core.pool()["bytes_in_use"] - before
            tape.backward(total)
            tape.clear()
        gradients.append([np.array(t.grad) for t in model.parameters()])
        most.append(recorded)
    assert all(map(np.array_equal, *gradients))
    assert most[1] < 0.6 * most[0]
