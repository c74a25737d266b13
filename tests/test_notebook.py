"""The README's lines of Python, as they stand, in a kernel as a notebook has it."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image, ImageDraw

from tests.conftest import record
from tests.test_readme import README

TRAIN, PREDICT = re.findall(r"```python\n(.*?)```", README.partition("### From Python")[2], re.S)


@pytest.mark.slow
def test_readmes_lines_run_in_a_notebook(tmp_path: Path) -> None:
    """With a bar, the tables at the start and the end, and no warning or stack."""
    digit = Image.new("L", (60, 80), "white")
    ImageDraw.Draw(digit).line((30, 15, 30, 65), "black", 7)
    digit.save(tmp_path / "digit.png")
    code = TRAIN, PREDICT.replace('"RUN_DIR"', 'result["run_dir"]')
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, code)])
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
    (output,) = notebook.cells[1].outputs
    probabilities = dict(line.split() for line in output.text.splitlines())
    assert list(probabilities) == list("0123456789")
    assert float(probabilities["1"].rstrip("%")) > 50
