"""Measuring side by side: interleaved rounds, medians, this machine's limits, one table and one JSON file.

A family of works is a file of benchmarks/works/ with `works(threads, quick) -> Iterator[Work]`; ops.py lists
the families.  Ours and its peers run in turn in one process, each round, so that a disturbance hits all of
them; what is printed is the median.  Ratios above 1 mean that ours is faster.
"""

import ctypes
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY",
                 "ONEDNN_MAX_CPU_ISA", "WORLDMODEL_KERNELS")
HELD_TO_AVX2 = {"WORLDMODEL_KERNELS": "avx2", "ATEN_CPU_CAPABILITY": "avx2",
                "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                "OPENBLAS_CORETYPE": "Haswell"}
LANES = {"avx512": (16, "-mavx512f"), "avx2": (8, "-mavx2 -mfma"), "baseline": (4, "")}
clock = time.perf_counter
"""What is counted.  With one thread on a busy machine time.process_time sees through other programs' turns."""


@dataclass
class Work:
    """One row: a piece of work that ours and its peers do.

    amount: operations (unit GFLOP/s), bytes (GB/s), or ignored (us, ms).  limit: "fma", "copy" or None.
    against: the peers that the ratio counts (default all: the best of them).  goal: the ratio wanted; most:
    the value wanted at most (us, ms).  group: the geometric mean of its ratios is a row too.
    """

    name: str
    unit: str
    amount: float
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    goal: float | None = None
    most: float | None = None
    limit: str | None = "fma"
    against: tuple[str, ...] = ()
    group: str = ""
    group_goal: float | None = None
    calls: int = 1
    """Things done by one call of ours and of the peers: what is shown is per thing."""


@dataclass
class Limit:
    """What the machine can do at best, as a burst of it: amount operations or bytes."""

    burst: Callable[[], object]
    amount: float

    def rate(self, bursts: int) -> float:
        """The fastest of so many, in GFLOP/s or GB/s."""
        times = []
        for _ in range(bursts):
            start = clock()
            self.burst()
            times.append(clock() - start)
        return self.amount / min(times) / 1e9


@dataclass
class Table:
    """Rows as they are measured.  The limit takes its turns beside ours and the peers, since a processor's clock is not
    the same from one minute to the next."""

    threads: int
    limits: dict[str, Limit]
    seconds: float
    rounds: int
    rows: list[dict] = field(default_factory=list)

    def run(self, work: Work) -> None:
        """Measure one work and print its row."""
        limit = self.limits.get(work.limit or "") if work.unit in ("GFLOP/s", "GB/s") else None
        turns = {"ours": work.ours, **work.peers} | ({"limit": limit.burst} if limit else {})
        times = interleave(turns, self.seconds, self.rounds, 0.02 if self.threads > 1 else 0.0)
        top = limit.amount / times.pop("limit") / 1e9 if limit else None
        value = {k: shown(work, t) for k, t in times.items()}
        counted = [times[p] for p in work.against or work.peers]
        ratio = min(counted) / times["ours"] if counted else None
        share = value["ours"] / top if top else None
        self.rows.append({"work": work.name, "unit": work.unit, "threads": self.threads,
                          "ours": value.pop("ours"), "peers": value, "limit": top, "share": share,
                          "ratio": ratio, "goal": work.goal,
                          "apart": core_distance(self.threads),
                          "most": work.most, "group": work.group, "group_goal": work.group_goal})
        print_row(self.rows[-1])


def shown(work: Work, seconds: float) -> float:
    if work.unit in ("GFLOP/s", "GB/s"):
        return work.amount / seconds / 1e9
    return seconds / work.calls * {"us": 1e6, "ms": 1e3, "s": 1.0}[work.unit]


def interleave(functions: dict[str, Callable], seconds: float, rounds: int, pause: float) -> dict[str, float]:
    """Median seconds a call of each function.  They take turns; in the pause the threads of the last one,
    which spin for a while, fall asleep."""
    counts = {}
    for name, f in functions.items():
        f()
        start = clock()
        f()
        once = max(clock() - start, 1e-7)
        counts[name] = max(1, int(seconds / once))
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for i in range(rounds):
        for name in names[i % len(names):] + names[: i % len(names)]:
            f, n = functions[name], counts[name]
            time.sleep(pause)
            f()
            start = clock()
            for _ in range(n):
                f()
            times[name].append((clock() - start) / n)
    return {name: statistics.median(t) for name, t in times.items()}


@functools.cache
def limits_library(kernels: str) -> ctypes.CDLL | None:
    """limits.c for the lanes of some kernels; None without a C compiler."""
    compiler = next((c for c in (os.environ.get("CC"), "cc", "gcc", "clang") if c and shutil.which(c)), None)
    if not compiler:
        return None
    lanes, flags = LANES[kernels]
    flags = "" if platform.machine() not in ("x86_64", "AMD64") else flags
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limits.so"
        command = [compiler, "-O3", "-fopenmp", "-fPIC", "-shared", f"-DLANES={lanes}", "-ffp-contract=fast",
                   *flags.split(), str(HERE / "limits.c"), "-o", str(library)]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        c = ctypes.CDLL(str(library))
    c.multiply_adds.restype = ctypes.c_double
    c.multiply_adds.argtypes = [ctypes.c_int, ctypes.c_long]
    c.copy.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return c


def machine_limits(threads: int, kernels: str) -> dict[str, Limit]:
    """Multiply-adds in registers ("fma") and copying 64 MB ("copy"), by limits.c; empty without a C compiler."""
    c = limits_library(kernels)
    if c is None:
        return {}
    to, source = np.ones(1 << 26, np.uint8), np.ones(1 << 26, np.uint8)
    return {
        "fma": Limit(lambda: c.multiply_adds(threads, 100_000), c.multiply_adds(threads, 100_000)),
        "copy": Limit(lambda: c.copy(threads, to.ctypes.data, source.ctypes.data, to.nbytes), 2.0 * to.nbytes),
    }


def core_distance(threads: int) -> float | None:
    """Nanoseconds in which a cache line goes to another core and back; None with one thread.  A virtual machine may be
    moved, while it runs, to cores that share a third cache (about 100) or do not (about 500): two paces of two threads.
    """
    c = limits_library("baseline") if threads > 1 else None
    if c is None:
        return None
    c.exchange(200)
    start = time.perf_counter()
    c.exchange(5000)
    return 1e9 * (time.perf_counter() - start) / 5000


def rates(limits: dict[str, Limit]) -> dict[str, float]:
    """The fastest bursts, to print and to save."""
    return {name: limit.rate(99 if name == "fma" else 15) for name, limit in limits.items()}


def start_clean(isa: str | None, threads: int) -> None:
    """Starts this program again if the environment holds settings that would favour or slow one side."""
    wanted = HELD_TO_AVX2 if isa == "avx2" else {"WORLDMODEL_KERNELS": isa} if isa else {}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    counts["OPENBLAS_THREAD_TIMEOUT"] = "24"      # its threads fall asleep after 2^24 cycles: ours come next
    clean = {k: v for k, v in os.environ.items() if k not in BLAS_SETTINGS} | wanted | counts
    if clean != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], clean)


