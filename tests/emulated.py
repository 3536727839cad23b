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

ROOT = Path(__file__).resolve().parent.parent
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


def _texts(source: Path) -> list[str]:
    """A source and the headers of its folder that it includes, and those that they include."""
    text = source.read_text()
    headers = [h for h in SOURCES.glob("*.cuh") if f'"{h.name}"' in text and h != source]
    return [text, *(t for h in headers for t in _texts(h))]


@cache
def library(kind: str = "plain", defines: tuple[str, ...] = ()) -> Path:
    """The emulated library, built if its sources are newer; kind: plain, asan or tsan; defines: planted bugs (only
    the files that speak of them are compiled again)."""
    headers = include()
    folder = ROOT / "build" / "emulated" / "-".join([kind, *defines])
    folder.mkdir(parents=True, exist_ok=True)
    shared = _newest(SOURCES / "*.cuh", ROOT / "csrc/kernels/*.def", ROOT / "csrc/kernels/*.h", EMULATOR / "emulator.h")
    compiler = [*os.environ.get("CXX", "g++").split(), *FLAGS.split(), f"-I{EMULATOR}", "-isystem", str(headers)]
    compiler += [f"-D{d}" for d in defines]
    jobs, objects = [], []
    if defines:
        library(kind)
    for source in [*sorted(SOURCES.glob("*.cu")), EMULATOR / "emulator.cpp"]:
        planted = any(d in text for text in _texts(source) for d in defines)
        out = (folder if planted or not defines else folder.with_name(kind)) / (source.stem + ".o")
        objects.append(out)
        flags = SANITIZERS[kind][source.suffix == ".cpp"].split()
        if not out.exists() or out.stat().st_mtime < max(source.stat().st_mtime, shared):
            jobs.append([*compiler, *flags, "-c", str(source), "-o", str(out)])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for run in pool.map(lambda job: subprocess.run(job, capture_output=True, text=True), jobs):
            if run.returncode:
                raise AssertionError(f"the emulated CUDA library does not compile:\n{run.stderr[:4000]}")
    made = folder / "libemulated.so"
    if jobs or not made.exists():
        link = ["g++", "-shared", *map(str, objects), "-o", str(made), "-ldl", "-Wl,-z,defs"]
        if kind != "plain":
            link = [w for w in link if w != "-Wl,-z,defs"]
            link.insert(1, "-fsanitize=address,undefined" if kind == "asan" else "-fsanitize=thread")
        subprocess.run(link, check=True)
    return made


@cache
def cublas() -> Path:
    """A stand-in for cuBLAS on the emulator: what $WM_CUBLAS may name."""
    source, made = EMULATOR / "cublas.cpp", ROOT / "build" / "emulated" / "libcublas.so"
    if _older(made, source, EMULATOR / "emulator.h"):
        made.parent.mkdir(parents=True, exist_ok=True)
        flags = [*FLAGS.split(), "-O2", "-shared", "-isystem", str(include()), str(source), "-o", str(made)]
        subprocess.run([*os.environ.get("CXX", "g++").split(), *flags], check=True)
    return made


@cache
def emulator() -> ctypes.CDLL:
    """The library that this process uses as its CUDA device, for its own controls: emulator_schedule and others."""
    lib = ctypes.CDLL(os.environ["WORLDMODEL_CUDA_LIBRARY"])
    if is_emulator(lib):
        lib.emulator_launched.restype = lib.emulator_waits.restype = ctypes.c_char_p
        lib.emulator_count.restype = ctypes.c_ulonglong
    return lib


def is_emulator(lib: ctypes.CDLL) -> bool:
    return hasattr(lib, "emulator_schedule")


def schedule(order: int) -> None:
    """0: threads and blocks forward, 1: backward, 2 and more: shuffled.  A real device has its own order."""
    if is_emulator(emulator()):
        emulator().emulator_schedule(order)


def _older(made: Path, *sources: Path) -> bool:
    return not made.exists() or made.stat().st_mtime < max(s.stat().st_mtime for s in sources)


@cache
def ptx(arch: int, defines: tuple[str, ...] = ()) -> list[Path]:
    """What nvcc emits for compute capability arch, a file of PTX for each .cu."""
    folder = ROOT / "build" / "emulated" / "-".join([f"ptx{arch}", *defines])
    folder.mkdir(parents=True, exist_ok=True)
    headers = [*SOURCES.glob("*.cuh"), *(ROOT / "csrc/kernels").glob("*.[dh]*")]
    files = {s: folder / f"{s.stem}.ptx" for s in sorted(SOURCES.glob("*.cu")) if s.stem != "library"}
    options = ["-O3", "-std=c++17", "-ptx", f"-arch=compute_{arch}", *(f"-D{d}" for d in defines)]
    if defines:  # the other files need no copy with the bug
        files = {s: f for s, f in files.items() if any(d in text for text in _texts(s) for d in defines)}
    jobs = [["nvcc", *options, str(s), "-o", str(f)] for s, f in files.items() if _older(f, s, *headers)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda job: subprocess.run(job, check=True, capture_output=True), jobs))
    return list(files.values())


@cache
def interpreter() -> ctypes.CDLL:
    """The interpreter of PTX (tests/cuda/ptx); `interpret` hands it the launches."""
    source, made = ROOT / "tests/cuda/ptx/ptx.cpp", ROOT / "build/emulated/libptx.so"
    made.parent.mkdir(parents=True, exist_ok=True)
    if _older(made, source, *source.parent.glob("*.h")):
        flags = ["-O2", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(made)]
        subprocess.run([*os.environ.get("CXX", "g++").split(), *flags], check=True)
    lib = ctypes.CDLL(str(made))
    for name in ("ptx_error", "ptx_ran", "ptx_kernels"):
        getattr(lib, name).restype = ctypes.c_char_p
    return lib


def interpret(files: list[Path] | None) -> None:
    """From now on launches run the PTX in these files; None: the compiled sources again."""
    lib, device = interpreter(), emulator()
    device.emulator_interpret(None)
    lib.ptx_forget()
    for f in files or []:
        if lib.ptx_load(f.read_bytes()):
            raise AssertionError(f"{f.name}: {lib.ptx_error().decode()}")
    if files:
        lib.ptx_blocks(ctypes.cast(device.emulator_blocks, ctypes.c_void_p))
        device.emulator_interpret(ctypes.cast(lib.ptx_run, ctypes.c_void_p))


@cache
def possible() -> tuple[bool, str]:
    """Can the emulated library be built here?  (False, why not)."""
    if "WORLDMODEL_CUDA_LIBRARY" in os.environ:
        return True, ""
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
        os.environ["WM_CUBLAS"] = str(cublas())
