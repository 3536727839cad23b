"""metrics: each against brute force, loops and all."""

import math

import numpy as np
import pytest
from worldmodel import metrics as m


def frames(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def near(rng, x, by=20):
    return np.clip(x + rng.integers(-by, by + 1, x.shape), 0, 255).astype(np.uint8)


def psnr_by_loop(a, b, mask=None):
    total = count = 0
    for i, j, c in np.ndindex(a.shape):
        if mask is None or mask[i, j]:
            total += (int(a[i, j, c]) - int(b[i, j, c])) ** 2
            count += 1
    return 10 * math.log10(255**2 * count / total)


def ssim_by_loop(a, b):
    offsets = range(-5, 6)
    weight = {(i, j): math.exp(-(i * i + j * j) / (2 * 1.5**2)) for i in offsets for j in offsets}
    whole, values = sum(weight.values()), []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            for c in range(a.shape[2]):
                at = [
                    (w / whole, float(a[y + i, x + j, c]), float(b[y + i, x + j, c]))
                    for (i, j), w in weight.items()
                ]
                ma, mb = sum(w * p for w, p, _ in at), sum(w * q for w, _, q in at)
                va, vb = sum(w * (p - ma) ** 2 for w, p, _ in at), sum(w * (q - mb) ** 2 for w, _, q in at)
                cov = sum(w * (p - ma) * (q - mb) for w, p, q in at)
                c1, c2 = 6.5025, 58.5225
                top = (2 * ma * mb + c1) * (2 * cov + c2)
                values.append(top / ((ma * ma + mb * mb + c1) * (va + vb + c2)))
    return sum(values) / len(values)


def test_psnr_is_the_loop_with_and_without_a_mask():
    rng = np.random.default_rng(0)
    a = frames(rng, 2, 3, 5, 4, 3)
    b, mask = near(rng, a), rng.random((2, 3, 5, 4)) < 0.4
    for i in np.ndindex(2, 3):
        assert np.isclose(m.psnr(a, b)[i], psnr_by_loop(a[i], b[i]))
        assert np.isclose(m.psnr(a, b, mask)[i], psnr_by_loop(a[i], b[i], mask[i]))


def test_psnr_at_its_edges():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert m.psnr(black, white) == 0 and m.psnr(black, black) == np.inf
    assert np.isnan(m.psnr(black, white, np.zeros((4, 4), bool)))
    assert np.isclose(m.psnr(black, black + 1), 48.1308036)
    with pytest.raises(TypeError, match="uint8"):
        m.psnr(black.astype(np.float32), black)
    with pytest.raises(ValueError, match="one size"):
        m.psnr(black, black[:3])


@pytest.mark.parametrize("shape", [(11, 11, 1), (14, 12, 3)])
def test_ssim_is_the_loop(shape):
    rng = np.random.default_rng(0)
    a = frames(rng, *shape)
    for b in (near(rng, a), frames(rng, *shape), 255 - a):
        assert np.isclose(m.ssim(a, b), ssim_by_loop(a, b), atol=1e-9)


def test_ssim_of_batches_and_edges():
    rng = np.random.default_rng(0)
    a = frames(rng, 30, 3, 16, 16, 3)
    b = near(rng, a)
    assert m.ssim(a, b).shape == (30, 3)
    assert np.isclose(m.ssim(a, b)[29, 2], m.ssim(a[29, 2], b[29, 2]))
    assert np.allclose(m.ssim(a, a), 1)
    with pytest.raises(ValueError, match="11 pixels or more each way, got 10x16"):
        m.ssim(a[..., :10, :, :], a[..., :10, :, :])


def test_changing_is_any_channel_over_the_threshold():
    before = np.full((1, 3, 3), 100, np.uint8)
    after = np.array([[[100, 100, 100], [100, 92, 100], [100, 100, 109]]], np.uint8)
    assert m.changing(after, before, 8).tolist() == [[False, False, True]]
    assert m.changing(after, before, 7).tolist() == [[False, True, True]]
    assert m.changing(np.zeros_like(before), np.full_like(before, 255), 254).all()  # no wrap of uint8


def test_rollout_curves_are_the_loop():
    rng = np.random.default_rng(0)
    real = frames(rng, 3, 4, 12, 12, 1)
    real[:, 2] = real[:, 1]  # nothing changes at step 3
    real[0, 0, :6] = 7
    last = real[:, 0].copy()
    last[:, 6:] = frames(rng, 3, 6, 12, 1)
    imagined = near(rng, real)
    curves = m.rollout_curves(real, imagined, last)
    for t in range(4):
        before = last if t == 0 else real[:, t - 1]
        mask = (np.abs(real[:, t].astype(int) - before) > 8).any(-1)
        for name, guess in (("", imagined[:, t]), ("copy_last_", last)):
            square = (real[:, t].astype(float) - guess) ** 2
            with np.errstate(divide="ignore"):
                assert np.isclose(curves[name + "psnr"][t], 10 * np.log10(255**2 / square.mean()))
            want = 10 * np.log10(255**2 / square[mask].mean()) if mask.any() else np.nan
            assert np.isclose(curves[name + "psnr_changing"][t], want, equal_nan=True)
            assert np.isclose(
                curves[name + "ssim"][t], np.mean([m.ssim(*p) for p in zip(real[:, t], guess, strict=True)])
            )
        assert np.isclose(curves["changing"][t], mask.mean())
    assert np.isnan(curves["psnr_changing"][2]) and np.isfinite(curves["psnr"]).all()
    with pytest.raises(ValueError, match="wanted real and imagined"):
        m.rollout_curves(real, imagined[:, :2], last)


def test_a_perfect_world_beats_copy_last_and_a_copying_one_equals_it():
    rng = np.random.default_rng(0)
    real, last = frames(rng, 2, 3, 8, 8, 3), frames(rng, 2, 8, 8, 3)
    assert np.isinf(m.rollout_curves(real, real, last)["psnr"]).all()
    copy = m.rollout_curves(real, m.copy_last(last, 3), last)
    assert np.array_equal(copy["psnr"], copy["copy_last_psnr"]) and "ssim" not in copy


def test_action_shuffle_ratio_is_of_means():
    true, shuffled = np.array([[1.0, 4.0], [3.0, 4.0]]), np.array([[5.0, 4.0], [7.0, 4.0]])
    assert m.action_shuffle_ratio(true, shuffled).tolist() == [3, 1]
    assert m.action_shuffle_ratio(true[:, 0], shuffled[:, 0]) == 3
    with pytest.raises(ValueError, match="one shape"):
        m.action_shuffle_ratio(true, shuffled[0])


def test_a_derangement_moves_everyone():
    for n in range(2, 30):
        order = m.derangement(n, np.random.default_rng(n))
        assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()
    with pytest.raises(ValueError):
        m.derangement(1, np.random.default_rng(0))


def test_drift_sees_colour_contrast_and_blur():
    rng = np.random.default_rng(0)
    real = rng.integers(60, 190, (20, 16, 16, 3), dtype=np.uint8)
    same = m.drift_curves(real, real)
    assert np.isclose(same["contrast"].mean(), 1) and np.isclose(same["sharpness"].mean(), 1)
    red = real.copy()
    red[..., 0] += 30
    expected = np.sqrt(((red.mean((1, 2)) - real.mean((0, 1, 2))) ** 2).sum(-1))
    assert np.allclose(m.drift_curves(red, real)["colour"], expected)
    soft = ((real.astype(int) + np.roll(real, 1, 1) + np.roll(real, 1, 2)) // 3).astype(np.uint8)
    blurred = m.drift_curves(soft[None], real)
    assert (blurred["sharpness"] < 0.5).all() and (blurred["contrast"] < 0.8).all()
    grey = real[0].astype(float).mean(-1)
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 15)
        for x in range(1, 15)
    ]
    assert np.isclose(m.drift_curves(real[:1], real[:1])["sharpness"][0], 1)
    assert np.isclose(m._look(real)[2][0], np.var(laplacian))


