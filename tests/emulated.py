"""emulated: the CUDA library on the processor: csrc/kernels/cuda/*.cu compiled by g++ against tests/cuda/emulator.

It wants g++ and CUDA's headers (of the toolkit whose nvcc is on the PATH, or $CUDA_INCLUDE); where they are missing,
`possible` says so, and the tests that need them are skipped with that reason.
"""

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "csrc" / "kernels" / "cuda"
EMULATOR = ROOT / "tests" / "cuda" / "emulator"
FLAGS = (
    "-x c++ -std=c++17 -fPIC -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unknown-pragmas "
    "-Wno-unused-variable -Wno-enum-compare -DWM_EMULATED"
)
SANITIZERS = {
    "plain": ("-O1", "-O2"),
    "asan": ("-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined",) * 2,
    "tsan": ("-O1 -g1 -fsanitize=thread", "-O2 -g1 -DCUEMU_TSAN=1"),
}
"""Flags of the kernels, and of the emulator, whose fibers the thread sanitizer must not see."""


class Missing(RuntimeError):
    """What the emulated library needs is not on this machine."""


def include() -> Path:
    """The folder of cuda_runtime.h."""
    if os.environ.get("WM_CUDA") == "0":
        raise Missing("WM_CUDA=0")
    if given := os.environ.get("CUDA_INCLUDE"):
        return Path(given)
    if not (nvcc := shutil.which("nvcc")):
        raise Missing("nvcc is not on the PATH, and CUDA_INCLUDE is not set")
    command = [nvcc, "-dryrun", "-x", "cu", "/dev/null", "-c", "-o", "/dev/null"]
    dry = subprocess.run(command, capture_output=True, text=True)
    for line in dry.stderr.splitlines():
        if "$ TOP=" in line:
            folder = Path(line.split("TOP=", 1)[1]) / "include"
            if (folder / "cuda_runtime.h").exists():
                return folder
    raise Missing(f"{nvcc} has no cuda_runtime.h beside it")


def _newest(*patterns: Path) -> float:
    return max(f.stat().st_mtime for p in patterns for f in p.parent.glob(p.name))


@cache
def library(kind: str = "plain", defines: tuple[str, ...] = ()) -> Path:
    """The emulated library, built if its sources are newer; kind: plain, asan or tsan; defines: planted bugs."""
    headers = include()
    folder = ROOT / "build" / "emulated" / "-".join([kind, *defines])
    folder.mkdir(parents=True, exist_ok=True)
    shared = _newest(SOURCES / "*.cuh", ROOT / "csrc/kernels/*.def", ROOT / "csrc/kernels/*.h", EMULATOR / "emulator.h")
    compiler = [*os.environ.get("CXX", "g++").split(), *FLAGS.split(), f"-I{EMULATOR}", "-isystem", str(headers)]
    compiler += [f"-D{d}" for d in defines]
    jobs = []
    for source in [*sorted(SOURCES.glob("*.cu")), EMULATOR / "emulator.cpp"]:
        out = folder / (source.stem + ".o")
        flags = SANITIZERS[kind][source.suffix == ".cpp"].split()
        if not out.exists() or out.stat().st_mtime < max(source.stat().st_mtime, shared):
            jobs.append([*compiler, *flags, "-c", str(source), "-o", str(out)])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for run in pool.map(lambda job: subprocess.run(job, capture_output=True, text=True), jobs):
            if run.returncode:
                raise AssertionError(f"the emulated CUDA library does not compile:\n{run.stderr[:4000]}")
    made = folder / "libemulated.so"
    objects = sorted(folder.glob("*.o"))
    if jobs or not made.exists():
        link = ["g++", "-shared", *map(str, objects), "-o", str(made), "-ldl", "-Wl,-z,defs"]
        if kind != "plain":
            link = [w for w in link if w != "-Wl,-z,defs"]
            link.insert(1, "-fsanitize=address,undefined" if kind == "asan" else "-fsanitize=thread")
        subprocess.run(link, check=True)
    return made


@cache
def emulator() -> ctypes.CDLL:
    """The library that this process uses as its CUDA device, for its own controls: emulator_schedule and others."""
    lib = ctypes.CDLL(os.environ["WORLDMODEL_CUDA_LIBRARY"])
    lib.emulator_launched.restype = ctypes.c_char_p
    lib.emulator_count.restype = ctypes.c_ulonglong
    return lib


@cache
def possible() -> tuple[bool, str]:
    """Can the emulated library be built here?  (False, why not)."""
    try:
        include()
    except Missing as why:
        return False, str(why)
    return (True, "") if shutil.which("g++") else (False, "there is no g++")


@cache
def use() -> None:
    """Makes the emulated library this process's CUDA device, unless the environment names another."""
    if "WORLDMODEL_CUDA_LIBRARY" not in os.environ:
        os.environ["WORLDMODEL_CUDA_LIBRARY"] = str(library(os.environ.get("WORLDMODEL_EMULATED", "plain")))
