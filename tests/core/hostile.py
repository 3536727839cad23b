"""hostile: calls every op with arguments that an enemy would choose; a crash ends this process, which its test sees.

    python tests/core/hostile.py SECONDS [SEED]      fuzz
    python tests/core/hostile.py harvest             write calls.json anew: calls of tests/ops that worked

Each example begins as a call that worked and is then bent: axes, dtypes, numbers, attributes, missing and additional
arguments.  Only exceptions may come of it, and no SystemError.
"""

import json
import random
import sys
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from worldmodel import Tape, Tensor, _core, stubs

CALLS = Path(__file__).with_name("calls.json")
KEPT, LARGEST, EXAMPLES = 6, 4096, 15
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 64]
HUGE = [-(2**63), 2**63 - 1, 2**62, 2**31, -(2**31), 2**32, 10**6, -1, 0, 1, 2, 3, 100, -7, 2**64, -(2**80)]
FLOATS = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3e38, -1e300, 1e300, 0.5]
JUNK = st.sampled_from(
    [None, 1, -1.5, "x", "", b"y", [], (), {}, object(), True, np.float32(1), np.zeros(3), np.zeros((2, 2), np.float32),
     2**100, [1, 2], (2**63, 1), ("a",), [None], float("nan"), int, lambda: 1, "full", "none", "\0", "ü" * 300]
)  # fmt: skip


# ---- calls that worked --------------------------------------------------------------------------------


def describe(value):
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": value.dtype, "top": top_of(value)}
    return list(value) if isinstance(value, tuple) else value


def top_of(t) -> int | None:
    """One more than the largest index: whole numbers must stay in range to be of use."""
    return int(t.numpy().max()) + 1 if t.dtype in ("int32", "uint8") else None


def harvest() -> None:
    """Runs tests/ops with every op wrapped, and writes what small calls looked like."""
    import pytest

    calls: dict[str, list] = {name: [] for name in _core.ops}

    def wrap(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            if all(0 < t.size <= LARGEST for t in tensors):
                seen = {"args": [describe(a) for a in args], "kwargs": {k: describe(v) for k, v in kwargs.items()}}
                if seen not in calls[name]:
                    calls[name].append(seen)
            return result

        call.__doc__, call.__module__ = function.__doc__, function.__module__
        return call

    _core.ops.update({name: wrap(name, f) for name, f in list(_core.ops.items())})
    pytest.main(
        ["-q", str(Path(__file__).parents[1] / "ops"), "-p", "no:cacheprovider", "-k", "not avx2 and not baseline"]
    )
    chosen = {name: random.Random(0).sample(c, min(KEPT, len(c))) for name, c in sorted(calls.items())}
    CALLS.write_text(json.dumps(chosen, indent=None, separators=(",", ":")).replace('],"', '],\n"') + "\n")
    print("no call of:", [name for name, c in chosen.items() if not c])


# ---- bending them -------------------------------------------------------------------------------------


@st.composite
def tensor(draw, like, bent: bool):
    shape, dtype, top = list(like["shape"]), like["dtype"], like["top"]
    if bent:
        how = draw(st.sampled_from(["axis", "rank", "dtype", "numbers", "order"]))
        if how == "axis" and shape:
            shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(LENGTHS))
        elif how == "rank":
            shape = draw(st.sampled_from([shape[1:], [*shape, 1], [1, *shape], [], [1] * 6, shape[:-1], [2, *shape]]))[
                :6
            ]
        elif how == "dtype":
            dtype = draw(st.sampled_from(["float32", "uint8", "int32", "bfloat16"]))
        elif how == "order":
            shape = shape[::-1]
        else:
            top = draw(st.sampled_from([None, 1, 2**31, -(2**31)]))
    return make(draw, shape, dtype, top, draw(st.booleans()), bent)


def make(draw, shape, dtype, top, needs_grad, bent):
    n = int(np.prod(shape))
    if n > 1 << 20:
        shape, n = [1], 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype in ("int32", "uint8"):
        low, high = (0, top) if top and top > 0 else (-(2**31), 2**31)
        low, high = (max(low, 0), min(high, 256)) if dtype == "uint8" else (low, high)
        return Tensor(rng.integers(low, high, shape).astype(dtype), copy=True)
    a = rng.standard_normal(shape).astype(np.float32)
    if bent and n and draw(st.booleans()):
        a.reshape(-1)[rng.integers(0, n, min(n, 3))] = draw(st.sampled_from(FLOATS))
    t = Tensor(a, needs_grad=needs_grad, copy=True)
    return _core.ops["cast"](t, to="bfloat16") if dtype == "bfloat16" and n else t


def value(draw, v, bent: bool):
    if bent and draw(st.integers(0, 3)) == 0:
        return draw(JUNK)
    if isinstance(v, dict):
        return draw(tensor(v, bent))
    if isinstance(v, list):
        return tuple(draw(st.sampled_from(HUGE)) if bent and draw(st.booleans()) else x for x in v)
    if bent and isinstance(v, int):
        return draw(st.sampled_from(HUGE))
    if bent and isinstance(v, float):
        return draw(st.sampled_from(FLOATS))
    return v


