"""The stubs and docstrings come from the op specs."""

import ast
import inspect
from pathlib import Path

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
        assert len(function.__doc__) > 10 and function.__module__ == "worldmodel.ops", name


def test_the_core_stub_names_everything():
    path = Path(worldmodel.__file__).with_name("_core.pyi")
    names = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    names |= {t.id for n in ast.parse(path.read_text()).body if isinstance(n, ast.AnnAssign) for t in [n.target] if isinstance(t, ast.Name)}
    assert {n for n in dir(_core) if not n.startswith("__")} == names
