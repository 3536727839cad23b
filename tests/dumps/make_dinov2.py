"""make_dinov2: what the PyTorch twin of DINOv2 says of tests/tiny_dinov2.py, in float64, into dumps/dinov2.npz.

    python tests/dumps/make_dinov2.py         # needs PyTorch
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "oracle")]

import dinov2_twin as twin  # noqa: E402
from tiny_dinov2 import CASES, made, pixels  # noqa: E402
from worldmodel.pretrained.dinov2 import state_of  # noqa: E402

if __name__ == "__main__":
    out = {}
    for name, (options, shape) in CASES.items():
        model = made(**options)
        w = {k: torch.tensor(v).double() for k, v in state_of(model, hf=False).items()}
        x = torch.tensor(pixels(2, *shape)).permute(0, 3, 1, 2).double()
        cls, _, patches = twin.forward(w, x, options.get("registers", 0), options.get("positions", "hub"), 2)
        out |= {f"{name}.cls": cls.numpy(), f"{name}.patches": patches.mean(1).numpy()}
    np.savez_compressed(HERE / "dinov2.npz", **{k: v.astype(np.float32) for k, v in out.items()})
