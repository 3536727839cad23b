"""One cached pass of a DiT and whole steps of imagined environments, against the same weights in PyTorch.

    python benchmarks/step.py [--threads 1 2] [--only REGEX] [--quick] [--json FILE] [--markdown FILE]

Options as in ops.py; --quick: one pass, one step, no torch.compile.
"""

import ops

if __name__ == "__main__":
    ops.main(["step"], __doc__, __file__)
