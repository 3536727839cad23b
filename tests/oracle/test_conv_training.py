"""Ten AdamW steps of the conv net beside PyTorch, live: our losses are as near to its float64 ones as its
float32 ones are, and the committed dump is what the script writes.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the live oracle needs PyTorch: pip install '.[oracle]'")

import conv_net  # noqa: E402

DUMPS = Path(__file__).resolve().parents[1] / "dumps"
sys.path.insert(0, str(DUMPS))
import make_conv  # noqa: E402


@pytest.mark.parametrize("seed", [1, 2])
def test_losses_follow_pytorch(kernels, seed):
    from worldmodel import machine

    machine.seed(seed)
    begin, batch = conv_net.ConvNet().state_dict(), conv_net.data(seed)
    exact, _ = make_conv.trained(begin, batch, torch.float64)
    theirs, _ = make_conv.trained(begin, batch)
    ours, _ = conv_net.trained(begin, batch)
    error, allowed = (max(abs(a - b) for a, b in zip(x, exact, strict=True)) for x in (ours, theirs))
    assert error <= 3 * allowed + 1e-6, (error, allowed)


def test_the_dump_is_what_the_script_writes():
    dump = np.load(DUMPS / "conv.npz")
    begin = {n.removeprefix("begin."): dump[n] for n in dump.files if n.startswith("begin.")}
    losses, end = make_conv.trained(begin, conv_net.data())
    np.testing.assert_allclose(losses, dump["losses"], rtol=1e-5)
    for name, a in end.items():
        np.testing.assert_allclose(a, dump["end." + name], atol=1e-3)
