"""Diffusion ops: noising, conversions, solver steps against NumPy; constants that published systems use."""

import numpy as np
import pytest
from harness import check_op, tensor
from reference import diffuse as ref
from reference import random as draws
from worldmodel import _core

KINDS, SAYS = ("flow", "edm", "ddpm"), ("x", "eps", "v")


def streams(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(-(2**31), 2**31, (n, 4)).astype(np.int32)


def levels(kind: str, shape: tuple, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(np.float32)
    return np.exp(3 * x - 2).astype(np.float32) if kind == "edm" else x


def nearer_clean(kind: str, level: np.ndarray) -> np.ndarray:
    return (level * np.float32(0.6)) if kind == "edm" else (level + (1 - level) * np.float32(0.4))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- noising ------------------------------------------------------------------------------------------

def noised(kind, x, s, level, offset, per_sample):
    """noisy, eps in float64; x (B, ...), level (B) or (B, T)."""
    e = draws.normal(s, 3, x.size // len(s)).reshape(x.shape)
    a, n = ref.parts(kind, ref.rows(level, x))
    C, per_stream = x.shape[-1], level.size // len(s)
    padded = (C + 3) // 4 * 4
    o = draws.normal(s, 3 + 2**30, per_stream * padded).reshape(len(s), per_stream, padded)[..., :C]
    o = o.reshape(level.shape + (1,) * (x.ndim - level.ndim - 1) + (C,))
    return a * x + n * e + offset * o * (1 if kind == "edm" else n), e


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 3), (2, 4, 16, 16, 3), (2, 1, 3, 1, 1)])
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_noise_frames(kernels, kind, shape, offset):
    frames = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    level = levels(kind, shape[:2])

    def reference(frames, s, level):
        clean = frames / 127.5 - 1
        noisy, e = noised(kind, clean, s, level, offset, True)
        return noisy, clean, e

    check_op("noise_frames", [frames, streams(shape[0]), level], reference, grads=(), batched=[0, 1, 2],
             kind=kind, salt=3, offset=offset, with_eps=True)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_at_a_level_a_sample_and_its_gradient(kernels, kind):
    x, level = numbers(4, 3, 6, 5), levels(kind, (4,))
    check_op("noise", [x, streams(2), level], lambda x, s, level: noised(kind, x, s, level, 0.1, True)[0],
             grads=[0], kind=kind, salt=3, offset=0.1)


def test_a_clean_level_leaves_the_frames_alone(kernels):
    frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16, 1)
    level = tensor(np.ones((1, 1), np.float32))
    noisy, clean = _core.ops["noise_frames"](tensor(frames), tensor(streams(1)), level)
    assert np.array_equal(noisy.numpy(), clean.numpy())
    assert clean.numpy().min() == -1 and clean.numpy().max() == 1


