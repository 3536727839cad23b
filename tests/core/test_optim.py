"""AdamW from Python: against the formula, resumed bit for bit, averaged, refused in words."""

import numpy as np
import pytest
from worldmodel import Tape, Tensor, nn, ops, optim


def problem(seed=0):
    rng = np.random.default_rng(seed)
    layer = nn.Linear(5, 3, init=lambda *s: rng.standard_normal(s).astype(np.float32))
    x = Tensor(rng.standard_normal((7, 5)).astype(np.float32))
    return layer, x


def gradient(layer, x):
    with Tape() as tape:
        loss = ops.mean(ops.square(layer(x)))
    tape.backward(loss)
    return loss.item()


def test_adamw_is_the_formula():
    layer, x = problem()
    opt = optim.AdamW(layer, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1, clip=0.5)
    p = [np.array(t.numpy(), np.float64) for t in layer.parameters()]
    m, v = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p]
    for t in range(1, 6):
        gradient(layer, x)
        g = [np.array(q.grad, np.float64) for q in layer.parameters()]
        norm = np.sqrt(sum((a * a).sum() for a in g))
        u = opt.step()
        assert u.norm == pytest.approx(norm, rel=1e-5) and u.clipped == (norm > 0.5) and not u.skipped
        for i in range(2):
            gi = g[i] * min(1, 0.5 / norm)
            m[i] = 0.8 * m[i] + 0.2 * gi
            v[i] = 0.9 * v[i] + 0.1 * gi * gi
            p[i] *= 1 - 0.02 * (0.1 if p[i].ndim > 1 else 0)
            p[i] -= 0.02 * (m[i] / (1 - 0.8**t)) / (np.sqrt(v[i] / (1 - 0.9**t)) + 1e-8)
            np.testing.assert_allclose(layer.parameters()[i].numpy(), p[i], rtol=2e-5, atol=1e-6)
            assert not layer.parameters()[i].grad.any()


def test_it_learns_and_the_average_follows():
    layer, x = problem()
    opt = optim.AdamW(layer, lr=0.05, ema=0.9, warmup=3)
    first = gradient(layer, x)
    layer.zero_grad()
    for _ in range(60):
        gradient(layer, x)
        opt.step()
    raw = layer.weight.numpy().copy()
    with opt.averaged():
        assert not np.array_equal(layer.weight.numpy(), raw) and np.allclose(layer.weight.numpy(), raw, atol=0.2)
    assert np.array_equal(layer.weight.numpy(), raw)
    assert gradient(layer, x) < 0.1 * first


def test_resumes_bit_for_bit():
    def run(steps, state=None):
        layer, x = problem()
        opt = optim.AdamW(layer, lr=0.01, ema=0.99, weight_decay=0.1)
        if state:
            layer.load_state_dict(state[0])
            opt.load_state_dict(state[1])
        for _ in range(steps):
            gradient(layer, x)
            opt.step()
        return layer.state_dict(), opt.state_dict()

    whole, half = run(8), run(4)
    rest = run(4, half)
    for a, b in zip(whole, rest, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_gradient_that_is_not_finite_changes_nothing():
    layer, x = problem()
    opt = optim.AdamW(layer, lr=0.1)
    before = layer.state_dict()
    gradient(layer, Tensor(np.full((7, 5), np.nan, np.float32)))
    u = opt.step()
    assert u.skipped and not np.isfinite(u.norm)
    assert all(np.array_equal(before[k], v) for k, v in layer.state_dict().items())
    gradient(layer, x)
    assert not opt.step().skipped


def test_schedules():
    layer, _ = problem()
    opt = optim.AdamW(layer, lr=1.0, schedule="cosine", warmup=10, total=110, floor=0.1)
    rates = []
    for _ in range(112):
        rates.append(opt.learning_rate())
        opt.step()
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.1 + 0.9 * 0.5, rel=0.05) and all(
        a >= b for a, b in zip(rates[10:], rates[11:], strict=False)
    )


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"lr": -1}, "lr is out of range: -1"),
        ({"betas": (1, 0.9)}, "betas"),
        ({"ema": 1}, "ema"),
        ({"clip": -0.1}, "clip"),
        ({"schedule": "step"}, "constant, linear, cosine"),
    ],
)
def test_wrong_settings_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        optim.AdamW(problem()[0], **fields)


def test_wrong_parameters_are_refused():
    with pytest.raises(ValueError, match="no parameters"):
        optim.AdamW([])
    with pytest.raises(TypeError, match="Tensor"):
        optim.AdamW([np.ones(3)])
    t = nn.parameter(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="tensors 0 and 1 are the same"):
        optim.AdamW([t, t])
