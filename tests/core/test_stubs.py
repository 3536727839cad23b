"""The stubs and docstrings come from the op specs."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import worldmodel
from worldmodel import _core, ops, stubs


def test_the_stubs_are_not_stale():
    path = Path(worldmodel.__file__).with_name("ops.pyi")
    assert path.read_text() == stubs.text(), "run: python -m worldmodel.stubs"


def test_the_stubs_are_python():
    tree = ast.parse(stubs.text())
    assert {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} == set(_core.ops)


def test_every_op_has_a_signature_and_a_docstring():
    for name in ops.__all__:
        function = getattr(ops, name)
        assert inspect.signature(function).parameters, name
        assert function.__doc__.strip() and function.__module__ == "worldmodel.ops", name


def test_the_core_stub_names_everything():
    path = Path(worldmodel.__file__).with_name("_core.pyi")
    names = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    names |= {
        t.id
        for n in ast.parse(path.read_text()).body
        if isinstance(n, ast.AnnAssign)
        for t in [n.target]
        if isinstance(t, ast.Name)
    }
    assert {n for n in dir(_core) if not n.startswith("__")} == names


def test_a_spec_says_how_many_tensors_come_back():
    assert list(stubs.counts("x y:f=1")) == [1]
    assert list(stubs.counts("x -> noisy clean eps?")) == [2, 3]
    assert stubs.outputs("x -> noisy eps?") == "Tensor | tuple[Tensor, Tensor]"
    assert stubs.outputs("x -> a b c") == "tuple[Tensor, Tensor, Tensor]"


def test_signatures_and_docstrings_are_whole():
    for name, (spec, doc, _) in _core.specs.items():
        function = _core.ops[name]
        assert function.__doc__ == doc, f"{name}: its docstring was cut"
        words = [w.split(":")[0].split("@")[0].strip("?.") for w in stubs.parts(spec)[0]]
        assert list(inspect.signature(function).parameters) == words


def test_type_checkers_accept_the_stubs(tmp_path):
    mypy = pytest.importorskip("mypy.api", reason="mypy is not installed")
    package = tmp_path / "worldmodel"  # a copy: beside an installed package lie others, which mypy would judge too
    package.mkdir()
    home = Path(worldmodel.__file__).parent
    for name in ("__init__.py", "tensor.py", "version.py", "py.typed", "ops.pyi", "_core.pyi"):
        (package / name).write_text((home / name).read_text())
    stubs_ = [str(package / "ops.pyi"), str(package / "_core.pyi")]
    out, error, code = mypy.run(["--strict", "--follow-imports=silent", *stubs_])
    assert code == 0, out + error


def test_the_stubs_are_what_runs():
    """mypy's stubtest looks at the module itself; operators are attached in tensor.py, when it is imported."""
    pytest.importorskip("mypy.stubtest", reason="mypy is not installed")
    code = "import worldmodel.tensor; from mypy.stubtest import main; main()"
    command = [sys.executable, "-c", code, "worldmodel.ops", "worldmodel._core", "--concise", "--ignore-disjoint-bases"]
    done = subprocess.run(command, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if "Tensor.__new__" not in line]
    assert not told, "\n".join(told)