@st.composite
def call(draw, name: str, examples: list):
    example = draw(st.sampled_from(examples))
    words = [w.split(":")[0].split("@")[0].strip("?.") for w in stubs.parts(_core.specs[name][0])[0]]
    args, kwargs = list(example["args"]), dict(example["kwargs"])
    bends = draw(st.sets(st.integers(0, max(0, len(args) + len(words) - 1)), max_size=3))
    args = [value(draw, a, i in bends) for i, a in enumerate(args)]
    kwargs = {k: value(draw, v, len(args) + i in bends) for i, (k, v) in enumerate(kwargs.items())}
    match draw(st.integers(0, 12)):
        case 0 if args:
            args.pop(draw(st.integers(0, len(args) - 1)))
        case 1:
            args.insert(draw(st.integers(0, len(args))), draw(JUNK))
        case 2:
            kwargs[draw(st.sampled_from([*words, "nonsense", ""]))] = draw(JUNK)
        case 3:
            args += [draw(JUNK)] * draw(st.sampled_from([1, 12, 40]))
        case 4:
            kwargs[draw(st.sampled_from(words))] = draw(st.sampled_from(HUGE))
        case 5 if len(args) > 1:
            args[0], args[-1] = args[-1], args[0]
        case 6 if args:
            args = [args[0]] * len(args)
    return args, kwargs


def attempt(f, *args, **kwargs):
    """f(...), or None if it raised what it may."""
    try:
        return f(*args, **kwargs)
    except SystemError:
        raise
    except (MemoryError, Exception):
        return None


def drive(data, name: str, examples: list) -> None:
    """One bent call, recorded; then everything a tape can do, while gradients are switched on and off."""
    args, kwargs = data.draw(call(name, examples))
    tape = Tape(grad=data.draw(st.booleans()))
    with tape:
        result = attempt(_core.ops[name], *args, **kwargs)
    outs = [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Tensor)]
    tensors = [a for a in (*args, *kwargs.values(), *outs) if isinstance(a, Tensor)]
    for t in outs:
        assert all(n >= 0 for n in t.shape) and repr(t)
    for step in data.draw(
        st.lists(st.sampled_from(["back", "flip", "replay", "plan", "write", "clear", "zero", "seed"]), max_size=4)
    ):
        t = tensors[data.draw(st.integers(0, len(tensors) - 1))] if tensors else None
        if step == "flip" and t is not None:
            attempt(setattr, t, "needs_grad", not t.needs_grad)
        elif step == "write" and t is not None and t.dtype != "bfloat16":
            attempt(t.copy_, data.draw(st.sampled_from([0, -1, 10**9, float("nan")])))
        elif step == "zero" and t is not None:
            t.zero_grad()
        elif step in ("back", "seed") and outs:
            attempt(tape.backward, outs[0], *([] if step == "back" else [t]))
        elif step == "plan":
            plan = attempt(tape.plan, *outs)
            attempt(plan.run) if plan is not None else None
        elif step in ("replay", "clear"):
            attempt(getattr(tape, step))


def attack(name: str, calls: list, number: int) -> None:
    @seeded(number)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data):
        drive(data, name, calls)

    one()


def sweep(name: str, calls: list) -> None:
    """Each tensor of each call in turn as a number without axes, as a vector, with an axis more, and of other types."""
    for example in calls:
        places = [("args", i) for i in range(len(example["args"]))] + [("kwargs", k) for k in example["kwargs"]]
        for kind, at in places:
            like = example[kind][at]
            if not isinstance(like, dict):
                continue
            n = int(np.prod(like["shape"]))
            for shape in ([], [1], [n], [1, *like["shape"]], [*like["shape"], 1], [1] * 6, like["shape"][1:], [0]):
                for dtype in ("float32", "int32", "uint8", "bfloat16"):
                    bent = {**example, kind: list(example[kind]) if kind == "args" else dict(example[kind])}
                    bent[kind][at] = {"shape": shape[:6], "dtype": dtype, "top": 1}
                    with Tape() as tape:
                        out = attempt(
                            _core.ops[name],
                            *map(plain, bent["args"]),
                            **{k: plain(v) for k, v in bent["kwargs"].items()},
                        )
                    out = out[0] if isinstance(out, tuple) else out
                    if out is not None and out.needs_grad:
                        attempt(tape.backward, out, Tensor(np.ones(out.shape, np.float32)))


def plain(v):
    """What an argument says, without hypothesis: ones."""
    if not isinstance(v, dict):
        return tuple(v) if isinstance(v, list) else v
    if v["dtype"] in ("int32", "uint8"):
        return Tensor(np.zeros(v["shape"], v["dtype"]), copy=True)
    t = Tensor(np.ones(v["shape"], np.float32), needs_grad=True, copy=True)
    return _core.ops["cast"](t, to="bfloat16") if v["dtype"] == "bfloat16" and t.size else t


def fuzz(seconds: float, seed: int) -> None:
    corpus = json.loads(CALLS.read_text())
    names = sorted(_core.ops)
    assert all(corpus.get(n) for n in names), (
        f"no calls of {[n for n in names if not corpus.get(n)]}: run hostile.py harvest"
    )
    _core.pool_limit(256 << 20)
    _core.pool_guard(True)
    for name in names:
        print("sweep", name, flush=True)
        sweep(name, corpus[name])
    end, turn, examples = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end or turn == 0:
        for name in names:
            if turn and time.monotonic() > end:
                break
            print("now", turn, name, flush=True)
            attack(name, corpus[name], seed + turn)
            examples += EXAMPLES
        turn += 1
    _core.pool_trim()
    assert _core.pool()["overruns"] == 0, "something was written past the end of a buffer"
    print("survived", examples, "examples")


if __name__ == "__main__":
    harvest() if sys.argv[1] == "harvest" else fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
