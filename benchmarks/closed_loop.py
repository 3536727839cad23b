"""closed_loop: environments stepped one step after the other, as a user would, each step timed.

Ours and its peers take turns of some steps each in one process; shown are the median and the 99th percentile of
ours, the peers' medians, and the ratio to the fastest peer that counts.  A pause before a turn lets the threads
of the last one, which spin for a while, fall asleep; the first step of a turn is not counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import measure
import numpy as np

TURN = 20
"""Steps of ours in a turn."""


@dataclass
class Loop:
    """One row: steps of n environments.

    ours, peers: one step of all n; steps: of ours in all, of each peer a fifth; goal: the ratio wanted; against:
    the peers that the ratio counts, all by default; least: frames/s wanted.
    """

    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)
    n: int = 1
    steps: int = 1000
    goal: float | None = None
    against: tuple[str, ...] = ()
    least: float | None = None
    section: str = "steps"
    facts: dict = field(default_factory=dict)
    """For the plot."""


def run(loop: Loop, threads: int) -> dict:
    """Measure a loop and print its row."""
    times = timed(loop, 0.02 if threads > 1 else 0.0)
    middle = {name: 1e3 * float(np.median(t)) for name, t in times.items()}
    counted = [middle[p] for p in loop.against or loop.peers]
    row = {
        "work": loop.name, "section": loop.section, "unit": "ms", "threads": threads, "n": loop.n,
        "ours": middle["ours"] / loop.n, "p99": 1e3 * float(np.quantile(times["ours"], 0.99)) / loop.n,
        "steps": len(times["ours"]), "fps": 1e3 * loop.n / middle["ours"],
        "peers": {k: v / loop.n for k, v in middle.items() if k != "ours"},
        "ratio": min(counted) / middle["ours"] if counted else None, "goal": loop.goal, "least": loop.least,
        "limit": None, "share": None, "apart": measure.core_distance(threads), "group": "", "group_goal": None,
        **loop.facts,
    }  # fmt: skip
    print_row(row)
    return row


def timed(loop: Loop, pause: float) -> dict[str, np.ndarray]:
    """Seconds of every counted step."""
    functions = {"ours": loop.ours, **loop.peers}
    for step in functions.values():
        step(), step()
    times: dict[str, list[float]] = {name: [] for name in functions}
    turns = max(1, loop.steps // TURN)
    names = list(functions)
    for i in range(turns):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            step = functions[name]
            time.sleep(pause)
            step()
            for _ in range(min(loop.steps, TURN) if name == "ours" else max(1, min(loop.steps, TURN) // 5)):
                began = measure.clock()
                step()
                times[name].append(measure.clock() - began)
    return {name: np.array(t) for name, t in times.items()}


def verdict(row: dict) -> str:
    texts = []
    if row["goal"] and row["ratio"]:
        texts.append(f"goal {row['goal']:g}x" + ("" if row["ratio"] >= row["goal"] else ", MISSED"))
    if row["least"]:
        texts.append(f"at least {row['least']:g}/s" + ("" if row["fps"] >= row["least"] else ", MISSED"))
    return f"({'; '.join(texts)})" if texts else ""


def print_row(row: dict) -> None:
    ratio = f"{row['ratio']:.2f}x" if row["ratio"] else ""
    peers = "  ".join(f"{k} {v:.4g}" for k, v in row["peers"].items())
    print(
        f"{row['work']:<44} {row['threads']}T {row['ours']:9.4g} ms  p99 {row['p99']:8.4g}  "
        f"{row['fps']:8.1f}/s {ratio:>7} {verdict(row)} {peers}{measure.apart(row)}",
        flush=True,
    )


def markdown(rows: list[dict]) -> str:
    """Rows of loops and of measure.Table as one table."""
    lines = ["| work | ours | p99 | a second | peers | ratio | goal |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        peers = ", ".join(f"{k} {v:.3g}" for k, v in r["peers"].items())
        goal, ratio = verdict(r) if "fps" in r else measure.verdict(r), f"{r['ratio']:.2f}" if r["ratio"] else ""
        p99, fps = (f"{r['p99']:.3g}", f"{r['fps']:.1f}") if "fps" in r else ("", "")
        lines.append(
            f"| {r['work']} | {r['ours']:.3g} {r['unit']} | {p99} | {fps} | {peers} | {ratio} | {goal.strip('()')} |"
        )
    return "\n".join(lines) + "\n"
