"""A whole net at the limits of memory: a steady step asks for none, and running out at any moment is an exception that
leaks nothing and spoils nothing."""

import gc

import numpy as np
import pytest
from conv_net import ConvNet, data
from worldmodel import Tape, Tensor, _core, machine, nn, ops, optim


class Blocks(nn.Module):
    """Attention with rotary positions and a gated MLP under AdaLN; then an LSTM."""

    def __init__(self, width: int = 16):
        self.norms = [nn.AdaLN(width, 3), nn.AdaLN(width, 3)]
        self.attention, self.mlp, self.memory = (
            nn.Attention(width, 2, mask="causal"),
            nn.SwiGLU(width, 32),
            nn.LSTM(width, width),
        )
        self.tables = [nn.buffer(t.numpy()) for t in ops.rotary_table(Tensor(np.arange(6, dtype=np.int32)), width // 2)]
        for layer in self.norms:
            layer.modulation.weight.copy_(nn.normal(3 * width, 3, std=0.5))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.norms[0](x, c, lambda h: self.attention(h, *self.tables))
        return self.memory(self.norms[1](x, c, self.mlp))[0]


def case(name: str):
    """(net, inputs)"""
    machine.seed(0)
    if name == "conv net":
        batch = data()
        return ConvNet(), [Tensor(batch["x"]), Tensor(batch["c"])]
    rng = np.random.default_rng(0)
    return Blocks(), [Tensor(rng.standard_normal(s).astype(np.float32)) for s in ((4, 6, 16), (4, 3))]


CASES = ["conv net", "blocks"]


def step(net, inputs) -> list[np.ndarray]:
    """The loss and every gradient."""
    with Tape() as tape:
        loss = ops.mean(ops.square(net(*inputs)))
    tape.backward(loss)
    found = [np.array(loss.numpy()), *(t.grad.copy() for t in net.parameters())]
    net.zero_grad()
    return found


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_steady_training_step_asks_for_no_memory(name):
    net, inputs = case(name)
    optimiser = optim.AdamW(net, lr=1e-3, weight_decay=0.1, clip=1.0, ema=0.99)

    def train():
        with Tape() as tape:
            loss = ops.mean(ops.square(net(*inputs)))
        tape.backward(loss)
        optimiser.step()

    for _ in range(3):
        train()
    before = _core.pool()
    for _ in range(20):
        train()
    after = _core.pool()
    assert after["misses"] == before["misses"] and after["bytes_in_use"] == before["bytes_in_use"]


@pytest.mark.parametrize("name", CASES)
def test_running_out_at_any_moment_leaks_and_spoils_nothing(name):
    net, inputs = case(name)
    want = step(net, inputs)
    gc.collect()
    _core.pool_trim()
    base = _core.pool()["bytes_in_use"]
    step(net, inputs)
    peak, refused = _core.pool()["bytes_peak"], 0
    for limit in np.linspace(base + 1, peak, 60).astype(int):
        _core.pool_trim()
        _core.pool_limit(int(limit))
        try:
            step(net, inputs)
        except MemoryError as error:
            assert "out of memory" in str(error)
            refused += 1
            del error
        finally:
            _core.pool_limit(0)
        net.zero_grad()
        gc.collect()
        assert _core.pool()["bytes_in_use"] == base, f"limit {limit}"
    assert refused > 40
    assert same(step(net, inputs), want)


@pytest.mark.parametrize("name", CASES)
def test_plans_that_do_not_fit_are_refused(name):
    net, inputs = case(name)
    with Tape(grad=False) as tape:
        y = net(*inputs)
    want = y.numpy().copy()
    gc.collect()
    _core.pool_trim()
    base, made = _core.pool()["bytes_in_use"], 0
    for room in range(0, 300_000, 10_000):
        _core.pool_trim()
        _core.pool_limit(base + room + 1 - _core.pool()["bytes_on_devices"])
        try:
            (out,) = tape.plan(y).run()
            assert np.array_equal(out.numpy(), want)
            made += 1
            del out
        except MemoryError:
            pass
        finally:
            _core.pool_limit(0)
        gc.collect()
        assert _core.pool()["bytes_in_use"] == base
    assert 0 < made < 30


@pytest.mark.parametrize("name", CASES)
def test_replay_plan_and_checkpoint_have_the_bits_of_a_fresh_run(kernels, name):
    net, inputs = case(name)
    want = step(net, inputs)
    with Tape() as tape:
        loss = ops.mean(ops.square(tape.checkpoint(net, *inputs)))
    tape.backward(loss)
    assert same([loss.numpy(), *(t.grad for t in net.parameters())], want)
    net.zero_grad()

    with Tape() as tape:
        y = net(*inputs)
    plan = tape.plan(y)
    assert plan.bytes < plan.bytes_unshared
    inputs[0].copy_(2 * inputs[0].numpy() + 1)
    fresh = net(*inputs).numpy().copy()
    tape.replay()
    misses = _core.pool()["misses"]
    (out,) = plan.run()
    assert _core.pool()["misses"] == misses
    assert np.array_equal(y.numpy(), fresh) and np.array_equal(out.numpy(), fresh)


@pytest.mark.parametrize("side", [64, 300, 700, 1700])
def test_packed_weights_come_and_go(side):
    """Whatever their size, regions of large pages included: used again, and given back when the last has gone."""
    x = Tensor(np.ones((1, side), np.float32))

    def use(count):
        weights = [Tensor(np.full((side, side), i + 1, np.float32), copy=True) for i in range(count)]
        said = [ops.linear(x, w).numpy()[0, 0] for w in weights]
        assert said == [side * (i + 1) for i in range(count)]
        return weights

    gc.collect()
    _core.pool_trim()
    before = _core.pool()["bytes_in_use"]
    kept = use(2)
    held = _core.pool()["bytes_in_use"]
    use(5)
    gc.collect()
    misses = _core.pool()["misses"]
    for _ in range(3):
        use(5)
        gc.collect()
    assert _core.pool()["misses"] == misses and _core.pool()["bytes_in_use"] == held
    _core.pool_trim()
    assert _core.pool()["bytes_idle"] == 0
    assert ops.linear(x, kept[1]).numpy()[0, 0] == 2 * side
    del kept
    gc.collect()
    _core.pool_trim()
    assert _core.pool()["bytes_in_use"] == before and _core.pool()["bytes_idle"] == 0
