import numpy as np
import pytest
from harness import check_op


@pytest.mark.parametrize("n", [1, 3, 16, 17, 257])
def test_silu(kernels, n):
    check_op("silu", [np.random.default_rng(n).standard_normal((3, n)).astype(np.float32) * 4],
             lambda x: x / (1 + np.exp(-x)), batched=[0])
