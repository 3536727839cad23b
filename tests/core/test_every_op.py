"""Laws that hold for every op, on the calls of calls.json: what one run gives, threads (on emulated CUDA: orders of
threads and blocks), replays, plans, checkpoints and gradients asked for one by one give too, bit for bit (the last: to
rounding, since the compiler may fuse otherwise)."""

import json
from pathlib import Path

import numpy as np
import pytest
from harness import scheduled, schedules
from worldmodel import Tape, Tensor, _core

CALLS = json.loads(Path(__file__).with_name("calls.json").read_text())
cuda_too = True  # conftest: on emulated CUDA as well
IN_PLACE = {"cache_write", "stream_advance"}
"""These write into their input, so a second run begins elsewhere."""


def array(like: dict, seed: int) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), like["shape"]
    if like["dtype"] in ("int32", "uint8"):
        return rng.integers(0, max(like["top"], 1), shape).astype(like["dtype"])
    a = rng.uniform(0.1, 0.9, shape).astype(np.float32)  # in the domain of every op
    return np.sort(a) if a.ndim == 1 else a  # bins ascend


def tensors(call: dict, wants=None):
    """The call's arguments; wants: which of the float32 ones need a gradient (None: all)."""
    count = 0

    def make(v):
        nonlocal count
        if not isinstance(v, dict):
            return tuple(v) if isinstance(v, list) else v
        count += 1
        t = Tensor(array(v, count), copy=True)
        if v["dtype"] == "bfloat16":
            return _core.ops["cast"](t, to="bfloat16")
        t.needs_grad = v["dtype"] == "float32" and (wants is None or count in wants)
        return t

    return [make(a) for a in call["args"]], {k: make(v) for k, v in call["kwargs"].items()}


def outputs(result) -> list:
    return list(result) if isinstance(result, tuple) else [result]


def numbers(t) -> np.ndarray:
    return np.array((_core.ops["cast"](t, to="float32") if t.dtype == "bfloat16" else t).numpy())


def seeds(outs) -> list[Tensor]:
    rng = np.random.default_rng(99)
    return [Tensor(rng.standard_normal(o.shape).astype(np.float32)) for o in outs]


def run(name, call, wants=None, checkpoint=False):
    """Outputs and gradients, by number of the tensor."""
    args, kwargs = tensors(call, wants)
    with Tape() as tape:
        if checkpoint:
            outs = outputs(tape.checkpoint(lambda: _core.ops[name](*args, **kwargs)))
        else:
            outs = outputs(_core.ops[name](*args, **kwargs))
    for o, s in zip(outs, seeds(outs), strict=True):
        if o.needs_grad:
            tape.backward(o, s)
    leaves = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    grads = {i: t.grad.copy() for i, t in enumerate(leaves, 1) if t.needs_grad and t.grad is not None}
    return [numbers(o) for o in outs], grads, tape, outs, leaves


def equal(a, b) -> bool:
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


def works(name, call, wants) -> bool:
    """Whether the numbers, which are not those of the call, and the gradients asked for can be had."""
    try:
        run(name, call, wants)
    except (ValueError, IndexError, RuntimeError):  # the last: products of rounded numbers have no gradient
        return False
    return True


@pytest.mark.parametrize("name", sorted(_core.ops))
def test_the_laws_of_every_op(kernels, name):
    worked = 0
    for call in CALLS[name]:
        attempts = [
            w for w in (None, {1}, set()) if works(name, call, w)
        ]  # some inputs get no gradient: targets, weights
        if not attempts:
            continue
        worked, wants = worked + 1, attempts[0]
        want, grads, *_ = run(name, call, wants)
        for schedule in schedules():
            with scheduled(schedule):
                outs, g, tape, alive, leaves = run(name, call, wants)
            assert equal(outs, want) and equal(g.values(), grads.values()), f"schedule {schedule}"
        if name not in IN_PLACE:
            tape.replay()
            assert equal([numbers(o) for o in alive], want), "a replay"
            plan = tape.plan(*alive)
            for _ in range(2):
                assert equal([numbers(o) for o in plan.run()], want), "a plan"
            outs, g, *_ = run(name, call, wants, checkpoint=True)
            assert equal(outs, want) and g.keys() == grads.keys() and equal(g.values(), grads.values()), "a checkpoint"
        for i in grads if len(grads) > 1 else ():
            outs, g, *_ = run(name, call, wants={i})
            assert equal(outs, want), f"only tensor {i} needs a gradient"
            scale = 1e-6 * max(1e-3, np.abs(grads[i]).max())
            assert g.keys() == {i} and np.allclose(g[i], grads[i], rtol=0, atol=scale, equal_nan=True), (
                f"the gradient of tensor {i} alone"
            )
        outs, g, *_ = run(name, call, wants=set())
        assert equal(outs, want) and not g, "no gradients"
    assert worked, "no call of calls.json could be made again"


def test_the_calls_are_of_the_ops_that_are():
    assert set(CALLS) == set(_core.ops), "run: python tests/core/hostile.py harvest"
    assert all(CALLS.values())
