"""Levels, weights and schedules, against published constants and the laws they are drawn from."""

import numpy as np
import pytest
from worldmodel import diffusion
from worldmodel.diffusion import (
    Objective,
    carried,
    draw_levels,
    frame_weight,
    level_features,
    loss_weight,
    schedule_matrix,
)
from worldmodel.sampling import streams
from worldmodel.tensor import Tensor


def levels_of(objective, B=400, T=8, seed=0):
    return draw_levels(objective, Tensor(streams(np.arange(B) + 10_000 * seed), copy=True), T)


def test_the_pyramid_of_diffusion_forcing():
    want = [
        "4444",
        "3444",
        "2344",
        "1234",
        "0123",
        "0012",
        "0001",
        "0000",
    ]  # h = K = 4, u = 1 (Diffusion Forcing, appendix)
    assert ["".join(map(str, row)) for row in schedule_matrix("pyramid", 4, 4)] == want


def test_autoregressive_and_full_schedules():
    full = schedule_matrix("full", 3, 2)
    assert full.tolist() == [[2, 2, 2], [1, 1, 1], [0, 0, 0]]
    one = schedule_matrix("autoregressive", 3, 2)
    assert one.tolist() == [[2, 2, 2], [1, 2, 2], [0, 2, 2], [0, 1, 2], [0, 0, 2], [0, 0, 1], [0, 0, 0]]
    assert np.array_equal(schedule_matrix("pyramid", 3, 2, slope=2.0), one)
    assert np.array_equal(schedule_matrix("pyramid", 5, 3, slope=0.0), schedule_matrix("full", 5, 3))


@pytest.mark.parametrize("kind", diffusion.SCHEDULES)
@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (1, 4), (5, 1), (7, 3)])
def test_a_schedule_goes_from_noise_to_clean_one_level_at_a_time(kind, frames, steps):
    m = schedule_matrix(kind, frames, steps)
    assert (m[0] == steps).all() and (m[-1] == 0).all()
    fall = -np.diff(m, axis=0)
    assert fall.min() >= 0 and fall.max() <= 1 and (fall.sum(1) > 0).all()
    assert (np.diff(m, axis=1) >= 0).all()  # an earlier frame is never noisier


def test_wrong_schedules_are_errors():
    with pytest.raises(ValueError, match="schedule_matrix: kind must be one of"):
        schedule_matrix("spiral", 3, 2)
    with pytest.raises(ValueError, match="schedule_matrix: frames and steps"):
        schedule_matrix("full", 0, 2)


def test_levels_follow_their_law():
    o = Objective(finest=8, bootstrap=0.25, start=0.5, context=(0.3, 0.9), low=0.9, led=0.0)
    lv = levels_of(o)
    assert lv.rows == 100
    assert abs(lv.context.mean() - 0.6) < 0.03
    by_row = lv.context.mean(1)
    assert by_row.std() > 0.2  # rows differ in how much of them is context
    assert (lv.tau[lv.context] >= 0.9 - 1e-6).all() and (lv.tau < 1).all()
    rest = ~lv.context
    assert abs((lv.tau[rest] == 0)[: rest.sum()].mean() - 0.5) < 0.1
    flow = rest.copy()
    flow[: lv.rows] = False
    assert (lv.size[flow] == 1 / 8).all()
    between = lv.tau[flow & (lv.tau > 0)]
    assert abs(between.mean() - 0.5) < 0.03 and between.min() < 0.02 and between.max() > 0.97


def test_frames_to_be_learned_follow_frames_that_are_seen():
    lv = levels_of(Objective(context=(0.2, 0.6), led=0.9))
    target = ~lv.context[:, 1:]
    assert 0.85 < lv.context[:, :-1][target].mean() < 0.97 and 0.3 < target.mean() < 0.5
    alone = levels_of(Objective(context=(0.0, 0.0), led=0.0))
    assert not alone.context.any()


def test_what_follows_noise_weighs_little():
    lv = levels_of(Objective(unled=0.1))
    w = frame_weight(Objective(unled=0.1), lv)
    noise = (lv.tau[:, :-1] == 0) & ~lv.context[:, 1:]
    assert np.allclose(w[:, 1:][noise], 0.1) and (w[lv.context] == 1).all()
    seen = lv.context[:, :-1] & ~lv.context[:, 1:]
    assert np.allclose(w[:, 1:][seen], 1)
    assert np.allclose(frame_weight(Objective(unled=1.0), lv), 1)


