"""Builds worldmodel._core from every C file of csrc/ but the kernels, which csrc/kernels/isa/ compiles once
per instruction set.

WORLDMODEL_CFLAGS adds compiler flags (the sanitizer build uses it); WORLDMODEL_WERROR=1 makes warnings
errors.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from glob import glob

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


class ParallelBuild(build_ext):
    """build_ext that compiles the files side by side; the kernels take most of the time."""

    def build_extensions(self):
        compile_one = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [o for part in pool.map(lambda s: compile_one([s], **options), sources) for o in part]

        self.compiler.compile = compile_all
        super().build_extensions()


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
