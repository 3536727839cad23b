"""Builds worldmodel._core from every C file of csrc/ but the kernels, which csrc/kernels/isa/ compiles once
per instruction set.

WORLDMODEL_CFLAGS adds compiler flags (the sanitizer build uses it); WORLDMODEL_WERROR=1 makes warnings
errors.

Where nvcc is found, libworldmodel_cuda.so is built beside it from csrc/kernels/cuda: a library of its own, which
nothing needs until a program asks for CUDA.  WM_CUDA=0 leaves it out, WM_CUDA=1 fails without nvcc; by hand,
`setup.py build_ext --inplace` builds it only with WM_CUDA=1.  WM_CUDA_ARCHS: the compute capabilities (the last one
also as PTX, for newer devices).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fopenmp",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-psabi",
    "-g0",  # Python was perhaps built with -g: that doubles the size and the time
]
EXTRA = os.environ.get("WORLDMODEL_CFLAGS", "").split()
if os.environ.get("WORLDMODEL_WERROR"):
    EXTRA.append("-Werror")

sources = [f for f in sorted(glob("csrc/**/*.c", recursive=True)) if "/kernels/cpu/" not in f]


ARCHS = os.environ.get("WM_CUDA_ARCHS", "80 90 100").split()
NVCC_FLAGS = ["-O3", "-std=c++17", "--threads", "1", "--compress-mode=size", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
NVCC_FLAGS += ["-Xptxas", "-warn-spills,-warn-lmem-usage,-Werror"]


def find_nvcc():
    """The compiler: WM_CUDA_HOME, CUDA_HOME, CUDA_PATH, the PATH, the pip wheels (nvidia/cu13), /usr/local/cuda."""
    homes = [os.environ[v] for v in ("WM_CUDA_HOME", "CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    found = [Path(h) / "bin" / "nvcc" for h in homes]
    found += [Path(p) for p in [shutil.which("nvcc")] if p]
    for site in dict.fromkeys([*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
        found.append(Path(site or ".") / "nvidia" / "cu13" / "bin" / "nvcc")
    return next((str(n) for n in [*found, Path("/usr/local/cuda/bin/nvcc")] if n.exists()), None)


def build_cuda(nvcc, objects, library):
    """Compile csrc/kernels/cuda/*.cu into objects, those that are older than their sources, and link the library."""
    gencode = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
    gencode.append(f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}")
    objects.mkdir(parents=True, exist_ok=True)
    shared = [f for e in ("cuda/*.cuh", "*.h", "*.def") for f in glob(f"csrc/kernels/{e}")]
    newest = max(os.path.getmtime(f) for f in [*shared, "setup.py"])
    made, jobs = [], []
    for source in sorted(glob("csrc/kernels/cuda/*.cu")):
        out = objects / (Path(source).stem + "-" + "-".join(ARCHS) + ".o")
        made.append(str(out))
        if not out.exists() or out.stat().st_mtime < max(newest, os.path.getmtime(source)):
            jobs.append([nvcc, *NVCC_FLAGS, *gencode, "-c", source, "-o", str(out)])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: subprocess.run(job, check=True), jobs))
    library.parent.mkdir(parents=True, exist_ok=True)
    toolkit = Path(nvcc).resolve().parent.parent
    link = [nvcc, "-shared", "-cudart", "static", *gencode, *made, "-o", str(library), "-ldl", f"-L{toolkit / 'lib'}"]
    link += ["-Xlinker", "-z,defs,-s", "-Xcompiler", "-static-libstdc++,-static-libgcc"]
    subprocess.run(link, check=True)


class ParallelBuild(build_ext):
    """build_ext that compiles the files side by side (kernels take most of the time), and CUDA's library if it can."""

    def build_extensions(self):
        compile_one = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [o for part in pool.map(lambda s: compile_one([s], **options), sources) for o in part]

        self.compiler.compile = compile_all
        super().build_extensions()

    def run(self):
        super().run()
        wanted, nvcc = os.environ.get("WM_CUDA", ""), find_nvcc()
        if wanted == "1" and not nvcc:
            raise SystemExit("WM_CUDA=1, but no nvcc: set CUDA_HOME, or install cuda-toolkit[nvcc,cccl,cudart]==13.*")
        by_hand = self.inplace and not getattr(self, "editable_mode", False) and wanted != "1"
        if wanted == "0" or by_hand or not nvcc:
            print(f"CUDA: not built ({'no nvcc' if not nvcc else 'by hand' if by_hand else 'WM_CUDA=0'})")
            return
        folder = Path(self.get_ext_fullpath("worldmodel._core")).parent
        build_cuda(nvcc, Path(self.build_temp) / "cuda", folder / "libworldmodel_cuda.so")


setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=[
        Extension(
            "worldmodel._core",
            sources,
            include_dirs=[numpy.get_include()],
            extra_compile_args=FLAGS + EXTRA,
            extra_link_args=["-fopenmp", "-ldl", *EXTRA],
            depends=[f for e in ("h", "def", "c") for f in glob(f"csrc/**/*.{e}", recursive=True)],
        )
    ],
)