def test_bootstrapped_levels_lie_on_the_grid_of_their_step():
    lv = levels_of(Objective(finest=16, bootstrap=1.0, start=0.0, context=(0.0, 0.0), led=0.0))
    sizes = {1, 0.5, 0.25, 0.125}
    assert set(np.unique(lv.size).tolist()) == sizes
    for s in sizes:
        tau = lv.tau[lv.size == s]
        assert np.array_equal(np.unique(tau), np.arange(0, 1, s, dtype=np.float32))
        assert abs((lv.size == s).mean() - 0.25) < 0.03
    assert np.array_equal(lv.half, lv.size / 2)


def test_levels_of_a_sample_do_not_depend_on_the_batch_but_for_its_place():
    o = Objective(bootstrap=0.0)
    rows = streams(np.arange(5))
    whole = draw_levels(o, Tensor(rows, copy=True), 6)
    for i in range(5):
        one = draw_levels(o, Tensor(rows[i : i + 1], copy=True), 6)
        assert np.array_equal(one.tau[0], whole.tau[i])


def test_weights():
    tau = np.array([0, 0.5, 0.9, 1], np.float32)
    assert np.allclose(loss_weight("one", tau), 1)
    assert np.allclose(loss_weight("ramp", tau), [0.1, 0.55, 0.91, 1.0])  # Dreamer 4: 0.9 tau + 0.1
    assert np.allclose(loss_weight("square", tau), [1, 0.25, 0.01, 0])
    assert np.allclose(loss_weight("inverse", tau), [1, 4, 100, 100])


def test_carried_is_the_best_linear_estimate():
    rng = np.random.default_rng(0)
    x, e = rng.standard_normal(200_000) * 0.5, rng.standard_normal(200_000)
    for tau in (0.0, 0.3, 0.8, 0.98, 1.0):
        noisy = tau * x + (1 - tau) * e
        best = (noisy * x).mean() / (noisy * noisy).mean()
        assert abs(float(carried(np.float32(tau))) - best) < 0.01


def test_level_features_tell_levels_and_steps_apart():
    tau, size = np.array([0.0, 0.5, 0.5, 1.0]), np.array([1, 1, 0.5, 0.125])
    waves, one = level_features(tau, size, np.zeros(4), 4)
    assert (
        waves.shape == (4, 64)
        and np.array_equal(waves[1], waves[2])
        and np.abs(waves[0] - waves[3]).max() > 1
    )
    assert np.array_equal(one.argmax(1), [0, 0, 1, 3]) and (one.sum(1) == 1).all()


@pytest.mark.parametrize(
    "bad",
    [dict(finest=6), dict(start=2.0), dict(context=(0.9, 0.1)), dict(weight="heavy"), dict(bootstrap=-1)],
)
def test_a_wrong_objective_is_an_error(bad):
    with pytest.raises(ValueError, match="Objective: " + next(iter(bad))):
        Objective(**bad)


def test_mix_is_the_best_linear_guess():
    rng = np.random.default_rng(0)
    n, s = 200_000, 0.1
    m, u, e = rng.standard_normal(n) * 0.5, rng.standard_normal(n) * s, rng.standard_normal(n)
    x = m + u
    for tau in (0.0, 0.5, 0.9, 1.0):
        noisy = tau * x + (1 - tau) * e
        a, b, c, d = diffusion.mix(np.array([tau]), np.array([1.0]), True)[:, 0]
        left = x - a * noisy - b * m
        assert abs(left.std() - s * c) < 0.003 and abs(d - 0.1 - 0.9 * tau) < 1e-6
        for da, db in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
            assert (x - (a + da) * noisy - (b + db) * m).std() > left.std()
    assert np.allclose(diffusion.mix(np.array([0.0]), np.array([0.0]), True)[:3, 0], [0, 1, 1])
    assert np.allclose(diffusion.mix(np.array([1.0]), np.array([0.5]), True)[:3, 0], [1, 0, 0], atol=1e-6)
