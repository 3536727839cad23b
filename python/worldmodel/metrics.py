"""metrics: how good a world is, in numbers that do not flatter it.

Frames are uint8 (..., H, W, C); every measure reduces the last three axes and keeps the rest. Errors are
pooled before they become decibels (one still frame would make a mean of PSNRs infinite):

    psnr  = 10 log10(255^2 / mse)
    ssim  = mean of (2 ma mb + c1)(2 sab + c2) / ((ma^2 + mb^2 + c1)(sa^2 + sb^2 + c2)),
            c1 = (0.01 255)^2, c2 = (0.03 255)^2, moments under an 11x11 Gaussian of sigma 1.5, whole windows
            only (Wang, Bovik, Sheikh, Simoncelli 2004)
    ratio = error with shuffled actions / error with the true ones: 1 means that actions do nothing

On mostly still scenes the copy of the last frame is a strong baseline over all pixels: always look at
`psnr_changing` (pixels that differ from the frame before) and at `copy_last` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


# ---- one frame against another -----------------------------------------------------------------------------


def squared_error(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of squared differences and the number of values summed.

    Args:
        a, b: uint8 (..., H, W, C), broadcast against each other.
        mask: bool (..., H, W), pixels that count; all without it.

    Returns:
        (sum, count), each (...,): float64 and int64.
    """
    _check_frames(a, b)
    square = np.subtract(a, b, dtype=np.int32) ** 2
    lead, pixel = square.shape[:-3], square.shape[-3:]
    if mask is None:
        return square.sum(axis=(-3, -2, -1), dtype=np.float64), np.full(lead, math.prod(pixel), np.int64)
    mask = np.broadcast_to(mask, square.shape[:-1])
    total = np.where(mask, square.sum(axis=-1), 0).sum(axis=(-2, -1), dtype=np.float64)
    return total, mask.sum(axis=(-2, -1), dtype=np.int64) * pixel[-1]


