"""Every op against PyTorch (eager, compile) and NumPy's OpenBLAS, on the same numbers, side by side.

    python benchmarks/ops.py [--threads 1 2] [--only REGEX] [--isa avx2] [--quick] [--json FILE] [--markdown FILE]

Peers that are not installed are left out.  --isa avx2 holds both sides to AVX2.  --quick: fewer rounds, fewer
shapes and no torch.compile, under 45 s.  A new family is a file in benchmarks/works/ and a name in FAMILIES.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import measure

FAMILIES = ["linear", "attention", "conv", "norm", "diffuse", "optimise", "overhead"]


def one_count(args: argparse.Namespace, threads: int, families: list[str]) -> None:
    """All works at one number of threads, in this process."""
    from worldmodel import _core

    _core.set_threads(threads)
    limits = measure.machine_limits(threads, _core.kernels())
    best = measure.rates(limits)
    print(f"kernels {_core.kernels()}, {threads} threads, limits: "
          + ", ".join(f"{k} {v:.0f} {'GFLOP/s' if k == 'fma' else 'GB/s'}" for k, v in best.items()))
    table = measure.Table(threads, limits, *((0.01, 5) if args.quick else (0.03, 21)))
    for family in families:
        for work in import_module(f"works.{family}").works(threads, args.quick):
            if re.search(args.only, work.name):
                table.run(work)
    if args.json:
        measure.save(args.json, table.rows, best)


def main(families: list[str] = FAMILIES, about: str | None = __doc__, program: str = __file__) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=plain)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="regular expression on the names of the works")
    isas = ["avx512", "avx2", "baseline"]
    parser.add_argument("--isa", choices=isas, help="hold ours to it (avx2: the peers too)")
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE", help="the table, for a README")
    args = parser.parse_args()
    if len(args.threads) == 1:
        measure.start_clean(args.isa, args.threads[0])
        return one_count(args, args.threads[0], families)
    rows, limits = [], {}
    print(measure.machine())
    for threads in args.threads:
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "rows.json"
            command = [sys.executable, program, "--threads", str(threads), "--only", args.only]
            command += ["--json", str(part)]
            command += (["--quick"] if args.quick else []) + (["--isa", args.isa] if args.isa else [])
            subprocess.run(command, check=True, env=os.environ)
            found = json.loads(part.read_text())
        rows += found["rows"]
        limits[threads] = found["limits"]
    rows += measure.print_groups(rows)
    if args.json:
        measure.save(args.json, rows, limits)
    if args.markdown:
        Path(args.markdown).write_text(measure.markdown(rows))


if __name__ == "__main__":
    main()
