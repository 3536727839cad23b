"""overhead: what one small op costs beside its arithmetic: called from Python and recorded, and in a replay.
"""

from collections.abc import Iterator

import numpy as np
from measure import Work
from works.linear import torch_module
from worldmodel import Tape, Tensor, _core

OPS = 100
silu = _core.ops["silu"]


def works(threads: int, quick: bool) -> Iterator[Work]:
    torch = torch_module(threads)
    x = Tensor(np.zeros((4, 4), np.float32), needs_grad=True)
    tape = Tape()

    def recorded():
        with tape:
            y = x
            for _ in range(OPS):
                y = silu(y)

    recorded()
    peers = {}
    if torch:
        leaf = torch.zeros(4, 4, requires_grad=True)

        def torch_recorded():
            y = leaf
            for _ in range(OPS):
                y = torch.nn.functional.silu(y)

        peers = {"torch": torch_recorded}
    yield Work("one small op, recorded", "us", 1, recorded, peers, most=1.5, limit=None, calls=OPS)
    frozen = Tape()
    with frozen:
        y = x
        for _ in range(OPS):
            y = silu(y)
    yield Work("one small op, replayed", "us", 1, frozen.replay, {}, most=0.6, limit=None, calls=OPS)
