"""The README's lines of Python, as they stand, in a kernel as a notebook has it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import record
from tests.test_readme import README

(LINES,) = re.findall(r"### From Python.*?```python\n(.*?)```", README, re.S)


@pytest.mark.slow
def test_readmes_lines_run_in_a_notebook(tmp_path: Path) -> None:
    """With a bar, the tables at the start and the end, and no warning or stack."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LINES)])
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    shown = {"stdout": "", "stderr": ""}
    for output in notebook.cells[0].outputs:
        assert output.output_type == "stream", output
        shown[output.name] += output.text
    (run,) = (tmp_path / "outputs" / "runs" / "fast").iterdir()
    assert record(run)["status"] == "finished"
    assert "parameters" in shown["stdout"]
    assert f"{record(run)['test_accuracy']:.2%}".replace("%", " %") in shown["stdout"]
    assert f"run: {run.relative_to(tmp_path)}" in shown["stdout"]
    assert "epoch 1" in shown["stdout"] + shown["stderr"]  # of the bar
    assert "Warning" not in shown["stderr"]
    assert (run / "evaluation").is_dir()
