"""Modules: every layer against float64 NumPy, names and their errors, initialisers, safetensors."""

import math

import numpy as np
import pytest
from harness import close
from reference import attention as attention_reference
from reference import norm as norm_reference
from worldmodel import Tape, Tensor, machine, nn, ops


@pytest.fixture(autouse=True)
def seeded():
    machine.seed(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def wide(module):
    """The module's tensors in float64, by name."""
    return {name: a.astype(np.float64) for name, a in module.state_dict().items()}


def rough(module):
    """No bias, scale or modulation stays at 0 or 1, so that a test sees it."""
    for i, t in enumerate(module.parameters()):
        t.copy_(t.numpy() + 0.3 * normal(*t.shape, seed=100 + i))
    return module


def learns(module, *inputs, **options):
    """One backward through the module: every parameter gets a gradient that is finite and not all 0."""
    with Tape() as tape:
        y = module(*inputs, **options)
        loss = ops.mean(ops.square(y[0] if isinstance(y, tuple) else y))
    tape.backward(loss)
    for name, t in module.named_parameters():
        assert t.grad is not None and np.isfinite(t.grad).all() and t.grad.any(), name


# ---- layers against float64 -----------------------------------------------------------------------------

ACTS = {
    "none": lambda v: v,
    "silu": silu,
    "relu": lambda v: np.maximum(v, 0),
    "gelu": lambda v: v / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    "gelu_erf": lambda v: v / 2 * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
}


@pytest.mark.parametrize("act", ["none", "gelu", "gelu_erf", "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(act, bias):
    layer, x = rough(nn.Linear(7, 5, bias=bias, act=act)), normal(3, 2, 7)
    w = wide(layer)
    close(
        layer(Tensor(x)).numpy(),
        ACTS[act](x.astype(float) @ w["weight"].T + w.get("bias", 0)),
        1e-6,
        "Linear",
    )
    learns(layer, Tensor(x))


def convolve(x, w, b, stride=1, up=1, padding=None):
    """x (B,H,W,C), w (O,k,k,C)."""
    k = w.shape[1]
    p = k // 2 if padding is None else padding
    x = np.pad(x.repeat(up, 1).repeat(up, 2), ((0, 0), (p, p), (p, p), (0, 0)))
    OH, OW = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    out = np.zeros((x.shape[0], OH, OW, w.shape[0]))
    for y in range(OH):
        for z in range(OW):
            out[:, y, z] = np.einsum("bijc,oijc->bo", x[:, y * stride : y * stride + k, z * stride : z * stride + k], w)
    return out + b


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stride": 2, "padding": 1},
        {"upsample": 2},
        {"kernel": 1},
        {"kernel": 4, "stride": 4, "padding": 0},
        {"act": "silu"},
    ],
)
def test_conv2d(how):
    layer, x = rough(nn.Conv2d(3, 5, **how)), normal(2, 8, 8, 3)
    w = wide(layer)
    padding = how.get("padding")
    want = convolve(x.astype(float), w["weight"], w["bias"], how.get("stride", 1), how.get("upsample", 1), padding)
    close(layer(Tensor(x)).numpy(), ACTS[how.get("act", "none")](want), 2e-6, "Conv2d")
    learns(layer, Tensor(x))


def test_conv2d_adds_a_residual():
    layer, x, r = rough(nn.Conv2d(3, 3)), normal(1, 5, 4, 3), normal(1, 5, 4, 3, seed=1)
    assert np.allclose(layer(Tensor(x), Tensor(r)).numpy(), layer(Tensor(x)).numpy() + r, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_norms(affine):
    x = normal(2, 3, 8) + 3
    for layer, reference, tolerance in [
        (nn.LayerNorm(8, affine=affine), norm_reference.layer_norm, 2e-6),
        (nn.RMSNorm(8, affine=affine), norm_reference.rms_norm, 2e-6),
    ]:
        rough(layer)
        w = wide(layer)
        assert bool(w) == affine
        close(
            layer(Tensor(x)).numpy(),
            reference(x.astype(float), *w.values(), eps=layer._eps),
            tolerance,
            repr(layer),
        )
    group = rough(nn.GroupNorm(4, 8, affine=affine))
    image = normal(2, 5, 3, 8)
    close(
        group(Tensor(image)).numpy(),
        norm_reference.group_norm(image.astype(float), *wide(group).values(), groups=4),
        5e-6,
        "GroupNorm",
    )
    if affine:
        learns(group, Tensor(image))


def test_embedding():
    layer = nn.Embedding(11, 5, std=0.5)
    index = np.array([[1, 10], [0, 1]], np.int32)
    assert np.array_equal(layer(Tensor(index)).numpy(), layer.weight.numpy()[index])
    learns(layer, Tensor(index))
    with pytest.raises(IndexError):
        layer(Tensor(np.array([11], np.int32)))


def test_mlp_and_sequential():
    mlp, x = rough(nn.MLP(4, 9, 9, 3, act="gelu")), normal(5, 4)
    w = wide(mlp)
    assert list(w) == [f"layers.{i}.{part}" for i in range(3) for part in ("weight", "bias")]
    h = x.astype(float)
    for i in range(3):
        h = h @ w[f"layers.{i}.weight"].T + w[f"layers.{i}.bias"]
        h = ACTS["gelu"](h) if i < 2 else h
    close(mlp(Tensor(x)).numpy(), h, 3e-6, "MLP")
    both = nn.Sequential(mlp, ops.silu, nn.Linear(3, 2))
    assert np.array_equal(both(Tensor(x)).numpy(), getattr(both, "2")(ops.silu(mlp(Tensor(x)))).numpy())
    assert [n for n, _ in both.named_parameters()][-2:] == ["2.weight", "2.bias"]
    learns(both, Tensor(x))
    assert not nn.MLP(4, 9, 3, zero_last=True)(Tensor(x)).numpy().any()


def test_swiglu():
    layer, x = rough(nn.SwiGLU(12)), normal(5, 12)
    w = wide(layer)
    assert layer.up.shape == (64, 12)  # 8/3 of 12 is 32
    a, b = np.split(x.astype(float) @ w["up"].T, 2, -1)
    close(layer(Tensor(x)).numpy(), (silu(a) * b) @ w["down.weight"].T, 3e-6, "SwiGLU")
    learns(layer, Tensor(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, w, h, c, reset):
    out = []
    for t in range(x.shape[1]):
        keep = 1 - reset[:, t, None].astype(float)
        h, c = h * keep, c * keep
        i, f, g, o = np.split(x[:, t] @ w["weight_ih"].T + w["bias_ih"] + h @ w["weight_hh"].T + w["bias_hh"], 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.stack(out, 1), h, c


def gru(x, w, h, reset):
    out = []
    for t in range(x.shape[1]):
        h = h * (1 - reset[:, t, None].astype(float))
        a, b = x[:, t] @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]
        (ar, az, an), (br, bz, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
        r, z = sigmoid(ar + br), sigmoid(az + bz)
        h = (1 - z) * np.tanh(an + r * bn) + z * h
        out.append(h)
    return np.stack(out, 1), h


def test_lstm_and_gru():
    B, T, K, H = 3, 5, 4, 7
    x, h, c = normal(B, T, K), normal(B, H, seed=1), normal(B, H, seed=2)
    reset = (np.random.default_rng(3).random((B, T)) < 0.3).astype(np.uint8)
    zero = np.zeros((B, T), np.uint8)
    cell = nn.LSTM(K, H)
    for got, want in zip(
        cell(Tensor(x), Tensor(h), Tensor(c), Tensor(reset)),
        lstm(x.astype(float), wide(cell), h, c, reset),
        strict=True,
    ):
        close(got.numpy(), want, 2e-6, "LSTM")
    for got, want in zip(cell(Tensor(x)), lstm(x.astype(float), wide(cell), 0 * h, 0 * c, zero), strict=True):
        close(got.numpy(), want, 2e-6, "LSTM from nothing")
    learns(cell, Tensor(x))
    cell = nn.GRU(K, H)
    for got, want in zip(
        cell(Tensor(x), Tensor(h), Tensor(reset)), gru(x.astype(float), wide(cell), h, reset), strict=True
    ):
        close(got.numpy(), want, 2e-6, "GRU")
    learns(cell, Tensor(x))


def test_adaln_starts_silent_and_is_the_formula():
    layer, inner = nn.AdaLN(6, 4), nn.Linear(6, 6)
    x, c = normal(2, 3, 6), normal(2, 4, seed=1)
    assert np.array_equal(layer(Tensor(x), Tensor(c), inner).numpy(), x)
    rough(layer)
    w, v = wide(layer), wide(inner)
    shift, scale, gate = np.split((c.astype(float) @ w["modulation.weight"].T + w["modulation.bias"])[:, None], 3, -1)
    h = norm_reference.normalise(x.astype(float), 1e-6) * (1 + scale) + shift
    want = x + gate * (h @ v["weight"].T + v["bias"])
    close(layer(Tensor(x), Tensor(c), inner).numpy(), want, 3e-6, "AdaLN")
    learns(layer, Tensor(x), Tensor(c), inner)


@pytest.mark.parametrize("kv_heads, mask, turns", [(0, "full", True), (2, "causal", True), (1, "full", False)])
def test_attention(kv_heads, mask, turns):
    layer, x = rough(nn.Attention(24, 4, kv_heads, mask=mask)), normal(2, 5, 24)
    w, kv = wide(layer), kv_heads or 4
    table = ops.rotary_table(Tensor(np.arange(5, dtype=np.int32)), 6) if turns else (None, None)
    cos, sin = (None if t is None else t.numpy().astype(float) for t in table)
    qkv = x.astype(float) @ w["qkv.weight"].T
    q, k, v = attention_reference.split(qkv, 4, kv)
    q = attention_reference.qk_norm_rotary(q, cos, sin, w["q_scale"], heads=4)
    k = attention_reference.qk_norm_rotary(k, cos, sin, w["k_scale"], heads=kv)
    want = attention_reference.attention(q, k, v, heads=4, kv_heads=kv, mask=mask) @ w["out.weight"].T + w["out.bias"]
    close(layer(Tensor(x), *table).numpy(), want, 5e-6, "Attention")
    learns(layer, Tensor(x), *table)


def test_attention_to_a_context():
    layer, x, context = (
        rough(nn.Attention(8, 2, context_features=5)),
        normal(2, 3, 8),
        normal(2, 7, 5, seed=1),
    )
    w = wide(layer)
    k, v = np.split(context.astype(float) @ w["kv.weight"].T, 2, -1)
    q = attention_reference.qk_norm_rotary(x.astype(float) @ w["q.weight"].T, None, None, w["q_scale"], heads=2)
    k = attention_reference.qk_norm_rotary(k, None, None, w["k_scale"], heads=2)
    want = attention_reference.attention(q, k, v, heads=2) @ w["out.weight"].T + w["out.bias"]
    close(layer(Tensor(x), context=Tensor(context)).numpy(), want, 5e-6, "Attention")
    learns(layer, Tensor(x), context=Tensor(context))
    with pytest.raises(ValueError, match="pass a context"):
        layer(Tensor(x))
    with pytest.raises(ValueError, match="heads must divide features 8.*got 3, 0"):
        nn.Attention(8, 3)


# ---- names, counts, files -------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        self.blocks = [nn.Linear(3, 4), nn.Linear(4, 3, bias=False)]
        self.heads = {"reward": nn.Linear(3, 1), "end": nn.Linear(3, 1)}
        self.mean = nn.buffer(np.zeros(3, np.float32))
        self.shared = self.blocks[0].weight
        self._hidden = nn.parameter(np.zeros(2, np.float32))


def test_names_counts_and_buffers():
    m = Model()
    names = [
        "blocks.0.weight",
        "blocks.0.bias",
        "blocks.1.weight",
        "heads.reward.weight",
        "heads.reward.bias",
        "heads.end.weight",
        "heads.end.bias",
        "mean",
        "shared",
    ]
    assert list(m.state_dict()) == names
    assert [n for n, _ in m.named_parameters()] == names[:-2]  # buffers and second names are no parameters
    assert m.parameter_count() == 12 + 4 + 12 + 4 + 4 and "36 parameters" in repr(m)
    counts = {
        nn.Linear(3, 4): 16,
        nn.Conv2d(3, 4): 112,
        nn.LayerNorm(5): 10,
        nn.GroupNorm(1, 6): 12,
        nn.RMSNorm(5): 5,
        nn.Embedding(7, 2): 14,
        nn.LSTM(3, 4): 4 * (12 + 16 + 8),
        nn.GRU(3, 4): 3 * (12 + 16 + 8),
        nn.SwiGLU(12): 12 * 32 * 3,
        nn.AdaLN(4, 5): 12 * 6,
        nn.Attention(8, 2): 8 * 24 + 8 + 8 * 8 + 8,
    }
    for module, count in counts.items():
        assert module.parameter_count() == count, module


def test_a_state_is_a_copy_and_loads_back():
    m = Model()
    state = m.state_dict()
    state["blocks.0.weight"] += 1
    assert not np.array_equal(m.blocks[0].weight.numpy(), state["blocks.0.weight"])
    state["shared"] = state["blocks.0.weight"]
    m.load_state_dict(state)
    assert all(np.array_equal(a, state[n]) for n, a in m.state_dict().items())


def test_a_state_that_does_not_fit_changes_nothing():
    m = Model()
    before = m.state_dict()

    def refused(error, words, strict=True, **changes):
        state = {**{n: a + 1 for n, a in before.items()}, **changes}
        with pytest.raises(error, match=words):
            m.load_state_dict({n: a for n, a in state.items() if a is not None}, strict)
        assert all(np.array_equal(a, before[n]) for n, a in m.state_dict().items())

    refused(KeyError, r"missing \['mean'\]; unknown nothing", mean=None)
    refused(KeyError, r"missing nothing; unknown \['colour'\]", colour=np.ones(1))
    refused(ValueError, r"mean: \(4,\) in the file, \(3,\) here", mean=np.ones(4))
    refused(ValueError, "shapes differ", strict=False, mean=np.ones((3, 1)), shared=None)
    refused((TypeError, ValueError), ".", mean=np.array(["a", "b", "c"]))
    m.load_state_dict({"mean": np.ones(3)}, strict=False)
    assert m.mean.numpy().tolist() == [1, 1, 1]


def test_safetensors_round_trip_and_are_read_by_the_library(tmp_path):
    from safetensors.numpy import load_file

    m, path = Model(), str(tmp_path / "m.safetensors")
    rough(m)
    m.save(path)
    state = load_file(path)
    assert state.keys() == m.state_dict().keys() and all(np.array_equal(a, state[n]) for n, a in m.state_dict().items())
    other = Model()
    other.load(path)
    assert all(np.array_equal(a, state[n]) for n, a in other.state_dict().items())


def test_loading_reaches_packed_weights():
    layer, x = nn.Linear(32, 32), Tensor(normal(64, 32))
    layer(x)
    state = {"weight": normal(32, 32, seed=5), "bias": normal(32, seed=6)}
    layer.load_state_dict(state)
    close(
        layer(x).numpy(),
        x.numpy().astype(float) @ state["weight"].T.astype(float) + state["bias"],
        2e-6,
        "Linear",
    )


def test_zero_grad_and_forward_that_is_not_there():
    layer = nn.Linear(3, 2)
    learns(layer, Tensor(normal(4, 3)))
    layer.zero_grad()
    assert all(t.grad is None for t in layer.parameters())
    with pytest.raises(TypeError, match="Module has no forward"):
        nn.Module()()


# ---- initialisers ---------------------------------------------------------------------------------------


def test_initialisers_have_the_statistics_of_their_papers():
    a = nn.fan_in_uniform(200, 300)
    assert abs(a).max() <= 1 / math.sqrt(300) and a.std() == pytest.approx(1 / math.sqrt(3 * 300), rel=0.02)
    a = nn.fan_in_uniform(64, 3, 3, 32)
    assert a.std() == pytest.approx(1 / math.sqrt(3 * 288), rel=0.02)
    a = nn.xavier_uniform(200, 300)
    assert a.std() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    a = nn.xavier_uniform(64, 3, 3, 32)
    assert a.std() == pytest.approx(math.sqrt(2 / (9 * 96)), rel=0.02)
    a = nn.normal(300, 200, std=0.3)
    assert a.std() == pytest.approx(0.3, rel=0.02) and abs(a.mean()) < 0.01
    for shape in [(20, 50), (50, 20), (16, 3, 3, 2)]:
        m = nn.orthogonal(*shape, gain=2.0).reshape(shape[0], -1).astype(float)
        gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)
    assert all(
        f(3, 4).dtype == np.float32
        for f in (nn.fan_in_uniform, nn.xavier_uniform, nn.normal, nn.orthogonal, nn.zeros, nn.ones)
    )


def test_the_same_seed_gives_the_same_model():
    def model(seed):
        machine.seed(seed)
        return nn.Attention(8, 2).state_dict()

    a, b, c = model(3), model(3), model(4)
    assert all(np.array_equal(a[n], b[n]) for n in a) and not np.array_equal(a["qkv.weight"], c["qkv.weight"])
