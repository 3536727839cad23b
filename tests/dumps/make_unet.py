"""Makes unet.npz: ten AdamW steps of the UNet's PyTorch twin, in float64.  Run from the repository's root with
torch there:

PYTHONPATH=python:tests:tests/oracle python tests/dumps/make_unet.py
"""

import sys
from pathlib import Path

import numpy as np
import tiny_dit
import tiny_unet
import torch
import unet_twin

DUMP = Path(__file__).parent / "unet.npz"
STEPS, LR, DECAY, BETAS, EPS = 10, 3e-3, 0.05, (0.9, 0.99), 1e-8


def trained() -> dict[str, np.ndarray]:
    model, window = tiny_unet.make(seed=7), tiny_unet.window_of(7)
    out = {}
    for name, t in model.named_tensors():
        out[f"first.{name}"] = t.numpy().astype(np.float16)  # half the file; both sides begin from these
        t.numpy()[...] = out[f"first.{name}"]
    out |= {f"window.{n}": getattr(window, n).numpy().copy() for n in window.__dataclass_fields__}
    weights = unet_twin.weights_of(model, torch.float64)
    twin = unet_twin.Twin(model, weights)
    trainable = [w for w in weights.values() if w.requires_grad]
    groups = [
        {"params": [w for w in trainable if w.ndim >= 2], "weight_decay": DECAY},
        {"params": [w for w in trainable if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser, trace = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS), []
    for step in range(STEPS):
        drawn = tiny_unet.draws(model, window, tiny_dit.stream_of(step + 1, 4))
        losses = unet_twin.losses(twin, window, {k: torch.tensor(v) for k, v in drawn.items()}, torch.float64)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        trace.append([losses[k].item() for k in tiny_unet.PARTS])
    out["losses"] = np.array(trace)
    return out | {f"moved.{n}": moved(unet_twin.as_ours(n, w), out[f"first.{n}"]) for n, w in weights.items()}


def moved(last: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Sums of a tensor's way by its rows, all that the dump keeps of where it ended."""
    way = last.astype(np.float64) - first
    return way.reshape(len(way), -1).sum(1).astype(np.float32)


if __name__ == "__main__":
    dump = trained()
    np.savez_compressed(DUMP, **dump)
    print(DUMP, DUMP.stat().st_size, "bytes;", dump["losses"][0], "->", dump["losses"][-1], file=sys.stderr)
