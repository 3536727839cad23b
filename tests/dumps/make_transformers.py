"""make_transformers: what the PyTorch twins of tests/tiny_transformers.py say, in float64, into dumps/transformers.npz.

python tests/dumps/make_transformers.py         # needs PyTorch
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "oracle")]

import transformer_twins as twin  # noqa: E402
from tiny_transformers import imagenet_dit, normal, oasis  # noqa: E402
from worldmodel.pretrained import imagenet_dit as dit_file  # noqa: E402
from worldmodel.pretrained import oasis as oasis_file  # noqa: E402
from worldmodel.pretrained.keys import emptied  # noqa: E402


def weights(model, keys):
    return {k: torch.tensor(v).double() for k, v in emptied(dict(model.named_tensors()), keys(model)).items()}


if __name__ == "__main__":
    d = oasis().dynamics
    w, v = weights(d.dit, oasis_file.dit_keys), weights(d.vae, oasis_file.vae_keys)
    x, noise, a = (
        torch.tensor(z).double()
        for z in (normal(1, 3, 4, 6, 8), normal(1, 1, 4, 6, 8, seed=3), normal(1, 4, 25, seed=4))
    )
    out = {
        "frame": twin.oasis_frame(w, x, noise, a, 2, 10, 5)[0, 0],
        "encoded": twin.encode(v, torch.tensor(np.tanh(normal(1, 16, 24, 3))).double(), 2),
        "decoded": twin.decode(v, torch.tensor(normal(1, 4, 6, 8)).double().flatten(1, 2), 2, 4, 6),
    }
    w = weights(imagenet_dit(), dit_file.keys_of)
    out["sampled"] = twin.dit_sample(w, torch.tensor(normal(2, 8, 8, 4)).double(), torch.tensor([3, 7]), 2, 10, 4.0)
    np.savez_compressed(HERE / "transformers.npz", **{k: t.numpy().astype(np.float32) for k, t in out.items()})
