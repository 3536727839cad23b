"""Ten AdamW steps of a small conv net are PyTorch's (tests/dumps/conv.npz); the DiT's are in tests/models."""

from pathlib import Path

import numpy as np
from conv_net import ConvNet, data, trained

DUMP = np.load(Path(__file__).resolve().parents[1] / "dumps" / "conv.npz")


def part(prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): DUMP[n] for n in DUMP.files if n.startswith(prefix)}


def test_ten_steps_are_pytorchs(kernels):
    losses, end = trained(part("begin."), data())
    np.testing.assert_allclose(losses, DUMP["losses"], rtol=2e-5)
    assert losses[-1] < 0.8 * losses[0]
    wanted = part("end.")
    assert end.keys() == wanted.keys() == ConvNet().state_dict().keys()
    for name, a in end.items():
        moved = np.abs(wanted[name] - DUMP["begin." + name]).max()
        assert np.abs(a - wanted[name]).max() <= 0.01 * moved, name


def test_the_trace_has_the_same_bits_with_any_number_of_threads():
    from worldmodel import machine

    before, traces = machine.threads(), []
    try:
        for n in (1, 2, 3):
            machine.set_threads(n)
            losses, end = trained(part("begin."), data())
            traces.append((losses, {name: a.tobytes() for name, a in end.items()}))
    finally:
        machine.set_threads(before)
    assert traces[0] == traces[1] == traces[2]