def verdict(row: dict) -> str:
    """The goal, and whether it is missed."""
    if row.get("most"):
        return f"(at most {row['most']:g}{'' if row['ours'] <= row['most'] else ', MISSED'})"
    if row["goal"] and row["ratio"]:
        return f"(goal {row['goal']:g}{'' if row['ratio'] >= row['goal'] else ', MISSED'})"
    return ""


def apart(row: dict) -> str:
    """How far apart the cores were, to print behind a row."""
    return f"  cores {row['apart']:.0f} ns apart" if row.get("apart") else ""


def print_row(row: dict) -> None:
    share = f"{row['share']:.0%} of limit" if row["share"] else ""
    ratio = f"{row['ratio']:.2f}x" if row["ratio"] else ""
    peers = "  ".join(f"{k} {v:.4g}" for k, v in row["peers"].items())
    print(f"{row['work']:<44} {row['threads']}T {row['ours']:9.4g} {row['unit']:<8} {share:<14} {ratio:>6} "
          f"{verdict(row):<20} {peers}{apart(row)}", flush=True)


def print_groups(rows: list[dict]) -> list[dict]:
    """Geometric means of the ratios of each group, as rows of their own."""
    means = []
    for group, threads in dict.fromkeys((r["group"], r["threads"]) for r in rows if r["group"]):
        members = [r for r in rows if (r["group"], r["threads"]) == (group, threads) and r["ratio"]]
        mean = statistics.geometric_mean(r["ratio"] for r in members)
        means.append({"work": f"{group}, geometric mean", "unit": "x", "threads": threads, "ours": mean,
                      "peers": {}, "limit": None, "share": None, "ratio": mean,
                      "goal": members[0]["group_goal"]})
        print_row(means[-1])
    return means


def machine() -> dict:
    """What the numbers were measured on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform(), "load": os.getloadavg()[0],
            "date": time.strftime("%Y-%m-%d %H:%M")}


def save(path: str, rows: list[dict], limits: dict) -> None:
    content = {"machine": machine(), "command": " ".join(sys.argv), "limits": limits, "rows": rows}
    Path(path).write_text(json.dumps(content, indent=1))


def markdown(rows: list[dict]) -> str:
    """The rows as a table for a README."""
    lines = ["| work | threads | ours | peers | share of limit | ratio | goal |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        peers = ", ".join(f"{k} {v:.3g}" for k, v in r["peers"].items())
        goal = f"at most {r['most']:g} {r['unit']}" if r.get("most") else f">= {r['goal']:g}" if r["goal"] else ""
        share, ratio = (f"{r['share']:.0%}" if r["share"] else ""), (f"{r['ratio']:.2f}" if r["ratio"] else "")
        missed = " (missed)" if "MISSED" in verdict(r) else ""
        ours = "" if r["unit"] == "x" else f"{r['ours']:.3g} {r['unit']}"
        lines.append(f"| {r['work']} | {r['threads']} | {ours} | {peers} | {share} | {ratio}{missed} | {goal} |")
    return "\n".join(lines) + "\n"
