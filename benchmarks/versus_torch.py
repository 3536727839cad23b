"""Imagined environments as a user steps them, against the same weights in PyTorch, ONNX Runtime and OpenVINO.

    python benchmarks/versus_torch.py [--threads N] [--only SECTION ...] [--quick] [--json FILE] [--markdown FILE]
                                      [--plot FILE] [--readme FILE]

Sections: passes (one cached pass of a DiT), steps (whole env.step, >= 1,000 in a closed loop), batches, unet,
facts (Python's share, fork), endless (100,000 steps).  With --json the rows of other sections that the file
holds already are kept, so a long run may be done in parts; --markdown, --plot and --readme show all of them, the last
between its lines <!-- speed --> and <!-- /speed -->.  --quick: fewer steps and no torch.compile, about a minute.
"""

import argparse
import json
import os
import time
from pathlib import Path

import closed_loop
import measure

SECTIONS = ["passes", "steps", "batches", "unet", "facts", "endless"]


def rows_of(section: str, torch, table: measure.Table, quick: bool) -> list[dict]:
    from works import step, unet, versus

    if section == "passes":
        for work in step.passes(torch, quick, runtimes=True):
            table.run(work)
        plain = [r for r in table.rows if r["work"].endswith("one cached pass")]
        return [{**row, "section": section} for row in [*table.rows, *map(against_all, plain)]]
    if section in ("steps", "batches", "unet"):
        loops = {"steps": versus.steps, "batches": versus.batches, "unet": unet.loops}[section](torch, quick)
        return [closed_loop.run(loop, table.threads) for loop in loops]
    rows = []
    for row in (versus.facts if section == "facts" else versus.endless)(quick):
        rows.append({**row, "threads": table.threads})
        measure.print_row(rows[-1])
    return rows


def against_all(row: dict) -> dict:
    """A pass against the best of its peers."""
    best = max(row["peers"].values(), default=None)
    ratio = row["ours"] / best if best else None
    goal = 1.7 if row["work"].startswith("DiT d384 L8, 64") else None
    return {**row, "work": row["work"] + ", best peer", "ratio": ratio, "goal": goal}


def plot(rows: list[dict], path: str) -> None:
    """Frames/s against denoising steps, milliseconds an environment against N, and against the horizon."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    for kind in ("float32", "bf16", "int8"):
        chosen = sorted((r["K"], r["fps"]) for r in rows if r.get("kind") == kind)
        if chosen:
            axes[0].plot(*zip(*chosen, strict=True), "o-", label=f"ours, {kind}")
    for peer in ("torch", "compile"):
        chosen = sorted((r["K"], 1e3 / r["peers"][peer]) for r in rows if "K" in r and peer in r["peers"])
        if chosen:
            axes[0].plot(*zip(*chosen, strict=True), "s--", label=peer)
    axes[0].set(xlabel="denoising steps", ylabel="frames/s", xscale="log", xticks=[1, 2, 4], xticklabels=[1, 2, 4])
    chosen = sorted((r["N"], r["ours"]) for r in rows if "N" in r)
    if chosen:
        axes[1].plot(*zip(*chosen, strict=True), "o-", label="ours")
        ticks = [n for n, _ in chosen]
        most = 1.2 * max(t for _, t in chosen)
        axes[1].set(xscale="log", xticks=ticks, xticklabels=ticks, ylim=(0, most))
    for peer in ("torch", "compile"):
        chosen = sorted((r["N"], r["peers"][peer]) for r in rows if "N" in r and peer in r["peers"])
        if chosen:
            axes[1].plot(*zip(*chosen, strict=True), "s", label=peer)
            axes[1].set(ylim=(0, max(axes[1].get_ylim()[1], 1.2 * max(t for _, t in chosen))))
    axes[1].set(xlabel="environments a step", ylabel="ms an environment")
    for row in rows:
        if row.get("curve"):
            count = len(row["curve"])
            axes[2].plot([row["steps"] * i / count for i in range(count)], row["curve"])
            axes[2].set(xlabel="steps so far", ylabel="ms a step", ylim=(0, 1.5 * max(row["curve"])))
    for axis in axes[:2]:
        axis.minorticks_off()
        if axis.has_data():
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def written(rows: list[dict], machine: dict, threads: int) -> str:
    """The table, below what it was measured on."""
    command = "python benchmarks/versus_torch.py --threads " + str(threads)
    where = f"{machine['cpu']}, {machine['cores']} cores, {threads} used, {machine['date'][:10]}"
    return f"{where}; `{command}`; times are of one environment.\n\n{closed_loop.markdown(rows)}"


def put_between(path: str, text: str) -> None:
    """Into a file, between its two marks."""
    whole = Path(path).read_text()
    begin, end = "<!-- speed -->\n", "<!-- /speed -->"
    if begin not in whole or end not in whole:
        raise ValueError(f"{path}: no lines {begin.strip()} and {end}")
    before, rest = whole.split(begin, 1)
    Path(path).write_text(before + begin + text + end + rest.split(end, 1)[1])


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="for one thread on a busy machine")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("--readme", metavar="FILE")
    args = parser.parse_args()
    measure.start_clean(None, args.threads)
    measure.clock = time.process_time if args.cpu_time else measure.clock
    from works.linear import torch_module
    from worldmodel import _core

    torch = torch_module(args.threads)
    _core.set_threads(args.threads)
    limits = measure.machine_limits(args.threads, _core.kernels())
    best = measure.rates(limits)
    print(measure.machine(), f"{args.threads} threads, limits {best}")
    rows = []
    if args.json and Path(args.json).exists():
        kept = json.loads(Path(args.json).read_text())["rows"]
        rows = [r for r in kept if r["section"] not in args.only]
    for section in args.only:
        table = measure.Table(args.threads, limits, *((0.01, 5) if args.quick else (0.03, 21)))
        rows += rows_of(section, torch, table, args.quick)
        rows.sort(key=lambda r: SECTIONS.index(r["section"]))
        if args.json:
            measure.save(args.json, rows, best)
    if args.markdown:
        Path(args.markdown).write_text(written(rows, measure.machine(), args.threads))
    if args.readme:
        put_between(args.readme, written(rows, measure.machine(), args.threads))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
