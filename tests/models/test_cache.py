"""The cache contract: what a sampler imagines does not depend on how it remembers, with whom it shares a
batch, or when it was interrupted."""

import numpy as np
import pytest
import tiny_dit
from worldmodel import ops
from worldmodel.models import dit_sampler
from worldmodel.sampling import streams
from worldmodel.tensor import Tensor, no_grad

LATENT = {"tokenizer": tiny_dit.tokenizer(), "stem": 0, "patch": 1}
PARTS = ("frames", "rewards", "terminated", "termination", "features")


def same(a, b):
    return all(np.array_equal(getattr(a, p), getattr(b, p)) for p in PARTS)


def start(model, n, seed=0, **options):
    rng = np.random.default_rng(seed)
    sampler = model.sampler(n, **options)
    frames, actions = (
        tiny_dit.frames_of(rng, n, model.context),
        np.stack([tiny_dit.actions_of(rng, model.context) for _ in range(n)]),
    )
    sampler.reset(frames, actions, seeds=np.arange(n) + 10)
    return sampler, rng


def uncached(model, frames, actions, later, seed, steps, level):
    """One environment without a cache: at every pass the whole window goes through the network.  Yields
    frames, features."""
    context, (size, finest) = model.context, (1 / steps, 1 / model.objective.finest)
    stream = Tensor(streams([seed]), copy=True)
    given = Tensor(np.full((1, context), level, np.float32))
    past, _ = model.tokenizer.noised(Tensor(frames[None]), stream, given, dit_sampler.SALT_CONTEXT)
    acted = actions[None]
    for a in later:
        ops.stream_advance(stream)
        T = past.shape[1] + 1
        acted = np.concatenate([acted, a[None, None]], 1)
        z = model.condition.vector(Tensor(acted), Tensor(np.ones((1, T), np.float32)))
        y = ops.normal(stream, salt=dit_sampler.SALT_START, shape=(1, 1, *model.tokenizer.shape))

        def say(x, tau, d, past=past, T=T, z=z):
            taus, sizes = np.full((1, T), level, np.float32), np.full((1, T), finest, np.float32)
            taus[0, -1], sizes[0, -1] = tau, d
            out, features = model.say(ops.concat(past, x, axis=1), taus, sizes, z)
            return out[:, T - 1 :], features[:, T - 1]

        for k in range(steps):
            said, _ = say(y, k / steps, size)
            y = (
                said
                if k == steps - 1
                else ops.shortcut_step(
                    y, said, dit_sampler.full((1, 1), k / steps), dit_sampler.full((1, 1), size), clip=1.0
                )
            )
        pixels = model.tokenizer.picture(y)
        last = model.tokenizer.kept(y, pixels, stream, dit_sampler.full((1, 1), level), dit_sampler.SALT_COMMIT)
        _, features = say(last, level, finest)
        past = ops.concat(past, last, axis=1)
        yield pixels.numpy()[0, 0].copy(), features.numpy()[0].copy()


@pytest.mark.parametrize("options", [{}, {"sinks": 2}, {"change": False}, {"stem": 0}, LATENT])
def test_a_cached_step_equals_the_whole_window(kernels, options):
    model = tiny_dit.make(**options)
    sampler, rng = start(model, 1, steps=2)
    first = np.random.default_rng(0)
    frames, actions = tiny_dit.frames_of(first, 1, 2)[0], tiny_dit.actions_of(first, 2)
    later = tiny_dit.actions_of(rng, 4)
    with no_grad():
        for a, (pixels, features) in zip(
            later, uncached(model, frames, actions, later, 10, 2, 0.98), strict=True
        ):
            step = sampler.step(a[None])
            assert np.array_equal(step.frames[0], pixels)
            assert np.array_equal(step.features[0], features)


@pytest.mark.parametrize("sinks", [0, 1, 3])
def test_a_ring_equals_a_shift(kernels, sinks):
    model = tiny_dit.make(sinks=sinks)
    ring, rng = start(model, 2, steps=1)
    shift, _ = start(model, 2, steps=1)
    slots = model.config.slots
    for _ in range(14):
        actions = tiny_dit.actions_of(rng, 2)
        assert same(ring.step(actions), shift.step(actions))
        if shift.state["position"].numpy()[0] < slots:
            continue
        for (
            name,
            t,
        ) in shift.state.items():  # the oldest frame of the ring first, as if all had moved one place down
            if "." in name:
                t.numpy()[:, sinks:] = np.roll(t.numpy()[:, sinks:], -1, axis=1)
        shift.state["position"].numpy()[:] = slots - 1


