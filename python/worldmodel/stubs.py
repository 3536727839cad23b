"""Writes ops.pyi from the op specs: `python -m worldmodel.stubs` (tests/core/test_stubs.py says if it is
stale)."""

from __future__ import annotations

from pathlib import Path

from . import _core

HEAD = '''"""Stubs of the ops, written from their specs by `python -m worldmodel.stubs`: do not edit."""

from collections.abc import Sequence
from typing import Literal

from .tensor import Tensor

'''

OUTPUTS = {2: "tuple[Tensor, Tensor]", 3: "tuple[Tensor, Tensor, Tensor]"}


def argument(word: str) -> str:
    """One word of a spec as a Python parameter (the grammar heads csrc/tape/tape.h)."""
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
    elif kind == "f" and has_value and "e9" in value:
        value = f'float("{"-" if value.startswith("-") else ""}inf")'
    return f"{name}: {python}" + (f" = {value}" if has_value else "")


def stub(name: str, spec: str, doc: str) -> str:
    words = [argument(w) for w in spec.split()]
    required = [w for w in words if "=" not in w]
    words = required + [w for w in words if "=" in w] if words[: len(required)] == required else words
    seen_default, parameters = False, []
    for w in words:
        seen_default |= "=" in w
        parameters.append(w + " = ..." if seen_default and "=" not in w and not w.startswith("*") else w)
    quoted = doc.replace("\\", "\\\\").replace('"""', "'''").replace("\n", "\n    ")
    return f'def {name}({", ".join(parameters)}) -> {outputs(doc)}:\n    """{quoted}"""\n'


def outputs(doc: str) -> str:
    """How many tensors an op returns stands in its doc: "Returns two ..." or "Returns three ..."."""
    for count, word in ((2, "Returns two"), (3, "Returns three")):
        if word in doc:
            return OUTPUTS[count]
    return "Tensor"


def text() -> str:
    return HEAD + "\n".join(stub(name, *_core.specs[name][:2]) for name in sorted(_core.specs))


if __name__ == "__main__":
    Path(__file__).with_name("ops.pyi").write_text(text())
