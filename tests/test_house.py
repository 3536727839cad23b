"""The laws of the house that a machine can check (csrc/README.md)."""

import ast
import re
from pathlib import Path

import pytest
from worldmodel import _core

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
PYTHON = ROOT / "python" / "worldmodel"

C_FLOORS = ["base", "kernels", "tensor", "tape", "ops", "optim", "sample", "binding"]
C_NEIGHBOURS = {("ops", "optim"), ("optim", "ops")}
"""Floors in order; a file includes from its own or a lower one.  Neighbours do not include each other."""


def c_files():
    return sorted(f for e in ("*.c", "*.h", "*.cu", "*.cuh") for f in CSRC.rglob(e))


def floor(path: Path) -> str:
    return path.relative_to(CSRC).parts[0]


@pytest.mark.parametrize("path", c_files(), ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_go_down_only(path):
    for name in re.findall(r'#include "([^"]+)"', path.read_text()):
        if name == "emulator.h":  # in place of CUDA's own header, in the tests (kernels/cuda/device.cuh)
            continue
        target = (path.parent / name).resolve()
        if target.suffix == ".def":  # found beside kernels.h, wherever the including file was included from
            target = CSRC / "kernels" / Path(name).name
        assert target.exists(), f"{path} includes {name}, which is not there"
        a, b = floor(path), floor(target)
        assert C_FLOORS.index(b) <= C_FLOORS.index(a), f"{path} ({a}) includes {name} ({b})"
        assert (a, b) not in C_NEIGHBOURS, f"{path} ({a}) includes {name} ({b})"


def test_python_h_only_in_the_binding():
    for path in c_files():
        if "Python.h" in path.read_text():
            assert floor(path) == "binding", path


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', "", text, flags=re.S)


def test_no_exit_abort_printf_in_csrc():
    for path in c_files():
        found = re.findall(
            r"\b(exit|abort|assert|printf|fprintf|puts|perror)\s*\(", without_comments(path.read_text())
        )
        assert not found, f"{path}: {found}"


def test_kernels_do_not_allocate_or_fail():
    for path in [*(CSRC / "kernels" / "cpu").iterdir(), *(CSRC / "kernels" / "cuda").glob("*.cu")]:
        if path.stem == "library":  # the device itself: it allocates and says what failed
            continue
        found = re.findall(
            r"\b(malloc|calloc|realloc|free|wm_alloc|wm_fail)\s*\(", without_comments(path.read_text())
        )
        assert not found, f"{path}: {found}"


def test_every_kernel_is_in_every_table():
    for table in _core.kernel_tables():
        for name in _core.kernel_list():
            assert _core.kernel_address(table, name), f"{table} has no {name}"


def test_every_op_has_a_test():
    text = "".join(f.read_text() for f in (ROOT / "tests").rglob("*.py"))
    missing = [name for name in _core.ops if not re.search(rf"\b{name}\b", text)]
    assert not missing


def test_every_file_begins_with_what_it_is():
    for path in c_files():
        assert path.read_text().startswith("/*"), path
    for path in PYTHON.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_files_are_short():
    long = {
        str(p.relative_to(ROOT)): n
        for p in [*c_files(), *PYTHON.rglob("*.py")]
        if (n := len(p.read_text().splitlines())) > 600
    }
    assert not long


PYTHON_FLOORS = {
    "cli": 9,
    "demo": 8,
    "play": 7,
    "planning": 6,
    "train": 6,
    "envs": 5,
    "pretrained": 5,
    "world": 4,
    "policy": 4,
    "sampling": 3,
    "models": 3,
    "diffusion": 3,
    "data": 3,
    "nn": 2,
    "optim": 2,
    "metrics": 1,
    "spaces": 1,
    "checkpoint": 1,
    "ops": 1,
    "tensor": 1,
    "machine": 1,
    "version": 0,
}


def test_imports_go_down_only():
    """Imports that run at module level; a name needed only by a type checker or on first use may point up."""
    for path in PYTHON.rglob("*.py"):
        parts = path.relative_to(PYTHON).with_suffix("").parts
        mine = PYTHON_FLOORS.get(parts[0])
        if mine is None:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                up = (
                    parts[: len(parts) - node.level]
                    if path.name != "__init__.py"
                    else parts[: len(parts) - node.level]
                )
                module = [*up, *(node.module or "").split(".")]
                names = [module[0]] if module[0] else [a.name for a in node.names]
                for name in names:
                    other = PYTHON_FLOORS.get(name, 0)
                    assert other <= mine, (
                        f"{path.relative_to(PYTHON)} (floor {mine}) imports {name} (floor {other})"
                    )


def test_the_layout_is_as_promised():
    for name in (
        "csrc",
        "python/worldmodel",
        "benchmarks",
        "notebooks",
        "tests",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        ".clang-format",
        ".gitignore",
        ".ci/run",
    ):
        assert (ROOT / name).exists(), name
