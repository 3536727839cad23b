"""Every notebook runs from top to bottom, as it stands, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> str:
    """The code cells one after the other; the last expression of a cell is shown, as a notebook would."""
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    return "\n".join(f"# cell {i}\n{''.join(c['source'])}\n" for i, c in enumerate(cells))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(path, tmp_path):
    code = code_of(path)
    assert "!" not in {line.lstrip()[:1] for line in code.splitlines()}, "shell commands do not run everywhere"
    where = {**os.environ, "MPLBACKEND": "agg"}
    if "PYTHONPATH" in where:
        where["PYTHONPATH"] = os.pathsep.join(os.path.abspath(p) for p in where["PYTHONPATH"].split(os.pathsep))
    done = subprocess.run(
        [sys.executable, "-"], input=code, text=True, capture_output=True, cwd=tmp_path, env=where, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_is_tidy(path):
    """Saved without outputs, begun by a title, each cell short."""
    cells = json.loads(path.read_text())["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")
    assert all(len(c["source"]) <= 40 for c in cells)
