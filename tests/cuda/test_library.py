"""The real library, as nvcc built it: what it needs, what it says where there is no GPU, and what is in its code."""

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import emulated
import pytest
from worldmodel import _core, machine

LIBRARY = Path(_core.__file__).with_name("libworldmodel_cuda.so")
built = pytest.mark.skipif(not LIBRARY.exists(), reason="no CUDA library was built here: no nvcc, or WM_CUDA=0")
compiler = pytest.mark.skipif(
    not emulated.possible()[0] or not shutil.which("nvcc"), reason="there is no nvcc: nothing to look at"
)


def python(code: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "WORLDMODEL_CUDA_LIBRARY"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_importing_opens_no_cuda():
    done = python("""
import worldmodel, numpy
t = worldmodel.Tensor(numpy.zeros(3))
names = {line.split("/")[-1] for line in open("/proc/self/maps")}
print(any("cuda" in n or "cublas" in n for n in names))""")
    assert done.stdout.strip() == "False", done.stderr


def test_without_a_device_there_is_one_clear_error():
    """On a machine with a GPU the same calls work."""
    done = python("""
import worldmodel as wm, numpy as np
print(wm.devices()["cuda"])
try:
    wm.set_device("cuda")
    print("works", wm.Tensor(np.ones(2, np.float32)).device)
except RuntimeError as e:
    print("refused:", e)
print(wm.Tensor(np.ones(2, np.float32)).device)""")
    assert done.returncode == 0, done.stderr
    said, result, after = done.stdout.strip().splitlines()
    if result.startswith("works"):
        assert result == "works cuda" and after == "cuda"
        return
    assert said.startswith("no: cuda: ") and result.startswith("refused: cuda: ") and after == "cpu"
    assert re.search("no CUDA device|this build has no CUDA library", said)
    assert not LIBRARY.exists() or "cudaError" in said or "none found" in said


@built
@pytest.mark.skipif(not shutil.which("readelf"), reason="there is no readelf")
def test_the_library_needs_the_c_library_only():
    needed = subprocess.run(["readelf", "-d", str(LIBRARY)], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"NEEDED.*\[(.*?)\]", needed)
    assert all(re.match(r"lib(c|m|dl|rt|pthread)\.so|ld-linux", n) for n in names), names


def symbols_of_cublas() -> list[str]:
    found = re.findall(r'dlsym\(l, "(\w+)"\)', (emulated.SOURCES / "cublas.cu").read_text())
    assert len(found) == 4
    return found


def test_cublas_has_what_is_asked_of_it():
    """Where its wheel is installed: every symbol that cublas.cu looks up."""
    if not (wheel := machine.wheel_of_cublas()):
        pytest.skip("the wheel of cuBLAS is not installed: pip install '.[cuda]'")
    assert all(hasattr(ctypes.CDLL(wheel), s) for s in symbols_of_cublas())


@pytest.mark.skipif(not emulated.possible()[0], reason="no emulated CUDA")
def test_the_stand_in_for_cublas_has_the_same_names():
    assert all(hasattr(ctypes.CDLL(str(emulated.cublas())), s) for s in symbols_of_cublas())


@pytest.mark.skipif(not emulated.possible()[0], reason="no emulated CUDA")
def test_the_wheel_of_cublas_is_found(tmp_path):
    """Where pip puts it: no loader looks there."""
    home = tmp_path / "nvidia" / "cu13" / "lib"
    home.mkdir(parents=True)
    shutil.copy(emulated.cublas(), home / "libcublas.so.13")
    code = f"""
import sys, os
sys.path.insert(0, {str(tmp_path)!r})
import worldmodel as wm
wm.set_device("cuda"); wm.set_matmul("cublas")
print(os.environ["WM_CUBLAS"])"""
    environment = {k: v for k, v in os.environ.items() if k != "WM_CUBLAS"}
    environment["WORLDMODEL_CUDA_LIBRARY"] = str(emulated.library())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == str(home / "libcublas.so.13"), done.stderr


@compiler
def test_tensor_cores_wide_loads_and_soon_copies_are_in_the_code():
    text = {f.stem: f.read_text() for f in emulated.ptx(80)}
    for name in ("gemm_mma", "attention_mma", "conv_mma"):
        assert text[name].count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") >= 32, name
        assert "ldmatrix.sync.aligned.m8n8.x4" in text[name] and "cp.async.cg.shared.global" in text[name], name
    assert "ldmatrix.sync.aligned.m8n8.x4.trans" in text["attention_mma"]
    for name in ("pointwise", "norm"):
        assert "ld.global.v4.f32" in text[name] and "st.global.v4.f32" in text[name], name
    everything = "".join(text.values())
    assert ".local" not in everything, "a local array, or a call that needs one"
    assert not re.search(r"\b(atom|red)\.", everything), "an atomic: then sums have no order"


HMMA = 0x23C
"""The low 12 bits of a tensor-core instruction (of 16 bytes) on sm_80 to sm_100: it can be counted as it is."""


def tensor_core_instructions(cubin: bytes) -> dict[str, int]:
    """How many a kernel has, by its mangled name: ELF's sections .text.NAME."""
    (table,), (count, names) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<HH", cubin, 0x3C)
    heads = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + 64 * i) for i in range(count)]
    found = {}
    for name, _, _, _, offset, size, *_ in heads:
        start = heads[names][4] + name
        label = cubin[start : cubin.index(b"\0", start)].decode()
        if label.startswith(".text."):
            words = struct.unpack_from(f"<{size // 8}Q", cubin, offset)[::2]
            found[label.removeprefix(".text.")] = sum(w & 0xFFF == HMMA for w in words)
    return found


@compiler
@pytest.mark.parametrize("name", ["gemm_mma", "attention_mma", "conv_mma"])
def test_tensor_core_kernels_as_machine_code(name, tmp_path):
    """ptxas for sm_90: every mma of the PTX is one instruction of the tensor cores, forward and backward; no
    spills; room for at least two blocks on a multiprocessor."""
    flags = ["-O3", "-std=c++17", "-arch=sm_90", "-cubin", "-Xptxas", "-v", str(emulated.SOURCES / f"{name}.cu")]
    done = subprocess.run(["nvcc", *flags, "-o", str(tmp_path / "o")], capture_output=True, text=True, check=True)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.stderr)]
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr)]
    assert registers and max(registers) * 128 * 2 <= 65536 and not any(spills), done.stderr

    text = next(f for f in emulated.ptx(90) if f.stem == name).read_text()
    entries = {e.split("(")[0].strip(): e.count("mma.sync") for e in text.split(".visible .entry ")[1:]}
    assert tensor_core_instructions((tmp_path / "o").read_bytes()) == entries
    backward = [n for e, n in entries.items() if "backward_kernel" in e]
    assert all(entries.values()) and (name != "attention_mma" or len(backward) == 4)