@pytest.mark.parametrize("options", [{"outcome": "start"}, {"outcome": "apart"}, LATENT])
def test_a_batch_equals_single_environments(kernels, options):
    model = tiny_dit.make(**options)
    batch, rng = start(model, 3)
    singles = [model.sampler(1) for _ in range(3)]
    again = np.random.default_rng(0)
    frames, actions = (
        tiny_dit.frames_of(again, 3, 2),
        np.stack([tiny_dit.actions_of(again, 2) for _ in range(3)]),
    )
    for i, s in enumerate(singles):
        s.reset(frames[i : i + 1], actions[i : i + 1], seeds=[i + 10])
    for _ in range(9):
        actions = tiny_dit.actions_of(rng, 3)
        whole = batch.step(actions)
        for i, s in enumerate(singles):
            one = s.step(actions[i : i + 1])
            assert all(np.array_equal(getattr(one, p)[0], getattr(whole, p)[i]) for p in PARTS)


@pytest.mark.parametrize("outcome", ["frame", "apart"])
def test_ragged_environments_equal_separate_runs(kernels, outcome):
    model = tiny_dit.make(outcome=outcome)
    batch, rng = start(model, 3, steps=2)
    for _ in range(5):
        batch.step(tiny_dit.actions_of(rng, 3))
    frames = tiny_dit.frames_of(rng, 1, 2)
    batch.reset(frames, seeds=[77], rows=[1])
    alone = model.sampler(1, steps=2)
    alone.reset(frames, seeds=[77])
    for _ in range(6):
        actions = tiny_dit.actions_of(rng, 3)
        whole, one = batch.step(actions), alone.step(actions[1:2])
        assert all(np.array_equal(getattr(one, p)[0], getattr(whole, p)[1]) for p in PARTS)


def test_a_reset_leaves_the_others_alone():
    model = tiny_dit.make()
    a, rng = start(model, 3)
    b, _ = start(model, 3)
    for t in range(5):
        if t == 2:
            b.reset(tiny_dit.frames_of(rng, 1, 1), seeds=[5], rows=[0])
        actions = tiny_dit.actions_of(rng, 3)
        x, y = a.step(actions), b.step(actions)
        assert all(np.array_equal(getattr(x, p)[1:], getattr(y, p)[1:]) for p in PARTS)


@pytest.mark.parametrize("options", [{"outcome": "start"}, {"outcome": "apart"}, LATENT])
def test_a_snapshot_continues_bit_for_bit(kernels, options):
    model = tiny_dit.make(**options)
    sampler, rng = start(model, 2)
    for _ in range(3):
        sampler.step(tiny_dit.actions_of(rng, 2))
    kept = sampler.snapshot()
    actions = [tiny_dit.actions_of(rng, 2) for _ in range(8)]
    first = [sampler.step(a) for a in actions]
    sampler.restore(kept)
    assert all(same(s, sampler.step(a)) for s, a in zip(first, actions, strict=True))
    other = model.sampler(2)
    other.restore(kept)
    assert all(same(s, other.step(a)) for s, a in zip(first, actions, strict=True))


def test_a_fork_equals_the_same_actions_from_the_start():
    model = tiny_dit.make()
    sampler, rng = start(model, 3)
    replay, _ = start(model, 3)
    past = [tiny_dit.actions_of(rng, 3) for _ in range(4)]
    for a in past:
        sampler.step(a)
    sampler.fork(0, [1, 2])
    again = np.random.default_rng(0)
    frames, actions = (
        tiny_dit.frames_of(again, 3, 2),
        np.stack([tiny_dit.actions_of(again, 2) for _ in range(3)]),
    )
    replay.reset(frames[[0, 0, 0]], actions[[0, 0, 0]], seeds=[10, 10, 10])
    for a in past:
        replay.step(a[[0, 0, 0]])
    for _ in range(7):
        a = tiny_dit.actions_of(rng, 3)
        assert same(sampler.step(a), replay.step(a))


@pytest.mark.parametrize("sinks", [0, 2])
def test_shared_memory_is_never_seen(sinks):
    """Forks, resets, restores and rests in any order == the same with whole copies, bit for bit."""
    model, n = tiny_dit.make(sinks=sinks), 5
    shared, _ = start(model, n, steps=1)
    copied, _ = start(model, n, steps=1)
    rng = np.random.default_rng(sinks)
    for _ in range(60):
        what, row = rng.choice(["step", "step", "rest", "fork", "reset", "restore"]), int(rng.integers(n))
        rows = rng.choice(n, rng.integers(1, n + 1), replace=False)
        if what == "fork":
            shared.fork(row, rows)
            one = copied.snapshot([row])
            copied.restore({k: np.repeat(v, len(rows), 0) for k, v in one.items()}, rows)
        elif what == "reset":
            frames = tiny_dit.frames_of(rng, len(rows), 2)
            for sampler in (shared, copied):
                sampler.reset(frames, seeds=rows + 50, rows=rows)
        elif what == "restore":
            kept = shared.snapshot(rows)
            assert all(np.array_equal(kept[k], v) for k, v in copied.snapshot(rows).items())
            order = rng.permutation(rows)
            for sampler in (shared, copied):
                sampler.restore(kept, order)
        else:
            actions, active = tiny_dit.actions_of(rng, n), np.ones(n, bool)
            active[rows] = what == "step"
            a, b = shared.step(actions, active), copied.step(actions, active)
            assert all(np.array_equal(getattr(a, p)[active], getattr(b, p)[active]) for p in PARTS)
        pages = shared._pages
        assert np.array_equal(pages._users, np.bincount(pages._where.ravel(), minlength=pages._users.size))


