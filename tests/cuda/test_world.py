"""A whole world on emulated CUDA: steps of an environment equal the processor's, and what moves between devices.

(Ten training steps against PyTorch's numbers run on CUDA too: tests/models/test_dit_training.py.)
"""

import emulated
import numpy as np
import pytest
import tiny_dit
from harness import scheduled
from worldmodel import Tape, _core, machine, nn, ops
from worldmodel.tensor import Tensor

HERE, WHY_NOT = emulated.possible()
pytestmark = [pytest.mark.skipif(not HERE, reason=f"no emulated CUDA: {WHY_NOT}"), pytest.mark.usefixtures("cuda")]


def steps(device: str, latent: bool = False) -> list:
    machine.set_device(device)
    options = {"tokenizer": tiny_dit.tokenizer(), "stem": 0, "patch": 1} if latent else {}
    model, rng = tiny_dit.make(**options), np.random.default_rng(0)
    sampler = model.sampler(2)
    sampler.reset(tiny_dit.frames_of(rng, 2, 2), np.zeros((2, 2, tiny_dit.FEATURES), np.float32), [3, 4])
    made = [sampler.step(tiny_dit.actions_of(rng, 2)) for _ in range(3)]
    assert sampler._plan.captured == (device == "cuda")  # all K denoising passes and the commit are one launch
    return made


@pytest.mark.parametrize("latent", [False, True])
def test_environment_steps_equal_the_processors(latent):
    for a, b in zip(steps("cpu", latent), steps("cuda", latent), strict=True):
        assert np.abs(a.frames.astype(int) - b.frames.astype(int)).max() <= 1
        assert (a.frames != b.frames).mean() < 0.01
        for name in ("rewards", "termination", "features"):
            x, y = getattr(a, name), getattr(b, name)
            assert np.abs(x - y).max() <= 1e-4 * (np.abs(x).max() + 1), name


def gradients() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    model = tiny_dit.make()
    with Tape() as tape:
        loss = model.losses(tiny_dit.window_of(rng, B=1), tiny_dit.stream_of(1, 1))["frame"]
    tape.backward(loss)
    return [np.array(loss.numpy()), *(t.grad for t in model.parameters() if t.grad is not None)]


def test_any_order_of_threads_and_blocks_gives_the_same_bits():
    """Of three steps of an environment, and of the gradients of a training step (check_op asks it of every op)."""
    machine.set_device("cuda")
    made, right = steps("cuda"), gradients()
    for order in (1, 2):
        with scheduled(order):
            again, grads = steps("cuda"), gradients()
        for a, b in zip(made, again, strict=True):
            for name in ("frames", "rewards", "termination", "features"):
                assert np.array_equal(getattr(a, name), getattr(b, name)), f"order {order}: {name}"
        assert all(np.array_equal(a, b) for a, b in zip(right, grads, strict=True)), f"order {order}: gradients"


def test_to_copies_and_to_moves():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    here = Tensor(x.copy(), needs_grad=True)
    there = here.to("cuda")
    assert (here.device, there.device, there.needs_grad) == ("cpu", "cuda", True)
    assert np.array_equal(there.numpy(), x) and here.to("cpu") is here
    assert np.array_equal(there.to("cpu").numpy(), x)
    with Tape() as tape:
        y = (there * 2).sum()
    tape.backward(y)
    assert (there.grad == 2).all()
    assert there.to_("cpu") is there and there.device == "cpu" and (there.grad == 2).all()


def test_numbers_of_cuda_are_copies_and_say_so():
    t = Tensor(np.zeros(3, np.float32), device="cuda")
    with pytest.raises(ValueError, match="read-only"):
        t.numpy()[0] = 1
    t[1] = 5
    assert t.numpy().tolist() == [0, 5, 0] and "cuda" in repr(t)
    with pytest.raises(BufferError, match="cuda"):
        memoryview(t)


def test_devices_do_not_mix():
    a, b = Tensor(np.zeros(3, np.float32)), Tensor(np.zeros(3, np.float32), device="cuda")
    with pytest.raises(ValueError, match="add: input 0 lies on cpu, input 1 on cuda"):
        ops.add(a, b)
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda'"):
        a.to("tpu")


def test_an_index_outside_is_an_error_on_cuda_too():
    machine.set_device("cuda")
    with pytest.raises(IndexError, match="outside 0..3"):
        ops.gather(Tensor(np.zeros((4, 2), np.float32)), Tensor(np.array([1, 4], np.int32)))


def test_every_kernel_is_written():
    assert set(_core.device_kernels()) == set(_core.kernel_list())


