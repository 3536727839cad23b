"""A long walk can be stopped, other threads go on meanwhile, and a forked child computes."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from worldmodel import Tape, Tensor, _core, ops

LONG = """
import numpy as np
from worldmodel import Tape, Tensor, ops

x = Tensor(np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32), needs_grad=True, copy=True)
def record(n):
    with Tape() as tape:
        y = ops.linear(x, x)
        for _ in range(n):
            y = ops.add(y, ops.linear(x, x))
        y = ops.mean(y)
    return tape, y

def gradient():
    tape, y = record(3)
    tape.backward(y)
    first = x.grad.copy()
    x.zero_grad()
    tape.replay()
    tape.backward(y)
    assert np.array_equal(first, x.grad)
    x.zero_grad()
    return first

want = gradient()
tape, y = record(3000)
plan = tape.plan(y)
for walk in (tape.replay, lambda: tape.backward(y), plan.run):
    print("ready", flush=True)
    try:
        while True:
            walk()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    x.zero_grad()
    assert np.array_equal(want, gradient())
    print("usable", flush=True)
"""


def test_ctrl_c_stops_long_walks_within_a_second():
    """A replay, a backward and a plan of about a second each; what comes after has the same bits."""
    child = subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True)
    waited = []
    try:
        for _ in range(3):
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3)
            child.send_signal(signal.SIGINT)
            sent = time.monotonic()
            assert child.stdout.readline() == "stopped\n"
            waited.append(time.monotonic() - sent)
            assert child.stdout.readline() == "usable\n"
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
    assert max(waited) < 1, waited


def test_an_interrupted_backward_leaves_nothing_on_its_way():
    """A signal handler that raises, at a known time: the next backward gives what a first one would."""
    x = Tensor(np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16), needs_grad=True)
    with Tape() as tape:
        y = x
        for _ in range(20_000):
            y = ops.silu(y)
        y = ops.sum(y)
    tape.backward(y)
    want = x.grad.copy()
    x.zero_grad()

    def stop(*_):
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, stop)
    stopped = 0
    try:
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            try:
                while True:
                    tape.backward(y)
                    x.zero_grad()
            except ZeroDivisionError:
                stopped += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            x.zero_grad()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    tape.backward(y)
    assert stopped == 5 and np.array_equal(x.grad, want)


def test_other_threads_advance_while_a_kernel_runs():
    a = Tensor(np.ones((1024, 1024), np.float32))
    ops.linear(a, a)
    count, going = 0, True

    def work():
        nonlocal count
        while going:
            count += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        before, begun = count, time.perf_counter()
        while time.perf_counter() - begun < 0.5:
            ops.linear(a, a)
        assert count - before > 1000
    finally:
        going = False
        thread.join()


def test_a_walk_holds_its_tape_against_other_threads():
    x = Tensor(np.ones((64, 256), np.float32), needs_grad=True)
    with Tape() as tape:
        y = x
        for _ in range(1000):
            y = ops.silu(y)
    refused, going = [], True

    def meddle():
        while going and not refused:
            try:
                assert len(tape.ops) == 1000
            except RuntimeError as error:
                refused.append(str(error))
            time.sleep(0.001)

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        for _ in range(100):
            tape.replay()
            if refused:
                break
    finally:
        going = False
        thread.join()
    assert refused and "at work elsewhere" in refused[0]


def test_a_tape_that_records_is_not_cleared_by_another_thread():
    errors = []

    def meddle():
        try:
            tape.clear()
        except RuntimeError as error:
            errors.append(str(error))

    with Tape() as tape:
        ops.silu(Tensor([1.0]))
        thread = threading.Thread(target=meddle)
        thread.start()
        thread.join()
    assert len(errors) == 1 and len(tape) == 1


def forked(work) -> int:
    """Runs work in a forked child; its exit status (0: it returned)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the forked child hangs")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_the_same_bits():
    rng = np.random.default_rng(0)
    a, w = (Tensor(rng.standard_normal((300, 300)).astype(np.float32)) for _ in range(2))
    keep = _core.threads()
    _core.set_threads(4)
    try:
        want = ops.linear(a, w).numpy().copy()  # the team of threads is there now

        def work():
            assert _core.threads() == 1
            assert np.array_equal(ops.linear(a, w).numpy(), want)
            w.needs_grad = True
            with Tape() as tape:
                y = ops.mean(ops.linear(a, w))
            tape.backward(y)
            assert np.isfinite(w.grad).all()

        assert [forked(work) for _ in range(3)] == [0, 0, 0]
        assert np.array_equal(ops.linear(a, w).numpy(), want)
    finally:
        _core.set_threads(keep)


def environment():
    """A Gymnasium environment whose observations the engine computes."""
    import gymnasium as gym

    class Sums(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.look(0.0), {}

        def step(self, action):
            return self.look(float(action)), 0.0, False, False, {}

        def look(self, x):
            return np.array(ops.scale_shift(Tensor(np.arange(4, dtype=np.float32)), 1.0, x).numpy())

    return Sums()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_environments_in_forked_processes_use_the_engine():
    gym = pytest.importorskip("gymnasium")
    big = Tensor(np.ones((300, 300), np.float32))
    ops.linear(big, big)
    envs = gym.vector.AsyncVectorEnv([environment] * 3, context="fork")
    try:
        envs.reset(seed=0)
        seen = envs.step(np.array([0, 1, 1]))[0]
    finally:
        envs.close()
    assert np.array_equal(seen, np.arange(4) + np.array([[0], [1], [1]]))