def test_a_fork_shares_until_something_is_written():
    model = tiny_dit.make()
    sampler, rng = start(model, 4)
    sampler.fork(1, [0, 2, 3])
    held = sampler._pages.of(np.arange(4))
    assert (held == held[1]).all()
    sampler.step(tiny_dit.actions_of(rng, 4))
    now, written = sampler._pages.of(np.arange(4)), 2  # the slot of the frame after the context
    assert len(set(now[:, written])) == 4
    assert np.array_equal(np.delete(now, written, 1), np.delete(held, written, 1))


def test_no_future_frame_leaks(kernels):
    model = tiny_dit.make()
    rng = np.random.default_rng(3)
    T = 5
    noisy = rng.standard_normal((1, T, *tiny_dit.SHAPE)).astype(np.float32)
    tau, size = rng.random((1, T)).astype(np.float32), np.full((1, T), 0.125, np.float32)
    z = rng.standard_normal((1, T, 32)).astype(np.float32)
    with no_grad():
        before = [t.numpy().copy() for t in model.say(Tensor(noisy), tau, size, Tensor(z))]
        for t in range(1, T):
            n2, tau2, z2 = noisy.copy(), tau.copy(), z.copy()
            n2[:, t:] += 1
            tau2[:, t:] *= 0.5
            z2[:, t:] -= 2
            after = [a.numpy() for a in model.say(Tensor(n2), tau2, size, Tensor(z2))]
            for a, b in zip(after, before, strict=True):
                assert np.array_equal(a[:, :t], b[:, :t])
                assert not np.array_equal(a[:, t:], b[:, t:])


def test_no_gradient_comes_from_the_past():
    from worldmodel import Tape

    model = tiny_dit.make()
    rng = np.random.default_rng(4)
    T, t = 5, 3
    noisy = Tensor(rng.standard_normal((1, T, *tiny_dit.SHAPE)).astype(np.float32), needs_grad=True)
    z = Tensor(rng.standard_normal((1, T, 32)).astype(np.float32), needs_grad=True)
    with Tape() as tape:
        out, features = model.say(
            noisy, np.full((1, T), 0.6, np.float32), np.full((1, T), 0.125, np.float32), z
        )
        loss = ops.square(out[:, :t]).sum() + ops.square(features[:, :t]).sum()
    tape.backward(loss)
    for g in (noisy.grad, z.grad):
        assert not g[:, t:].any()
        assert np.abs(g[:, :t]).reshape(t, -1).max(1).min() > 0


def test_the_horizon_has_no_end():
    model = tiny_dit.make(sinks=1)
    sampler, rng = start(model, 1, steps=1)
    sampler.state["position"].numpy()[:] += 2**30  # a stream that has run for a year
    for _ in range(8):
        step = sampler.step(tiny_dit.actions_of(rng, 1))
    assert np.isfinite(step.features).all()


def test_conditions_that_came_before_are_remembered_until_a_weight_is_written(monkeypatch):
    """Bits are those of conditions computed anew, through other batches, unknown actions and a write."""
    model = tiny_dit.make()
    told = [0, 1, 0, 2, 0, None, 1, None, 0, 0]

    def roll(count):
        sampler, _ = start(model, 2)
        runs = []
        plan = sampler._conditions._plan

        class Counted:
            outputs = plan.outputs

            def run(self):
                runs.append(1)
                return plan.run()

        sampler._conditions._plan = Counted()
        steps = []
        for t, a in enumerate(told):
            rows = np.eye(3, dtype=np.float32)[[a or 0, 1]]
            rows[0] = np.nan if a is None else rows[0]
            if t == 6:
                bias = model.blocks[0].modulation.bias
                bias.copy_(np.full(bias.shape, 0.1 * count, np.float32))
            steps.append(sampler.step(rows))
        return steps, len(runs)

    remembered, runs = roll(1)
    assert runs == 3 + 3  # 0 and 1, 2, unknown; after the write 1, unknown and 0 again
    monkeypatch.setattr("worldmodel.models.dit_conditions.Conditions._remember", lambda self, keys: None)
    model = tiny_dit.make()
    anew, _ = roll(1)
    assert all(map(same, remembered, anew))
    assert not all(map(same, anew, roll(2)[0]))
