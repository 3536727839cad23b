"""Every line of kernels.def in every table that runs here: against the baseline, odd sizes, sentinels,
threads."""

import numpy as np
import pytest
from call import SIGNATURES, Table
from recipes import SIMPLE, SIZES, SPECIAL, simple
from worldmodel import _core

LINES = [line for line in SIMPLE.strip().splitlines()]
EXACT = {"baseline"}
TOLERANCE = 3e-5
"""Of the largest number of a result: tables round sums in other orders; tests/ops has the errors against
float64."""

STEPS = {
    "bernoulli",
    "categorical",
    "onehot_forward",
    "integers",
    "noise_frames",
    "floats_to_bytes",
    "resize_bytes",
}
"""Where a rounding may tip a number over an edge: a few numbers may differ by a step."""


def work(table: str, size: str, recipe) -> Table:
    t = Table(table)
    if callable(recipe):
        recipe(t, SIZES[size])
    else:
        simple(t, recipe, SIZES[size])
    t.check()
    return t


def same(a: np.ndarray, b: np.ndarray, kernels: set[str]) -> bool:
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return False
    error = np.abs(a - b)[finite]
    allowed = TOLERANCE * max(1e-3, np.abs(b[finite]).max(initial=0))
    return (error > allowed).mean() < 0.01 if kernels & STEPS else bool((error <= allowed).all())


def name_of(recipe) -> str:
    return recipe.__name__ if callable(recipe) else recipe.split()[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", [*LINES, *SPECIAL], ids=name_of)
def test_tables_agree(kernels, recipe, size):
    keep = _core.threads()
    try:
        _core.set_threads(1)
        t = work(kernels, size, recipe)
        _core.set_threads(2)
        u = work(kernels, size, recipe)
    finally:
        _core.set_threads(keep)
    for a, b in zip(t.results, u.results, strict=True):
        assert a.tobytes() == b.tobytes(), f"{name_of(recipe)}: other bits with two threads"
    if kernels != "baseline":
        for i, (a, b) in enumerate(zip(t.results, work("baseline", size, recipe).results, strict=True)):
            assert same(a, b, t.called), f"{name_of(recipe)}: result {i} differs from the baseline's"


def test_every_kernel_of_every_table_is_exercised(kernels):
    called = set().union(*(work(kernels, "ones", recipe).called for recipe in [*LINES, *SPECIAL]))
    assert called == set(SIGNATURES), f"no recipe calls {sorted(set(SIGNATURES) - called)}"
    assert len(called) == len(_core.kernel_list()) > 150
