"""Makes dit.npz: ten AdamW steps of the DiT's PyTorch twin, in float64.  Run from the repository's root with
torch there:

PYTHONPATH=python:tests:tests/oracle python tests/dumps/make_dit.py
"""

import sys
from pathlib import Path

import numpy as np
import tiny_dit
import torch
from dit_training import twin_losses, twin_of

TRAINED = Path(__file__).parent / "dit.npz"
STEPS, LR, DECAY, BETAS, EPS = 10, 3e-3, 0.05, (0.9, 0.99), 1e-8
SMALL = dict(
    width=16,
    layers=2,
    time_every=2,
    head_width=8,
    patch=4,
    stem=4,
    window=4,
    context=2,
    slots=4,
    features=6,
    bins=5,
)


def main() -> None:
    model = tiny_dit.make(seed=7, **SMALL)
    window = tiny_dit.window_of(np.random.default_rng(7), B=4, T=4)
    dump = {f"first.{n}": t.numpy().copy() for n, t in model.named_tensors()}
    dump |= {f"window.{n}": getattr(window, n).numpy().copy() for n in window.__dataclass_fields__}
    twin = twin_of(model, torch.float64)
    weights = [w for w in twin.w.values() if w.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": DECAY},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    trace = []
    for step in range(STEPS):
        losses = twin_losses(twin, model, window, tiny_dit.stream_of(step + 1, 4), torch.float64)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        trace.append([losses[k].item() for k in ("frame", "reward", "termination")])
    dump["losses"] = np.array(trace)
    dump |= {f"last.{n}": w.detach().numpy().astype(np.float32) for n, w in twin.w.items()}
    np.savez_compressed(TRAINED, **dump)
    print(TRAINED, TRAINED.stat().st_size, "bytes;", trace[0], "->", trace[-1], file=sys.stderr)


if __name__ == "__main__":
    main()