def test_an_optimiser_step_equals_the_processors():
    """AdamW with clipping and an average over the arena, its swap, and what is saved of it."""

    def run(device: str) -> list:
        machine.set_device(device)
        rng = np.random.default_rng(1)
        w = [Tensor(rng.standard_normal(s).astype(np.float32), needs_grad=True) for s in ((5, 7), (7,), (3, 3))]
        arena = _core.Arena(tuple(w))
        arena.shadow(0.9)
        for _ in range(3):
            with Tape() as tape:
                loss = sum((ops.square(t).sum() for t in w[1:]), ops.square(w[0]).sum())
            tape.backward(loss)
            norm, clipped, skipped = arena.adamw(lr=0.01, decay=0.1, clip=1.0)
        arena.swap(0)
        return [norm, clipped, *(np.array(t.numpy()) for t in w), *(arena.part(3, i).numpy() for i in range(3))]

    for a, b in zip(run("cpu"), run("cuda"), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_steady_steps_take_no_memory_from_the_driver():
    machine.set_device("cuda")
    w = Tensor(np.ones((16, 16), np.float32), needs_grad=True)
    x = Tensor(np.ones((4, 16), np.float32))
    misses = []
    for _ in range(4):
        with Tape() as tape:
            y = ops.square(ops.linear(x, w)).sum()
        tape.backward(y)
        w.zero_grad()
        misses.append(_core.pool()["misses"])
        del tape, y
    assert misses[-1] == misses[1], misses


def test_a_plan_becomes_one_launch_and_follows_its_leaves():
    machine.set_device("cuda")
    rng = np.random.default_rng(0)
    x, w = Tensor(np.zeros((3, 5), np.float32)), Tensor(np.ones((4, 5), np.float32), needs_grad=True)
    with Tape(grad=False) as tape:
        out = ops.softmax(ops.linear(x, w, act="silu"))
    plan = tape.plan(out)
    for run in range(5):
        numbers = rng.standard_normal((3, 5)).astype(np.float32)
        x[...] = numbers
        if run == 3:
            w.copy_(rng.standard_normal((4, 5)))
        (got,) = plan.run()
        v = numbers @ w.numpy().T
        want = np.exp(v / (1 + np.exp(-v)))
        assert np.allclose(got.numpy(), want / want.sum(-1, keepdims=True), atol=1e-6), run
        assert plan.captured == (run > 0)
    arena = _core.Arena((w,))  # the weight moves: the graph is made anew
    plan.run()
    assert not plan.captured and plan.run() and plan.captured and arena


def test_a_captured_plan_still_checks_its_indices():
    machine.set_device("cuda")
    index = Tensor(np.array([0, 1], np.int32))
    with Tape(grad=False) as tape:
        out = ops.gather(Tensor(np.arange(8, dtype=np.float32).reshape(4, 2)), index)
    plan = tape.plan(out)
    plan.run(), plan.run()
    index.copy_([3, 2])
    assert plan.run()[0].numpy().tolist() == [[6, 7], [4, 5]] and plan.captured
    index.copy_([0, 4])
    with pytest.raises(IndexError, match="outside 0..3"):
        plan.run()


def test_a_draw_in_a_captured_plan_moves_with_its_stream():
    machine.set_device("cuda")
    stream = Tensor(np.array([[1, 2, 3, 0]], np.int32))
    with Tape(grad=False) as tape:
        out = ops.normal(stream, shape=(4,))
        moved = ops.stream_advance(stream)
    plan = tape.plan(out, moved)
    draws = [plan.run()[0].numpy().copy() for _ in range(3)]
    assert plan.captured and len({d.tobytes() for d in draws}) == 3


def test_a_model_moves_and_what_is_shared_does_not():
    rng = np.random.default_rng(0)
    machine.set_device("cpu")
    model = tiny_dit.make()
    window, stream = tiny_dit.window_of(rng, B=1), tiny_dit.stream_of(1, 1)
    here = float(model.losses(window, stream)["frame"])
    held = next(iter(model.parameters())).numpy()
    with pytest.raises(ValueError, match="shared, by an arena, a view or an array"):
        model.to("cuda")
    del held
    model.to("cuda")
    assert {t.device for _, t in model.named_tensors()} == {"cuda"}
    machine.set_device("cuda")
    there = {n: Tensor(np.array(t.numpy())) for n, t in vars(window).items()}
    moved = float(model.losses(type(window)(**there), Tensor(np.array(stream.numpy())))["frame"])
    assert abs(moved - here) < 1e-4 * abs(here)
    arena = _core.Arena(tuple(model.parameters()))
    with pytest.raises(ValueError, match="shared"):
        model.to("cpu")
    assert arena


def test_bfloat16_is_written_and_read():
    machine.set_device("cuda")
    half = ops.cast(Tensor(np.array([1.0, 2.5], np.float32)), to="bfloat16")
    nn.write(half, np.array([3.0, -4.0], np.float32))
    assert half.device == "cuda" and nn.values_of(half).dtype == np.uint16
    assert ops.cast(half, to="float32").numpy().tolist() == [3, -4]
