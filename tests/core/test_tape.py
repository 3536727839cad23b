"""The tape: record, backward, replay, checkpoint, plan; and what each promises about bits and memory."""

import gc
import threading

import numpy as np
import pytest
from worldmodel import Tape, Tensor, _core, no_grad, ops


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaf(*shape, seed=0):
    return Tensor(normal(*shape, seed=seed), needs_grad=True, copy=True)


def block(x):
    for _ in range(4):
        x = ops.silu(ops.scale_shift(x, 1.5, 0.1))
    return x


def backward(x, f):
    with Tape() as tape:
        y = ops.mean(f(x))
    tape.backward(y)
    return tape, y, np.array(x.grad)


def test_gradients_are_added_over_uses_and_over_backwards():
    x = leaf(3, 5)
    with Tape() as tape:
        y = ops.sum(ops.add(ops.mul(x, x), x))
    tape.backward(y)
    np.testing.assert_allclose(x.grad, 2 * x.numpy() + 1, rtol=1e-6)
    tape.backward(y)
    np.testing.assert_allclose(x.grad, 2 * (2 * x.numpy() + 1), rtol=1e-6)
    x.zero_grad()
    assert x.grad is None


def test_a_given_gradient_weighs_the_outputs():
    x = leaf(4)
    with Tape() as tape:
        y = ops.scale_shift(x, 3.0, 0.0)
    tape.backward(y, Tensor(np.array([1, 0, 2, 0], np.float32)))
    assert x.grad.tolist() == [3, 0, 6, 0]


def test_results_give_their_gradient_back_unless_asked():
    x = leaf(3)
    with Tape() as tape:
        a, b = ops.silu(x), ops.silu(x)
        b.retain_grad()
        y = ops.sum(ops.add(a, b))
    tape.backward(y)
    assert a.grad is None and b.grad.tolist() == [1, 1, 1]


def test_replay_equals_a_fresh_run_bit_for_bit():
    x = Tensor(normal(7, 9), copy=True)
    with Tape() as tape:
        y = block(x)
    x.copy_(normal(7, 9, seed=1))
    tape.replay()
    assert np.array_equal(y.numpy(), block(Tensor(normal(7, 9, seed=1))).numpy())


def test_nothing_is_recorded_without_a_tape_or_under_no_grad():
    x = leaf(3)
    assert not ops.silu(x).needs_grad
    with Tape() as tape:
        with no_grad():
            assert not _core.is_recording()
            y = ops.silu(x)
        z = ops.silu(y)
    assert len(tape) == 1 and not z.needs_grad
    with pytest.raises(ValueError, match="depends on nothing that needs a gradient"):
        tape.backward(ops.sum(z))


def test_stop_gradient_stops():
    x = leaf(3)
    with Tape() as tape:
        y = ops.sum(ops.mul(x, ops.stop_gradient(x)))
    tape.backward(y)
    assert np.array_equal(x.grad, x.numpy())


def test_second_derivatives_are_refused_by_name():
    x = leaf(3)
    with Tape() as outer:
        with Tape() as inner:
            y = ops.sum(ops.square(x))
        with pytest.raises(RuntimeError, match="gradients of gradients"):
            inner.backward(y)
    assert len(outer) == 0
    inner.backward(y)


def test_checkpoint_gives_the_same_bits_with_less_memory():
    x = leaf(64, 1024)
    _, _, plain = backward(x, lambda x: block(block(block(x))))
    x.zero_grad()
    gc.collect()

    def peak(f):
        _core.pool_trim()
        tape, y, g = backward(x, f)
        x.zero_grad()
        used = _core.pool()["bytes_peak"]
        tape.clear()
        return used, g

    def saving(x):
        tape = saving.tape
        return tape.checkpoint(block, tape.checkpoint(block, tape.checkpoint(block, x)))

    normal_peak, _ = peak(lambda x: block(block(block(x))))
    _core.pool_trim()
    with Tape() as tape:
        saving.tape = tape
        y = ops.mean(saving(x))
    tape.backward(y)
    saved_peak = _core.pool()["bytes_peak"]
    assert np.array_equal(x.grad, plain)
    assert saved_peak < 0.7 * normal_peak
    tape.replay()
    x.zero_grad()
    tape.backward(y)
    assert np.array_equal(x.grad, plain)