def mse(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Mean squared error (...,) of uint8 frames; NaN where the mask is empty."""
    total, count = squared_error(a, b, mask)
    return _ratio(total, count)


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio (...,) in dB; inf for equal frames, NaN where the mask is empty."""
    return decibels(mse(a, b, mask))


def decibels(error: np.ndarray | float) -> np.ndarray:
    """PSNR of a mean squared error of uint8 values."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255.0**2 / np.asarray(error, np.float64))


def changing(frames: np.ndarray, previous: np.ndarray, threshold: int = 0) -> np.ndarray:
    """bool (..., H, W): pixels of which a channel differs from the frame before by more than `threshold`."""
    _check_frames(frames, previous)
    return (np.abs(np.subtract(frames, previous, dtype=np.int16)) > threshold).any(axis=-1)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (...,) in [-1, 1], averaged over windows and channels; H and W at least 11."""
    _check_frames(a, b)
    a, b = np.broadcast_arrays(a, b)
    lead, (height, width, _) = a.shape[:-3], a.shape[-3:]
    if min(height, width) < WINDOW:
        raise ValueError(f"ssim: frames must be {WINDOW} pixels or more each way, got {height}x{width}")
    rows, columns = _gauss(height), _gauss(width)
    flat = (np.moveaxis(x, -1, -3).reshape(-1, height, width) for x in (a, b))  # an image a channel
    a, b = (x.astype(np.float64) for x in flat)
    out = np.empty(len(a))
    for i in range(0, len(a), 64):  # a bound on memory
        out[i : i + 64] = _ssim(a[i : i + 64], b[i : i + 64], rows, columns)
    return out.reshape(*lead, -1).mean(axis=-1)


def _ssim(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    mean_a, mean_b, aa, bb, ab = (rows @ x @ columns.T for x in (a, b, a * a, b * b, a * b))
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    top = (2 * mean_a * mean_b + C1) * (2 * cov + C2)
    return (top / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).mean(axis=(-2, -1))


def _gauss(length: int) -> np.ndarray:
    """(length - 10, length): each row the Gaussian window at one place; a product filters one axis."""
    place = np.arange(length) - np.arange(length - WINDOW + 1)[:, None] - WINDOW // 2
    weight = np.where(np.abs(place) <= WINDOW // 2, np.exp(-(place**2) / (2 * SIGMA**2)), 0)
    return weight / weight.sum(axis=1, keepdims=True)


def _check_frames(a: np.ndarray, b: np.ndarray) -> None:
    for x in (a, b):
        if x.dtype != np.uint8 or x.ndim < 3:
            raise TypeError(f"frames: wanted uint8 (..., H, W, C), got {x.dtype} {x.shape}")
    if a.shape[-3:] != b.shape[-3:]:
        raise ValueError(f"frames: wanted one size, got {a.shape[-3:]} and {b.shape[-3:]}")


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(top) / np.asarray(bottom)


# ---- roll-outs ---------------------------------------------------------------------------------------------


def copy_last(last: np.ndarray, horizon: int) -> np.ndarray:
    """The baseline that repeats the last known frame: (N, H, W, C) -> (N, horizon, H, W, C), a view."""
    return np.broadcast_to(last[:, None], (len(last), horizon, *last.shape[1:]))


def rollout_curves(
    real: np.ndarray, imagined: np.ndarray, last: np.ndarray, threshold: int = 8
) -> dict[str, np.ndarray]:
    """Quality at each step of N roll-outs, beside the copy of the last known frame.

    Args:
        real, imagined: uint8 (N, T, H, W, C), frames t = 1 .. T after the context.
        last: uint8 (N, H, W, C), the last frame of the context.
        threshold: a pixel of real frame t changes if a channel differs from frame t - 1 by more than this.

    Returns:
        float64 (T,) each, errors pooled over the N roll-outs: psnr, psnr_changing, ssim (absent below 11
        pixels), the same three as copy_last_..., and changing, the share of changing pixels. NaN where
        nothing changes.
    """
    if real.shape != imagined.shape or real.ndim != 5 or last.shape != (len(real), *real.shape[2:]):
        raise ValueError(
            f"wanted real and imagined (N, T, H, W, C) and last (N, H, W, C), "
            f"got {real.shape}, {imagined.shape}, {last.shape}"
        )
    copies = copy_last(last, real.shape[1])
    mask = changing(real, np.concatenate([last[:, None], real[:, :-1]], axis=1), threshold)
    out = {"changing": mask.mean(axis=(0, 2, 3))}
    for name, frames in (("", imagined), ("copy_last_", copies)):
        for suffix, pixels in (("psnr", None), ("psnr_changing", mask)):
            total, count = squared_error(real, frames, pixels)
            out[name + suffix] = decibels(_ratio(total.sum(axis=0), count.sum(axis=0)))
        if min(real.shape[2:4]) >= WINDOW:
            out[name + "ssim"] = ssim(real, frames).mean(axis=0)
    return out


def action_shuffle_ratio(true_error: np.ndarray, shuffled_error: np.ndarray) -> np.ndarray:
    """How much worse predictions get when the actions are another roll-out's; 1: actions are ignored.

    Args:
        true_error, shuffled_error: mean squared errors (N, ...) of the same frames, by true or other actions.

    Returns:
        mean(shuffled) / mean(true) over axis 0: a number for (N,), a curve (T,) for (N, T).
    """
    true_error, shuffled_error = np.asarray(true_error, float), np.asarray(shuffled_error, float)
    if true_error.shape != shuffled_error.shape or not true_error.size:
        raise ValueError(f"wanted errors of one shape, got {true_error.shape} and {shuffled_error.shape}")
    return _ratio(shuffled_error.mean(axis=0), true_error.mean(axis=0))


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) a random cyclic permutation, nobody keeps his own: actions[derangement(n, rng)] are shuffled."""
    if n < 2:
        raise ValueError(f"derangement: wanted 2 or more, got {n}")
    order, out = rng.permutation(n), np.empty(n, np.int64)
    out[order] = np.roll(order, 1)
    return out


def drift_curves(frames: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """How a long imagined roll-out leaves the look of real frames.

    Args:
        frames: uint8 (T, H, W, C), or (N, T, H, W, C), averaged over N.
        reference: uint8 (M, H, W, C), real frames.

    Returns:
        (T,) each: colour, distance of the mean colour from the reference's, in levels of 0 .. 255;
        contrast and sharpness, standard deviation of grey and variance of its Laplacian, relative to the
        reference's.
    """
    _check_frames(frames, reference)
    if frames.ndim == 4:
        frames = frames[None]
    colour, contrast, sharpness = (x.mean(axis=0) for x in _look(reference))
    colours, contrasts, sharpnesses = _look(frames)
    away = np.sqrt(((colours - colour) ** 2).sum(axis=-1))
    relative = (_ratio(contrasts, contrast).mean(axis=0), _ratio(sharpnesses, sharpness).mean(axis=0))
    return {"colour": away.mean(axis=0), "contrast": relative[0], "sharpness": relative[1]}


def _look(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(..., C) mean colour, (...,) standard deviation of grey, (...,) variance of its Laplacian."""
    grey = frames.mean(axis=-1)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return frames.mean(axis=(-3, -2)), grey.std(axis=(-2, -1)), (around - 4 * inner).var(axis=(-2, -1))


# ---- numbers with their uncertainty ------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A mean (or another statistic) of n values and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"


def interval(values: np.ndarray, confidence: float = 0.95) -> Interval:
    """Mean of independent values (n,) with its Student-t interval; infinite bounds for n = 1.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    x = _check_values(values)
    mean, n = float(x.mean()), x.size
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = student_quantile((1 + confidence) / 2, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def bootstrap(
    values: np.ndarray,
    rng: np.random.Generator,
    statistic: Callable[..., np.ndarray] = np.mean,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Statistic of values (n,) with its percentile bootstrap interval (Efron 1979).

    Args:
        statistic: called with `axis=`, as np.mean, np.median or np.std are.
    """
    x = _check_values(values)
    chunk = max(1, 2**20 // x.size)  # a bound on memory
    sizes = [min(chunk, resamples - i) for i in range(0, resamples, chunk)]
    draws = np.concatenate([statistic(x[rng.integers(0, x.size, (size, x.size))], axis=1) for size in sizes])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(x, axis=0)), float(low), float(high), x.size)


def student_quantile(p: float, freedom: float) -> float:
    """The t with P(T <= t) = p for Student's distribution, 0 < p < 1, by bisection to 1e-12."""
    if not 0 < p < 1 or freedom <= 0:
        raise ValueError(f"student_quantile: wanted 0 < p < 1 and freedom > 0, got {p} and {freedom}")
    if p < 0.5:
        return -student_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < p:
        low, high = high, 2 * high
    while high - low > 1e-12 * (1 + low):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, freedom: float) -> float:
    """P(T <= t) = 1 - I_x(v/2, 1/2) / 2 for t >= 0, x = v / (v + t^2) (Abramowitz and Stegun 26.7.1)."""
    tail = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t)) / 2
    return 1 - tail if t >= 0 else tail


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b), y = 1 - x given apart for its digits: continued fraction (DLMF 8.17.22), modified Lentz."""
    if x == 0 or y == 0:
        return float(y == 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, y, x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    tiny = 1e-300
    d = 1 / max(1 - (a + b) * x / (a + 1), tiny)
    c, fraction = 1.0, d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            step *= c * d
        fraction *= step
        if abs(step - 1) < 1e-15:
            break
    return math.exp(front) * fraction / a


def _check_values(values: np.ndarray) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(
            f"wanted finite values (n,), n > 0, got shape {x.shape}, {(~np.isfinite(x)).sum()} not finite"
        )
    return x


# ---- is the state in there? --------------------------------------------------------------------------------


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho of two sets of values (n,), ties sharing their mean rank; NaN if either is constant."""
    a, b = _check_values(a), _check_values(b)
    if a.size != b.size:
        raise ValueError(f"wanted as many values, got {a.size} and {b.size}")
    a, b = ranks(a), ranks(b)
    a, b = a - a.mean(), b - b.mean()
    return float(_ratio((a * b).sum(), math.sqrt((a * a).sum() * (b * b).sum())))


