"""One training step of world S (batch 16 x 8 frames, 64x64) against the same step in PyTorch: time and peak memory.

    python benchmarks/train.py [--threads N] [--quick] [--json FILE] [--markdown FILE]

Times: rounds in turn in one process, the median counts.  Memory: a process for each side, the most it held less what
it held before the model was made.  The first losses of both sides must agree.  Ours twice: as it is, and
with its blocks computed again in backward.  --quick: 4 windows, no torch.compile.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import measure

GOAL, MEMORY_GOAL = 1.5, 0.6


def held(kind: str) -> float:
    """MB held now (VmRSS) or at most since the mark was reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind))) / 1024


def peak(side: str, B: int, T: int) -> None:
    """Print how many MB some steps of one side take."""
    from works import train

    torch = torch_of() if side not in ("ours", "recompute") else None
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    ours = {"ours": 0, "recompute": 8}
    step = train.our_step(B, T, ours[side]) if side in ours else train.torch_step(torch, B, T, side == "compile")
    for _ in range(3):
        step()
    print(held("VmHWM") - before)


def torch_of():
    from works.linear import torch_module

    return torch_module(int(os.environ["OMP_NUM_THREADS"]))


def memory(side: str, B: int, T: int) -> float:
    command = [sys.executable, __file__, "--peak", side, str(B), str(T)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def rows_of(B: int, T: int, threads: int, quick: bool) -> list[dict]:
    import numpy as np
    from works import train

    torch, name = torch_of(), f"training step, world S, {B} x {T} frames"
    ours, peers = train.our_step(B, T), {}
    if torch:
        peers = {"torch": train.torch_step(torch, B, T, False)}
        if not quick:
            peers["compile"] = train.torch_step(torch, B, T, True)
        np.testing.assert_allclose(ours(), peers["torch"](), rtol=1e-3)
    table = measure.Table(threads, {}, 0.0, 3 if quick else 11)
    table.run(measure.Work(name, "ms", 0, ours, peers, goal=GOAL, limit=None))
    again = train.our_step(B, T, recompute=8)
    table.run(measure.Work(f"{name}, blocks recomputed", "ms", 0, again, peers, goal=GOAL, limit=None))
    sides = {side: memory(side, B, T) for side in peers}
    for side, row in zip(("ours", "recompute"), list(table.rows), strict=True):
        mine, least = memory(side, B, T), min(sides.values(), default=None)
        ratio = least / mine if least else None
        row = {**row, "work": f"{row['work']}, peak memory", "unit": "MB", "ours": mine, "peers": sides}
        table.rows.append({**row, "ratio": ratio, "goal": 1 / MEMORY_GOAL})
        measure.print_row(table.rows[-1])
    return table.rows


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="for one thread on a busy machine")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--peak", nargs=3, metavar=("SIDE", "B", "T"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return peak(args.peak[0], int(args.peak[1]), int(args.peak[2]))
    measure.start_clean(None, args.threads)
    measure.clock = time.process_time if args.cpu_time else measure.clock
    from worldmodel import _core

    _core.set_threads(args.threads)
    print(measure.machine(), f"{args.threads} threads")
    rows = rows_of(4 if args.quick else 16, 8, args.threads, args.quick)
    if args.json:
        measure.save(args.json, rows, {})
    if args.markdown:
        Path(args.markdown).write_text(measure.markdown(rows))


if __name__ == "__main__":
    main()