@pytest.mark.parametrize(
    "p, freedom, t",
    [  # printed tables
        (0.975, 1, 12.7062047364),
        (0.975, 2, 4.3026527297),
        (0.975, 9, 2.2621571628),
        (0.975, 29, 2.0452296421),
        (0.95, 5, 2.0150483733),
        (0.995, 100, 2.6258905214),
        (0.975, 10**7, 1.9599642204),
        (0.025, 9, -2.2621571628),
    ],
)
def test_student_quantiles_are_those_of_the_tables(p, freedom, t):
    assert np.isclose(m.student_quantile(p, freedom), t, rtol=1e-7)
    assert np.isclose(m.student_cdf(m.student_quantile(p, freedom), freedom), p, atol=1e-11)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7.5, 40])
def test_student_cdf_is_the_integral_of_its_density(freedom):
    x = np.linspace(0, 2.5, 200_001)
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    density = np.exp(log_scale - (freedom + 1) / 2 * np.log1p(x * x / freedom))
    area = ((density[1:] + density[:-1]) / 2).sum() * (x[1] - x[0])
    assert np.isclose(m.student_cdf(2.5, freedom), 0.5 + area, atol=1e-9)
    assert np.isclose(m.student_cdf(-2.5, freedom), 0.5 - area, atol=1e-9)


def test_interval_of_values_and_its_coverage():
    one = m.interval([3.0, 5.0, 7.0])
    half = 4.3026527297 * 2 / math.sqrt(3)
    assert np.allclose([one.mean, one.low, one.high, one.n], [5, 5 - half, 5 + half, 3])
    assert str(one) == "5 [0.03172, 9.968] (n = 3)"
    assert m.interval([4.0]).low == -np.inf
    rng = np.random.default_rng(0)
    inside = [abs((i := m.interval(rng.normal(2, 3, 6))).mean - 2) <= i.high - i.mean for _ in range(2000)]
    assert 0.93 < np.mean(inside) < 0.97
    for bad in ([], [1.0, np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="finite values"):
            m.interval(bad)


def test_bootstrap_agrees_with_theory_and_is_reproducible():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=400)
    one = m.bootstrap(x, np.random.default_rng(1))
    t = m.interval(x)
    assert one == m.bootstrap(x, np.random.default_rng(1)) and one.mean == t.mean
    assert np.allclose([one.low, one.high], [t.low, t.high], atol=0.02)
    median = m.bootstrap(x, rng, np.median, resamples=500)
    assert median.low < np.median(x) < median.high and median.mean == np.median(x)
    assert m.bootstrap(np.full(5, 2.0), rng).high == 2