def test_a_checkpoint_keeps_what_others_hold():
    x = leaf(5)
    seen = []

    def f(x):
        h = ops.silu(x)
        seen.append(h)
        return ops.reshape(ops.square(h), (5,))

    with Tape() as tape:
        y = ops.sum(tape.checkpoint(f, x))
    assert np.isfinite(seen[0].numpy()).all()
    tape.backward(y)
    with Tape() as plain:
        z = ops.sum(ops.square(ops.silu(x)))
    g = np.array(x.grad)
    x.zero_grad()
    plain.backward(z)
    assert np.array_equal(g, x.grad)


def test_a_plan_gives_the_same_bits_in_one_smaller_buffer():
    x = Tensor(normal(16, 64), copy=True)
    with Tape(grad=False) as tape:
        dead = ops.exp(x)
        y = block(block(x))
        z = ops.mean(y)
    plan = tape.plan(y, z)
    assert len(plan) == len(tape) - 1 and plan.bytes < 0.5 * plan.bytes_unshared
    x.copy_(normal(16, 64, seed=3))
    misses = _core.pool()["misses"]
    a, b = plan.run()
    assert _core.pool()["misses"] == misses
    fresh = block(block(Tensor(normal(16, 64, seed=3))))
    assert np.array_equal(a.numpy(), fresh.numpy()) and b.item() == ops.mean(fresh).item()
    del dead, tape, plan
    gc.collect()
    assert np.array_equal(a.numpy(), fresh.numpy())  # outputs outlive the plan


def test_a_profile_names_every_op_with_its_time():
    x = Tensor(np.ones((4, 8), np.float32))
    with Tape(grad=False) as tape:
        y = ops.sigmoid(ops.reshape(x, (2, 16)))
    plan = tape.plan(y)
    rows = plan.profile(rounds=3)
    assert [(name, shape) for name, shape, _ in rows] == [("reshape", (2, 16)), ("sigmoid", (2, 16))]
    assert all(0 <= seconds < 1 for *_, seconds in rows)
    with pytest.raises(ValueError, match="rounds wanted 1 to 100000, got 0"):
        plan.profile(0)


def test_a_steady_training_step_allocates_nothing():
    w = leaf(32, 32)
    x = Tensor(normal(8, 32))

    def step():
        with Tape() as tape:
            y = ops.mean(ops.square(ops.silu(ops.mul(x, ops.mean(w, (0,))))))
        tape.backward(y)
        w.zero_grad()

    for _ in range(3):
        step()
    before = _core.pool()
    for _ in range(100):
        step()
    after = _core.pool()
    assert after["misses"] == before["misses"] and after["bytes_in_use"] == before["bytes_in_use"]


def test_running_out_of_memory_is_an_exception_and_leaks_nothing():
    x = leaf(1024, 1024)
    gc.collect()
    before = _core.pool()["bytes_in_use"]
    _core.pool_limit(before + (6 << 20))
    try:
        with pytest.raises(MemoryError, match="out of memory"):
            with Tape():
                block(x)
    finally:
        _core.pool_limit(0)
    gc.collect()
    assert _core.pool()["bytes_in_use"] == before
    assert np.isfinite(block(x).numpy()).all()


def test_the_nan_guard_names_the_op():
    x = Tensor(np.array([-1.0, 1.0], np.float32))
    _core.guard_nan(True)
    try:
        with pytest.raises(RuntimeError, match="log: number 0 of its result is"):
            ops.log(x)
    finally:
        _core.guard_nan(False)
    assert np.isnan(ops.log(x).numpy()[0])


def test_tapes_of_two_threads_do_not_meet():
    results = {}

    def work(name):
        x = leaf(200, seed=name)
        for _ in range(200):
            x.zero_grad()
            _, _, g = backward(x, block)
        results[name] = g

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for name, g in results.items():
        assert np.array_equal(g, backward(leaf(200, seed=name), block)[2])


def test_with_blocks_of_tapes_nest_and_refuse_to_repeat():
    tape = Tape()
    with tape:
        with pytest.raises(RuntimeError, match="recording already"):
            tape.__enter__()
        with pytest.raises(RuntimeError, match="still recording"):
            tape.replay()
    assert "0 ops" in repr(tape)


def test_twenty_thousand_steps_leave_memory_where_it_was():
    x = leaf(16, 16)

    def rss():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096

    def step():
        with Tape() as tape:
            y = ops.mean(block(x))
        tape.backward(y)
        x.zero_grad()

    for _ in range(2000):
        step()
    before = rss()
    for _ in range(20_000):
        step()
    assert rss() - before < 1 << 20
