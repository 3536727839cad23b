"""gpu_check: on a machine with an NVIDIA GPU: build, prove, look for races, measure, and write one JSON file.

    python benchmarks/gpu_check.py [--out gpu.json] [--quick]

1. builds the CUDA library (nvcc must be there) and says what the device is;
2. runs the op tests, products, worlds and laws of the emulated suite on the device itself;
3. runs compute-sanitizer (memcheck, racecheck, synccheck, initcheck) over one call of every op, if there is one;
4. times plans, each captured as one graph: medians of rounds of many launches between two waits, beside what this
   device can do at best (its memory's copy rate, cuBLAS's product, in the same call) and PyTorch, if it has CUDA.
Without a GPU it ends with CUDA's own reason and status 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "python" / "worldmodel" / "libworldmodel_cuda.so"
SUITE = ["tests/ops", "tests/core/test_every_op.py", "tests/cuda/test_products.py", "tests/cuda/test_world.py"]
SUITE += ["tests/cuda/test_dlpack.py", "tests/cuda/test_samplers.py", "tests/cuda/test_threads.py"]
CHECKS = ("memcheck", "racecheck", "synccheck", "initcheck")


def shell(command: list[str], **environment: str) -> dict[str, Any]:
    began = time.time()
    path = os.pathsep.join([str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
    )
    tail = (done.stdout + done.stderr).strip().splitlines()[-12:]
    return {"command": command, "status": done.returncode, "seconds": round(time.time() - began, 1), "tail": tail}


def median_us(work: Callable[[], Any], wait: Callable[[], Any], rounds: int, launches: int) -> float:
    """Microseconds of one call: the median over rounds of `launches` calls between two waits."""
    for _ in range(min(3, launches)):
        work()
    wait()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(launches):
            work()
        wait()
        times.append((time.perf_counter() - began) / launches)
    return 1e6 * statistics.median(times)


def plan_of(make: Callable[[], Any]) -> Callable[[], Any]:
    from worldmodel import Tape

    with Tape(grad=False) as tape:
        out = make()
    return tape.plan(out).run


def torch_here() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


class Table:
    """Rows of what was measured; PyTorch's time beside ours where a peer is given."""

    def __init__(self, quick: bool, shrink: int = 1):
        self.torch, self.rows, self.shrink = torch_here(), [], shrink
        self.rounds, self.launches = (1, 1) if shrink > 1 else (5, 20) if quick else (21, 100)

    def sized(self, *sizes: int) -> tuple[int, ...]:
        """What is measured, or less of it in a rehearsal."""
        return tuple(max(n // self.shrink, 4) for n in sizes)

    def peer(self, function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> float:
        tensors = [self.torch.tensor(a, device="cuda") for a in arrays]
        return median_us(lambda: function(*tensors), self.torch.cuda.synchronize, self.rounds, self.launches)

    def row(self, name: str, ours: Callable[[], Any], peer: Any, *arrays: np.ndarray, **amount: float) -> None:
        """peer: what PyTorch does with the arrays.  amount: bytes or flops of one call."""
        from worldmodel import _core

        entry: dict[str, Any] = {"name": name, "us": median_us(ours, _core.synchronize, self.rounds, self.launches)}
        if self.torch:
            entry["torch_us"] = self.peer(peer, arrays)
        if "bytes" in amount:
            entry["gb_s"] = amount["bytes"] / entry["us"] * 1e-3
        if "flops" in amount:
            entry["tflop_s"] = amount["flops"] / entry["us"] * 1e-6
        self.rows.append(entry)
        print(f"{name:44s}", {k: round(v, 1) for k, v in entry.items() if k != "name"})


def products(table: Table, numbers: Callable[..., np.ndarray]) -> None:
    from worldmodel import Tensor, _core, machine, ops

    for R, N, K in (table.sized(4096, 1536, 384), table.sized(8192, 2048, 512)):
        a, w = numbers(R, K), numbers(N, K)
        for way in ("exact", "split", "bf16", "cublas", "cublas_bf16"):
            try:
                machine.set_matmul(way)
            except RuntimeError as why:
                print(f"{way}: {why}")
                continue
            run = plan_of(lambda a=a, w=w: ops.linear(Tensor(a), Tensor(w)))
            name = f"linear {R} x {K} by {N}, {way}"
            table.row(name, run, lambda u, v: u @ v.T, a, w, flops=2.0 * R * N * K)
    _core.set_matmul("exact")


def attention(table: Table, numbers: Callable[..., np.ndarray]) -> None:
    """Of 8 heads of 64 columns, the loss's gradients too: recorded once, then run again and walked back."""
    from worldmodel import Tape, Tensor, _core, ops

    (B,), N = table.sized(16), max(512 // table.shrink, 32)
    q = numbers(B, N, 8 * 64)
    heads = np.ascontiguousarray(q.reshape(B, N, 8, 64).transpose(0, 2, 1, 3))

    def peer(v: Any) -> Any:
        return table.torch.nn.functional.scaled_dot_product_attention(v, v, v)

    def peer_back(v: Any) -> None:
        leaves = [v.clone().requires_grad_() for _ in range(3)]
        table.torch.nn.functional.scaled_dot_product_attention(*leaves).backward(v)

    for way in ("exact", "bf16"):
        _core.set_matmul(way)
        t, name, flops = Tensor(q), f"attention {B} x {N}, 8 heads of 64", 4.0 * B * 8 * N * N * 64
        table.row(f"{name}, {way}", plan_of(lambda t=t: ops.attention(t, t, t, heads=8)), peer, heads, flops=flops)
        leaves = [Tensor(q, needs_grad=True) for _ in range(3)]
        with Tape() as tape:
            out = ops.attention(*leaves, heads=8)

        def back(tape: Any = tape, out: Any = out, seed: Any = t) -> None:
            tape.replay()
            tape.backward(out, seed)

        table.row(f"{name}, and gradients, {way}", back, peer_back, heads, flops=3.5 * flops)
    _core.set_matmul("exact")


def measure(quick: bool, shrink: int = 1) -> list[dict[str, Any]]:
    """shrink: a rehearsal with sizes that many times smaller (tests/cuda/test_gpu_check.py)."""
    from worldmodel import Tensor, machine, ops

    machine.set_device("cuda")
    rng, table = np.random.default_rng(0), Table(quick, shrink)

    def numbers(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    n, R, C, G = table.sized(1 << (22 if quick else 26), 8192, 512, 64)
    big, x, scale, shift = numbers(n), numbers(R, C), numbers(G, C), numbers(G, C)
    run = plan_of(lambda: ops.neg(Tensor(big)))
    table.row("copy (the memory's ceiling)", run, lambda v: -v, big, bytes=8 * big.size)
    run = plan_of(lambda: ops.softmax(Tensor(x)))
    table.row(f"softmax {R} x {C}", run, lambda v: v.softmax(-1), x, bytes=8 * x.size)
    run = plan_of(lambda: ops.adaln(Tensor(x), Tensor(scale), Tensor(shift)))

    def adaln(v: Any, a: Any, b: Any) -> Any:
        normed = table.torch.nn.functional.layer_norm(v, (C,)).reshape(G, R // G, C)
        return normed * (1 + a[:, None]) + b[:, None]

    table.row(f"adaln {R} x {C}, {G} conditions", run, adaln, x, scale, shift, bytes=8 * x.size)
    products(table, numbers)
    attention(table, numbers)
    return table.rows + measure_world(table)


def measure_world(table: Table) -> list[dict[str, Any]]:
    """Steps of environments in a DiT of size T: the whole closed loop, frames in main memory."""
    from worldmodel.models.dit import DiT

    rows = []
    side, counts = (64, (1, 16, 64)) if table.shrink == 1 else (16, (1,))
    for n in counts:
        model = DiT((side, side, 3), 4, size="T")
        sampler = model.sampler(n)
        rng = np.random.default_rng(0)
        sampler.reset(rng.integers(0, 256, (n, model.context, side, side, 3)).astype(np.uint8), None, list(range(n)))
        actions = np.zeros((n, 4), np.float32)
        us = median_us(lambda s=sampler, a=actions: s.step(a), lambda: None, table.rounds, min(5, table.launches))
        rows.append({"name": f"env.step, DiT T {side} x {side}, {n} environments", "us": us, "frames_s": n / us * 1e6})
        print(f"{rows[-1]['name']:44s} {us:10.1f} us   {rows[-1]['frames_s']:.0f} frames/s")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller arrays")
    parser.add_argument("--skip-build", action="store_true")
    options = parser.parse_args()
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": platform.platform()}
    if not options.skip_build:
        report["build"] = shell([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], WM_CUDA="1")
        if report["build"]["status"]:
            print("\n".join(report["build"]["tail"]))
            return 1
    sys.path.insert(0, str(ROOT / "python"))
    os.environ["WORLDMODEL_CUDA_LIBRARY"] = str(LIBRARY)
    from worldmodel import _core

    works, words = _core.describe_device("cuda")
    report["device"] = words
    print(words)
    if not works:
        return 2
    suite = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", *SUITE]
    report["suite"] = shell(suite, WORLDMODEL_CUDA_LIBRARY=str(LIBRARY))
    print("\n".join(report["suite"]["tail"]))
    if sanitizer := shutil.which("compute-sanitizer"):
        for check in CHECKS:
            command = [sanitizer, "--tool", check, "--error-exitcode", "9", sys.executable, "tests/cuda/every_op.py"]
            report[check] = shell(command, WORLDMODEL_CUDA_LIBRARY=str(LIBRARY))
            print(check, report[check]["status"], report[check]["tail"][-1:])
    else:
        report["memcheck"] = "compute-sanitizer is not installed"
    report["timings"] = measure(options.quick)
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")
    return 1 if report["suite"]["status"] else 0


if __name__ == "__main__":
    sys.exit(main())