# ---- conversions --------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SAYS)
@pytest.mark.parametrize("target", SAYS)
def test_convert(kernels, kind, source, target):
    pred, y, level = numbers(3, 2, 7, 5), numbers(3, 2, 7, 5, seed=1), levels(kind, (3, 2))
    check_op("convert", [pred, y, level],
             lambda p, y, t: ref.convert(kind, source, target, p, y, ref.rows(t, y), 0.5, 0.1),
             grads=[0, 1], batched=[0, 1, 2], kind=kind, source=source, target=target, offset=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_converting_there_and_back_returns(kernels, kind):
    p, y, level = numbers(4, 9), numbers(4, 9, seed=1), levels(kind, (4,))
    for a in SAYS:
        for b in SAYS:
            there = _core.ops["convert"](tensor(p), tensor(y), tensor(level), kind=kind, source=a, target=b)
            back = _core.ops["convert"](there, tensor(y), tensor(level), kind=kind, source=b, target=a)
            assert np.allclose(back.numpy(), p, atol=2e-4), (a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_converting_at_the_ends_is_finite(kernels, kind):
    y, level = tensor(numbers(2, 9)), tensor(np.array([0, 1 if kind != "edm" else 80], np.float32))
    for a in SAYS:
        for b in SAYS:
            out = _core.ops["convert"](y, y, level, kind=kind, source=a, target=b).numpy()
            assert np.isfinite(out).all()


# (offset, sigma) -> c_in, c_skip, c_out, c_noise of DIAMOND (sigma_data 0.5)
PRECONDITIONERS = [
    (0.3, 5, 0.19865, 0.00987, 0.49753, 0.40281), (0.3, 0.3, 1.52499, 0.58140, 0.32350, -0.21435),
    (0.3, 0.002, 1.71498, 0.73529, 0.25725, -0.30099), (0.1, 5, 0.19897, 0.00990, 0.49752, 0.40241),
    (0.1, 0.3, 1.69031, 0.71429, 0.26726, -0.28782), (0.1, 0.002, 1.96115, 0.96152, 0.09808, -0.57560),
]


@pytest.mark.parametrize(("offset", "sigma", "c_in", "skip", "out", "noise"), PRECONDITIONERS)
def test_diamond_preconditioners(kernels, offset, sigma, c_in, skip, out, noise):
    one, zero = tensor(np.ones((1, 1), np.float32)), tensor(np.zeros((1, 1), np.float32))
    s = np.array([sigma], np.float32)
    scaled, c_noise = _core.ops["edm_scale"](one, tensor(s), offset=offset)
    assert scaled.numpy()[0, 0] == pytest.approx(c_in, abs=6e-6)
    assert c_noise.numpy()[0] == pytest.approx(noise, abs=6e-6)
    for pred, noisy, want in [(zero, one, skip), (one, zero, out)]:
        x = _core.ops["convert"](pred, noisy, tensor(s), kind="edm", source="v", target="x", offset=offset)
        assert x.numpy()[0, 0] == pytest.approx(want, abs=6e-6)


def test_edm_scale(kernels):
    x, s = numbers(3, 2, 7), levels("edm", (3, 2))

    def reference(x, s):
        c_in, _, _, c_noise = ref.edm(s, 0.7, 0.2)
        return ref.rows(c_in, x) * x, c_noise

    check_op("edm_scale", [x, s], reference, grads=(), sigma_data=0.7, offset=0.2)
    check_op("edm_scale", [x, s], reference, grads=[0], batched=[0, 1], sigma_data=0.7, offset=0.2)


# ---- solver steps -------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", SAYS)
@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_euler_step(kernels, kind, target, clip):
    y, pred, level = numbers(3, 2, 11), numbers(3, 2, 11, seed=1), levels(kind, (3, 2))
    new = nearer_clean(kind, level)
    new[1, 0] = level[1, 0]
    new[2, 1] = 0 if kind == "edm" else 1

    def reference(y, pred, level, new):
        return ref.euler(kind, target, y, pred, ref.rows(level, y), ref.rows(new, y), clip)

    outs = check_op("euler_step", [y, pred, level, new], reference, grads=[0, 1], batched=[0, 1, 2, 3],
                    kind=kind, target=target, clip=clip)
    assert np.array_equal(outs[0][1, 0], y[1, 0])


def test_euler_step_cuts_to_bytes_as_diamond_does(kernels):
    y, pred = numbers(2, 50), numbers(2, 50, seed=1)
    level, new = np.array([1.0, 0.3], np.float32), np.array([0.0, 0.0], np.float32)
    check_op("euler_step", [y, pred, level, new],
             lambda y, p, t, n: ref.euler("edm", "x", y, p, ref.rows(t, y), ref.rows(n, y), 1.0, True),
             grads=(), kind="edm", clip=1.0, bytes=True)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_step(kernels, eta):
    y, pred, level = numbers(4, 3, 11), numbers(4, 3, 11, seed=1), levels("ddpm", (4, 3))
    new, s = nearer_clean("ddpm", level), streams(2)

    def reference(y, pred, level, new, s):
        e = draws.normal(s, 8, y.size // 2).reshape(y.shape)
        return ref.ddim(y, pred, ref.rows(level, y), ref.rows(new, y), e, eta)

    check_op("ddim_step", [y, pred, level, new, s], reference, grads=[0, 1], target="eps", eta=eta, salt=8)


@pytest.mark.parametrize("kind", KINDS)
def test_ancestral_step(kernels, kind):
    y, pred, level = numbers(2, 3, 700), numbers(2, 3, 700, seed=1), levels(kind, (2, 3))
    new, s = nearer_clean(kind, level), streams(2)

    def reference(y, pred, level, new, s):
        e = draws.normal(s, 0, y.size // 2).reshape(y.shape)
        return ref.ancestral(kind, "x", y, pred, ref.rows(level, y), ref.rows(new, y), e, 1.0)

    check_op("ancestral_step", [y, pred, level, new, s], reference, grads=[0, 1],
             batched=[0, 1, 2, 3, 4], kind=kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", SAYS)
def test_dpmpp_2m_step(kernels, kind, target):
    y, pred, prev = (numbers(3, 2, 11, seed=i) for i in range(3))
    last = levels(kind, (3, 2))
    level = nearer_clean(kind, last)
    new = nearer_clean(kind, level)

    def reference(y, pred, level, new, prev, last):
        level, new, last = (ref.rows(t, y) for t in (level, new, last))
        return ref.dpmpp_2m(kind, target, y, pred, level, new, prev, last)

    check_op("dpmpp_2m_step", [y, pred, level, new, prev, last], reference, grads=[0, 1, 4],
             batched=[0, 1, 2, 3, 4, 5], kind=kind, target=target)


def test_dpmpp_2m_begins_and_ends_at_first_order(kernels):
    y, pred, prev = (numbers(2, 11, seed=i) for i in range(3))
    level, done = np.array([0.4, 0.6], np.float32), np.ones(2, np.float32)
    args = [tensor(a) for a in (y, pred, level, done)]
    euler = _core.ops["euler_step"](*args).numpy()
    end, _ = _core.ops["dpmpp_2m_step"](*args, tensor(prev), tensor(level / 2))
    begin, _ = _core.ops["dpmpp_2m_step"](*args)
    assert np.array_equal(begin.numpy(), euler) and np.array_equal(end.numpy(), euler)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", SAYS)
def test_heun_step(kernels, kind, target):
    arrays = [numbers(3, 2, 11, seed=i) for i in range(4)]
    level = levels(kind, (3, 2))

    def reference(y, pred, y2, pred2, level, new):
        return ref.heun(kind, target, y, pred, y2, pred2, ref.rows(level, y), ref.rows(new, y))

    check_op("heun_step", [*arrays, level, nearer_clean(kind, level)], reference, grads=[0, 1, 2, 3],
             batched=[0, 1, 2, 3, 4, 5], kind=kind, target=target)


def test_heun_step_that_ends_clean_keeps_the_euler_step(kernels):
    y, pred, y2, pred2 = (numbers(2, 5, seed=i) for i in range(4))
    level, new = np.array([0.5, 0.2], np.float32), np.zeros(2, np.float32)
    args = [tensor(a) for a in (y, pred, y2, pred2, level, new)]
    assert np.array_equal(_core.ops["heun_step"](*args, kind="edm").numpy(), y2)


def test_shortcut_step_and_target(kernels):
    y, pred, y2, pred2 = (numbers(2, 3, 5, seed=i) for i in range(4))
    level, size = levels("flow", (2, 3)) * np.float32(0.5), np.full((2, 3), 0.25, np.float32)
    check_op("shortcut_step", [y, pred, level, size],
             lambda y, p, t, d: y + ref.rows(d, y) * (p - y) / (1 - ref.rows(t, y)),
             grads=[0, 1], batched=[0, 1, 2, 3])

    def target(y, p, y2, p2, t, new):
        t, new = ref.rows(t, y), ref.rows(new, y)
        return y + (1 - t) * ((p - y) / (1 - t) + (p2 - y2) / (1 - new)) / 2

    check_op("shortcut_target", [y, pred, y2, pred2, level, level + size], target, grads=[0, 1, 2, 3])


# ---- one trajectory through every front end -----------------------------------------------------------

MEAN, STD = np.float64(0.3), np.float64(0.4)


def posterior_mean(y, a, s):
    """E[x | y] of x ~ N(MEAN, STD^2), y = a x + s eps: the network that Gaussian data would train."""
    return MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (y - a * MEAN)


@pytest.mark.parametrize("target", SAYS)
def test_every_kind_follows_the_same_trajectory(target):
    """y / signal at equal noise / signal: flow, edm and ddpm agree, whatever the network says."""
    ratio = np.array([4.0, 2.0, 1.0, 0.5, 0.2, 0.05])
    start = np.random.default_rng(0).standard_normal((1, 64)) * 4
    ends = []
    for kind in KINDS:
        level = {"flow": 1 / (1 + ratio), "edm": ratio, "ddpm": 1 / (1 + ratio**2)}[kind]
        a, s = ref.parts(kind, level)
        y = tensor((start * a[0]).astype(np.float32))
        for i in range(len(ratio) - 1):
            here, there = (tensor(np.array([v], np.float32)) for v in level[i : i + 2])
            x = tensor(posterior_mean(y.numpy().astype(np.float64), a[i], s[i]).astype(np.float32))
            pred = _core.ops["convert"](x, y, here, kind=kind, source="x", target=target)
            y = _core.ops["euler_step"](y, pred, here, there, kind=kind, target=target)
        ends.append(y.numpy() / a[-1])
    assert np.allclose(ends[0], ends[1], atol=1e-4) and np.allclose(ends[0], ends[2], atol=1e-4)


@pytest.mark.parametrize(("solver", "order", "first"), [("euler", 1, 8), ("heun", 2, 8),
                                                        ("multistep", 2, 32)])
def test_solvers_converge_with_their_order(solver, order, first):
    """The exact flow of Gaussian data maps y to MEAN + (y - MEAN) std(end) / std(start) (edm)."""
    y0 = np.random.default_rng(0).standard_normal((1, 32)) * 2

    def error(steps):
        sigma = np.exp(np.linspace(np.log(2.0), np.log(0.1), steps + 1))
        y, prev, op = tensor(y0.astype(np.float32)), None, _core.ops
        for i in range(steps):
            here, there = (tensor(np.array([v], np.float32)) for v in sigma[i : i + 2])
            said = [tensor(posterior_mean(y.numpy().astype(np.float64), 1.0, sigma[i]).astype(np.float32))]
            if solver == "multistep":
                extra = () if prev is None else (prev, tensor(sigma[i - 1 : i].astype(np.float32)))
                y, prev = op["dpmpp_2m_step"](y, *said, here, there, *extra, kind="edm")
                continue
            y2 = op["euler_step"](y, *said, here, there, kind="edm")
            if solver == "heun":
                x2 = posterior_mean(y2.numpy().astype(np.float64), 1.0, sigma[i + 1]).astype(np.float32)
                y2 = op["heun_step"](y, *said, y2, tensor(x2), here, there, kind="edm")
            y = y2
        exact = MEAN + (y0 - MEAN) * np.sqrt((STD**2 + sigma[-1] ** 2) / (STD**2 + sigma[0] ** 2))
        return np.abs(y.numpy() - exact).max()

    slope = np.log2(error(first) / error(2 * first))
    assert slope > order - 0.35, slope


# ---- weights and schedules ----------------------------------------------------------------------------

def test_loss_weights(kernels):
    tau = levels("flow", (3, 4))
    for law, f in [("ramp", lambda t: 0.9 * t + 0.1), ("inverse", lambda t: (1 - t) ** -2),
                   ("square", lambda t: (1 - t) ** 2),
                   ("sigmoid", lambda t: 1 / (1 + np.exp(1) * (t / (1 - t)) ** 2))]:
        check_op("loss_weight", [tau], f, grads=(), kind="flow", law=law)
    sigma = levels("edm", (5,))
    check_op("loss_weight", [sigma], lambda s: (s**2 + 0.25) / (s / 2) ** 2, grads=(), kind="edm", law="edm")
    abar = levels("ddpm", (5,))
    for target in SAYS:
        def snr(a, target=target):
            S = a / (1 - a)
            return np.minimum(S, 5) / {"x": 1, "eps": S, "v": S + 1}[target]
        check_op("loss_weight", [abar], snr, grads=(), kind="ddpm", law="snr", target=target)


# SNR 10, 1, 0.1, clip 5, memory 0.96
FUSED = {"v": [0.454545, 0.828767, 0.823118], "eps": [0.5, 1, 1], "x": [5, 4.84, 4.653472]}


@pytest.mark.parametrize("target", SAYS)
def test_fused_snr_weights(kernels, target):
    snr = np.array([10, 1, 0.1])
    abar = (snr / (1 + snr)).astype(np.float32)
    got = _core.ops["fused_snr_weight"](tensor(abar[None]), kind="ddpm", target=target).numpy()[0]
    assert got == pytest.approx(FUSED[target], abs=2e-6 * 5)
    level = levels("ddpm", (3, 9))
    check_op("fused_snr_weight", [level],
             lambda a: np.stack([ref.fused_snr(r / (1 - r), target, 4.0, 0.9) for r in a]),
             grads=(), batched=[0], kind="ddpm", target=target, clip=4.0, memory=0.9)


# alpha_bar of Diffusion Forcing's schedules at T = 1000
SIGMOID = {0: 0.9997, 9: 0.996923, 14: 0.995321, 99: 0.960507, 199: 0.89568, 499: 0.5, 799: 0.10432,
           899: 0.039493, 998: 0.0003, 999: 0}
COSINE = {0: 0.99995872, 9: 0.99936872, 14: 0.99887116, 99: 0.97209274, 199: 0.89870592, 499: 0.49384359,
          799: 0.09404561, 998: 2.43e-6, 999: 0}


@pytest.mark.parametrize(("law", "golden", "within"), [("sigmoid", SIGMOID, 1e-6), ("cosine", COSINE, 1e-7)])
def test_alpha_bar_has_the_published_values(kernels, law, golden, within):
    t = (np.array(list(golden), np.float32) + 1) / 1000
    got = _core.ops["alpha_bar"](tensor(t.astype(np.float32)), law=law).numpy()
    assert got == pytest.approx(list(golden.values()), abs=within + 5e-7)


def test_alpha_bar_of_the_other_laws(kernels):
    t = np.linspace(0, 1, 11).astype(np.float32)
    product = np.concatenate([[1], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    got = _core.ops["alpha_bar"](tensor(t), law="linear", steps=1000).numpy()
    assert got == pytest.approx(product[::100], rel=1e-5)
    lo, hi = np.arctan(np.exp(-7.5)), np.arctan(np.exp(7.5))
    log_snr = np.clip(-2 * np.log(np.tan(lo + t.astype(np.float64) * (hi - lo))) + 2 * np.log(0.125), -15, 15)
    got = _core.ops["alpha_bar"](tensor(t), law="shifted", shift=0.125).numpy()
    assert got == pytest.approx(1 / (1 + np.exp(-log_snr)), rel=1e-5)


# DIAMOND's sampler levels
@pytest.mark.parametrize(("n", "golden"), [(3, [5, 0.283082, 0.002, 0]),
                                           (5, [5, 1.377025, 0.283082, 0.036547, 0.002, 0])])
def test_karras_sigmas(kernels, n, golden):
    got = _core.ops["karras_sigmas"](steps=n).numpy()
    assert got == pytest.approx(golden, abs=1e-6) and got[-1] == 0


def test_wrong_use_is_told():
    y, level, s = np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.zeros((2, 4), np.int32)

    def told(text, name, *arrays, **attrs):
        with pytest.raises(ValueError, match=text):
            _core.ops[name](*[tensor(a) for a in arrays], **attrs)

    told("leading axes", "euler_step", y, y, np.zeros(3, np.float32), level)
    told("next", "euler_step", y, y, level, np.zeros((2, 3), np.float32))
    told("pred", "euler_step", y, np.zeros((2, 4), np.float32), level, level)
    told("together", "dpmpp_2m_step", y, y, level, level, y)
    told("a stream", "ddim_step", y, y, level, level, eta=0.5)
    told("divisor", "noise", y, np.zeros((3, 4), np.int32), level)
    told("steps", "karras_sigmas", steps=0)
    told("above 0", "karras_sigmas", steps=4, low=0.0)
    with pytest.raises((TypeError, ValueError)):
        _core.ops["noise_frames"](tensor(y), tensor(s), tensor(level))
