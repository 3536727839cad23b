"""Writes ops.pyi from the op specs: `python -m worldmodel.stubs` (tests/core/test_stubs.py says if it is
stale).

The grammar of a spec heads csrc/tape/tape.h; what stands behind "->" names the results of an op that makes
several.
"""

from __future__ import annotations

import keyword
from pathlib import Path

from . import _core

HEAD = '''"""Stubs of the ops, written from their specs by `python -m worldmodel.stubs`: do not edit."""

from collections.abc import Sequence
from typing import Literal

from .tensor import Tensor

__all__ = [NAMES]


'''


def parts(spec: str) -> tuple[list[str], list[str]]:
    """The words of the arguments and of the results; an op whose spec names no results makes one."""
    arguments, _, results = spec.partition("->")
    return arguments.split(), results.split() or ["out"]


def counts(spec: str) -> range:
    """How many tensors the op may return: an optional result is there if an attribute asks for it."""
    results = parts(spec)[1]
    return range(sum(not r.endswith("?") for r in results), len(results) + 1)


def argument(word: str) -> str:
    """One word of a spec as a Python parameter."""
    if ":" not in word:
        name = word.split("@")[0].rstrip("?.")
        if word.endswith("..."):
            return f"*{name}: Tensor"
        return f"{name}: Tensor | None = None" if word.endswith("?") else f"{name}: Tensor"
    name, rest = word.split(":", 1)
    kind, _, value = rest.partition("=")
    has_value = "=" in rest
    if kind == "e":
        words = value.split("|")
        return f"{name}: Literal[{', '.join(repr(w) for w in words)}] = {words[0]!r}"
    if kind == "t":
        return f"{name}: Sequence[int] | int" + (" = ()" if has_value else "")
    python = {"f": "float", "i": "int", "b": "bool"}[kind]
    if kind == "b":
        value = str(value not in ("", "0"))
    return f"{name}: {python}" + (f" = {value}" if has_value else "")


def stub(name: str, spec: str, doc: str) -> str:
    """One function; behind an optional argument a required one becomes `= ...`, as calls by name allow."""
    seen_default, parameters = False, []
    for w in map(argument, parts(spec)[0]):
        if w.startswith("*"):
            seen_default = False
        elif "=" not in w and seen_default:
            w += " = ..."
        seen_default |= "=" in w
        parameters.append(w)
    quoted = doc.replace("\\", "\\\\").replace('"""', "'''").replace("\n", "\n    ")
    quoted += " " if quoted.endswith('"') else ""
    return f'def {name}({", ".join(parameters)}) -> {outputs(spec)}:\n    """{quoted}"""\n    ...\n'


def outputs(spec: str) -> str:
    """The type of what an op returns."""
    return " | ".join("Tensor" if n == 1 else f"tuple[{', '.join(['Tensor'] * n)}]" for n in counts(spec))


def text() -> str:
    """The whole file.  Raises ValueError for an op that no Python name can hold."""
    bad = [name for name in _core.specs if keyword.iskeyword(name) or not name.isidentifier()]
    if bad:
        raise ValueError(f"stubs: no names for Python: {bad}")
    names = "\n    " + ",\n    ".join(f'"{name}"' for name in sorted(_core.specs)) + ",\n"
    return HEAD.replace("NAMES", names) + "\n\n".join(
        stub(name, *_core.specs[name][:2]) for name in sorted(_core.specs)
    )


if __name__ == "__main__":
    Path(__file__).with_name("ops.pyi").write_text(text())