def test_rank_correlation_is_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 8, 30), rng.integers(0, 8, 30)
        ra, rb = ([sum(y < x for y in v) + (sum(y == x for y in v) + 1) / 2 for x in v] for v in (a, b))
        assert np.allclose(m.ranks(a), ra)
        assert np.isclose(m.rank_correlation(a, b), np.corrcoef(ra, rb)[0, 1])
    x = rng.normal(size=50)
    assert np.isclose(m.rank_correlation(x, np.exp(x)), 1) and np.isclose(m.rank_correlation(x, -(x**3)), -1)
    assert np.isnan(m.rank_correlation(x, np.ones(50)))
    with pytest.raises(ValueError, match="as many"):
        m.rank_correlation(x, x[:3])


@pytest.mark.parametrize("width", [5, 80])
def test_linear_probe_is_ridge_by_gradient(width):
    rng = np.random.default_rng(0)
    x, test_x = rng.normal(3, 2, (60, width)), rng.normal(3, 2, (40, width))
    w = rng.normal(size=(width, 2))
    y, test_y = x @ w + rng.normal(size=(60, 2)), test_x @ w + rng.normal(size=(40, 2))
    ridge = 0.3
    z, test_z = ((a - x.mean(0)) / x.std(0) for a in (x, test_x))
    v, goal = np.zeros((width, 2)), y - y.mean(0)
    for _ in range(20_000):
        v -= 0.05 * (z.T @ (z @ v - goal) / 60 + ridge * v)
    rest = test_y - test_z @ v - y.mean(0)
    want = 1 - (rest**2).sum(0) / ((test_y - test_y.mean(0)) ** 2).sum(0)
    assert np.allclose(m.linear_probe(x, y, test_x, test_y, ridge), want, atol=1e-8)


def test_linear_probe_finds_what_is_there_and_only_that():
    rng = np.random.default_rng(0)
    state, noise = rng.normal(size=(400, 2)), rng.normal(size=(400, 3))
    features = np.concatenate([state @ rng.normal(size=(2, 2)), noise, np.full((400, 1), 7.0)], axis=1)
    targets = np.concatenate([state, rng.normal(size=(400, 1)), np.ones((400, 1))], axis=1)
    score = m.linear_probe(features[:300], targets[:300], features[300:], targets[300:])
    assert (score[:2] > 0.99).all() and score[2] < 0.1 and np.isnan(score[3])
    with pytest.raises(ValueError, match="wanted"):
        m.linear_probe(features, targets[:3], features, targets)


@pytest.mark.parametrize("width", [4, 90])
@pytest.mark.parametrize("each", [True, False])
def test_grouped_probe_is_ridge_fitted_on_other_groups(width, each):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    x, w = rng.normal(3, 1, (60, width)) * rng.uniform(1, 3, width), rng.normal(size=(width, 2))
    y, other, ridge = x @ w + rng.normal(size=(60, 2)), x + rng.normal(size=x.shape), 0.01
    scale = x.std(0) if each else np.sqrt(x.var(0).sum())
    guess = np.zeros((2, 60, 2))
    for f in range(3):
        fit = groups % 3 != f
        mean = x[fit].mean(0)
        z, goal = (x[fit] - mean) / scale, y[fit] - y[fit].mean(0)
        v = np.linalg.solve(z.T @ z + ridge * (z**2).sum() * np.eye(width), z.T @ goal)
        for j, seen in enumerate((x, other)):
            guess[j, ~fit] = (seen[~fit] - mean) / scale @ v + y[fit].mean(0)
    want = 1 - ((guess - y) ** 2).sum(1) / ((y - y.mean(0)) ** 2).sum(0)
    got = m.grouped_probe(x, y, groups, (other,), each=each, folds=3, ridges=(ridge,))
    assert np.allclose(got, want, atol=1e-4)
    several = m.grouped_probe(x, y, groups, each=each, folds=3, ridges=(ridge, 1e-5, 10.0))[0]
    assert (several >= got[0] - 1e-9).all()


def test_grouped_probe_does_not_learn_an_episode_by_heart():
    """What only marks the episode says nothing about another; few rows and many features do not go wild."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    marks = np.eye(20)[groups] + 0.01 * rng.normal(size=(200, 20))
    state = np.stack([rng.normal(size=20)[groups], np.ones(200)], 1)
    assert -0.3 < m.grouped_probe(marks, state, groups)[0][0] < 0.1
    noise = rng.normal(size=(200, 300))
    score = m.grouped_probe(np.concatenate([noise, state + 5], 1), state, groups)[0]
    assert -0.3 < score[0] and np.isnan(score[1])
    assert -0.3 < m.grouped_probe(noise, state, groups)[0][0] < 0.2