def ranks(values: np.ndarray) -> np.ndarray:
    """float64 (n,) ranks from 1, ties sharing their mean."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[inverse]


def linear_probe(
    features: np.ndarray,
    targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
    ridge: float = 1e-3,
) -> np.ndarray:
    """R^2 (K,) on held-out data of a ridge regression from features to the real state.

        w = argmin |X w - y|^2 / n + ridge |w|^2,   X scaled to mean 0, variance 1 (training statistics)

    Args:
        features, test_features: (n, D), (m, D); targets, test_targets: (n, K), (m, K).

    Returns:
        1 - residual / variance about the test mean; NaN for a target that is constant in the test data.
    """
    x, y, test_x, test_y = (
        np.asarray(a, np.float64) for a in (features, targets, test_features, test_targets)
    )
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(test_x) != len(test_y) or len(x) < 2:
        raise ValueError(
            f"wanted (n, D), (n, K), (m, D), (m, K), got {[a.shape for a in (x, y, test_x, test_y)]}"
        )
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-12 * np.abs(centre)] = np.inf  # a constant feature says nothing
    x, test_x, mean = (x - centre) / scale, (test_x - centre) / scale, y.mean(axis=0)
    (n, d), penalty = x.shape, ridge * len(x)
    if d <= n:
        guess = test_x @ np.linalg.solve(x.T @ x + penalty * np.eye(d), x.T @ (y - mean)) + mean
    else:  # the same solution through the (n, n) kernel
        guess = test_x @ x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(n), y - mean) + mean
    spread = ((test_y - test_y.mean(axis=0)) ** 2).sum(axis=0)
    return 1 - _ratio(((test_y - guess) ** 2).sum(axis=0), np.where(spread > 0, spread, np.nan))


RIDGES = tuple(10.0**k for k in range(-6, 1))


def grouped_probe(
    features: np.ndarray,
    targets: np.ndarray,
    groups: np.ndarray,
    others: tuple[np.ndarray, ...] = (),
    *,
    each: bool = True,
    folds: int = 5,
    ridges: tuple[float, ...] = RIDGES,
) -> list[np.ndarray]:
    """R^2 (K,) of a ridge regression to the real state, every row guessed by a fit that has seen no row of its group.

    Neighbouring frames of an episode are nearly the same, so groups, not rows, are dealt out to the folds.  The ridge
    is, for each target, the one of the best R^2; each is a share of the features' total variance.

    Args:
        features: (N, D); targets: (N, K); groups: (N,), for instance the episode.
        others: further (N, D) of the same rows, guessed by the same fits (imagined frames beside real ones).
        each: every feature is scaled to variance 1; else all by one number, as suits pixels: what hardly ever changes
            must not become loud.

    Returns:
        one (K,) for features and for each of others: 1 - residual / variance; NaN for a target that is constant.
    """
    y = np.asarray(targets, np.float64)
    spread, centre = features.std(0), features.mean(0)
    flat = spread <= 1e-9 * np.maximum(1, np.abs(centre))
    scale = np.where(flat, np.inf, spread) if each else np.full_like(spread, np.sqrt((spread**2).sum()) + 1e-30)
    seen = [(np.asarray(x, np.float32) - centre) / scale for x in (features, *others)]
    inner = [np.asarray(x @ seen[0].T, np.float64) for x in seen]  # (N, N) each
    guess = np.zeros((len(seen), len(ridges), *y.shape))
    fold = np.unique(groups, return_inverse=True)[1] % folds
    for f in np.unique(fold):
        test, fit = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
        between = inner[0][np.ix_(fit, fit)]
        column, mean = between.mean(0), y[fit].mean(0)
        values, vectors = np.linalg.eigh(between - column - column[:, None] + between.mean())
        wanted = vectors.T @ (y[fit] - mean)
        for j, x in enumerate(inner):
            across = x[np.ix_(test, fit)]
            across = (across - across.mean(1, keepdims=True) - column + between.mean()) @ vectors
            for k, ridge in enumerate(ridges):
                damped = values.clip(0) + ridge * max(values.sum(), 1e-30)
                guess[j, k, test] = across @ (wanted / damped[:, None]) + mean
    variance = ((y - y.mean(0)) ** 2).sum(0)
    r2 = 1 - ((guess - y) ** 2).sum(2) / np.where(variance > 0, variance, np.nan)
    best = np.nan_to_num(r2[0], nan=-np.inf).argmax(0)
    return [r[best, np.arange(len(best))] for r in r2]
