"""Ten AdamW steps against PyTorch's (dumps/dit.npz), and what training does on a toy: shortcuts agree, frames
come out."""

from pathlib import Path

import numpy as np
import tiny_dit
from worldmodel import Tape, optim
from worldmodel.models.dynamics import Window
from worldmodel.tensor import Tensor

DUMP = Path(__file__).parent.parent / "dumps" / "dit.npz"
SMALL = dict(
    width=16,
    layers=2,
    time_every=2,
    head_width=8,
    patch=4,
    stem=3,
    window=4,
    context=2,
    slots=4,
    features=6,
    bins=5,
)


def test_ten_steps_match_pytorch(kernels):
    dump = np.load(DUMP)
    model = tiny_dit.make(**SMALL)
    model.load_state_dict({n[6:]: dump[n] for n in dump.files if n.startswith("first.")})
    window = Window(**{n: Tensor(dump[f"window.{n}"], copy=True) for n in Window.__dataclass_fields__})
    adamw = optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05)
    trace = []
    for step in range(10):
        with Tape() as tape:
            losses = model.losses(window, tiny_dit.stream_of(step + 1, 4))
            total = losses["frame"] + losses["reward"] + losses["termination"]
        tape.backward(total)
        adamw.step()
        trace.append([float(losses[k]) for k in ("frame", "reward", "termination")])
    assert np.allclose(trace, dump["losses"], rtol=3e-4, atol=1e-6)
    for name, t in model.named_tensors():
        moved = np.abs(dump["last." + name] - dump["first." + name]).mean()
        error = np.abs(t.numpy() - dump["last." + name]).mean()
        assert error <= 0.02 * moved + 1e-7, f"{name}: {error:.3g} of {moved:.3g}"
