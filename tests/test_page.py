"""The report's page and TensorBoard, as a browser gets them."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FULL, Call
from tests.test_sweep_report import sweep

__all__ = ["sweep"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Without a window, a network of its own, or a first-run dialogue.
ALONE = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which .ci/run installs")
def test_the_page_sorts_and_filters(sweep: Path, call: Call, tmp_path: Path) -> None:
    """Clicks and words are given by a script at its end, which writes what is shown then."""
    one = sweep / "lr-0.01_expand_ratio-2_seed-0"
    record = json.loads((one / "result.json").read_text())
    (one / "result.json").write_text(json.dumps(record | {"val_accuracy": 0.09}))
    assert call("report", f"run_dir={sweep}").status == 0
    page = (sweep / "report" / "report.html").read_text()
    script = """<script>
      const board = document.querySelector("section");
      const shown = () => [...board.querySelectorAll("tbody tr:not([hidden])")].map(
        (row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent));
      const seen = {start: shown()};
      board.querySelectorAll("th button")[1].click(); seen.up = shown();
      board.querySelectorAll("th button")[1].click(); seen.down = shown();
      const all = document.querySelectorAll("section:has(table)");
      const runs = all[all.length - 1], heads = [...runs.querySelectorAll("th")];
      const column = heads.findIndex((head) => head.textContent === "val accuracy");
      const values = () => [...runs.querySelectorAll("tbody tr")].map(
        (row) => row.cells[column].textContent);
      heads[column].firstChild.click(); seen.valuesUp = values();
      heads[column].firstChild.click(); seen.valuesDown = values();
      const field = board.querySelector("input");
      field.value = "0.01 4"; field.dispatchEvent(new Event("input")); seen.filtered = shown();
      seen.pictures = [...document.images].every((image) => image.complete && image.naturalWidth);
      document.body.textContent = JSON.stringify(seen);
    </script></body>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", script))
    typed = [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"file://{tmp_path}/page.html",
    ]
    assert CHROMIUM is not None
    ended = subprocess.run(
        [CHROMIUM, *ALONE, *typed], capture_output=True, text=True, check=True, timeout=60
    )
    (text,) = re.findall(r"<body>(.*)</body>", ended.stdout, re.S)
    seen = json.loads(text)
    best = ["0.1", "2", "96.50 % ± 0.71"]
    assert seen["start"][0] == best
    assert [row[1] for row in seen["up"]] == ["2", "2", "4", "4"]
    assert [row[1] for row in seen["down"]] == ["4", "4", "2", "2"]
    assert [row[:2] for row in seen["filtered"]] == [["0.01", "4"]]
    assert seen["pictures"]
    numbers = [
        "9.00 %",
        "50.00 %",
        "91.00 %",
        "92.00 %",
        "93.00 %",
        "94.00 %",
        "96.00 %",
        "97.00 %",
    ]
    assert seen["valuesUp"] == [*numbers, "-"]  # by size; what is not there comes last
    assert seen["valuesDown"] == [*numbers[::-1], "-"]


@pytest.fixture
def tensorboard(tmp_path: Path) -> Iterator[str]:
    """The address of one that shows `outputs/sweeps/s`."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "outputs/sweeps/s"]
    options = ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    assert found
    yield found[0]
    process.kill()
    process.communicate()


def ask(address: str, path: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}data/{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_tensorboard_of_a_sweep(call: Call, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its own HTTP API: runs by their overrides; HPARAMS with what was swept and real results."""
    few = (*FULL, "callbacks.test_images=null", "trainer.max_epochs=2", "sweep=s")
    swept = ("optimizer.lr=0.05,1e18", "model.expand_ratio=2,3")
    assert call("train", "-m", *few, *swept).status == 1
    folder = tmp_path / "outputs" / "sweeps" / "s"
    results = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("*/result.json")}
    address = request.getfixturevalue("tensorboard")
    assert set(ask(address, "runs")) == set(results)

    wanted = [{"hparam": "optimizer.lr"}, {"hparam": "model.expand_ratio"}]
    body = {
        "experimentName": "",
        "allowedStatuses": [f"STATUS_{x}" for x in ("UNKNOWN", "SUCCESS", "RUNNING", "FAILURE")],
        "colParams": wanted,
        "startIndex": 0,
        "sliceSize": 100,
    }
    named = ask(address, "plugin/hparams/experiment", {"experimentName": "", "hparamsLimit": 0})
    first = [info["name"] for info in named["hparamInfos"]][:2]
    assert set(first) == {"optimizer.lr", "model.expand_ratio"}  # of more keys that were typed
    groups = ask(address, "plugin/hparams/session_groups", body)["sessionGroups"]
    assert len(groups) == len(results)
    for group in groups:
        (session,) = group["sessions"]
        result = results[session["name"]]
        for key in first:
            assert group["hparams"][key] == pytest.approx(result["overrides"][key])
        shown = {m["name"]["tag"]: m["value"] for m in group["metricValues"]}
        assert -1 not in shown.values()
        if result["status"] == "diverged":
            assert session["status"] == "STATUS_UNKNOWN"
            assert not {"test/accuracy", "tested/val_accuracy"} & set(shown)
            continue
        assert session["status"] == "STATUS_SUCCESS"
        assert shown["test/accuracy"] == pytest.approx(result["test_accuracy"])
        assert shown["tested/val_accuracy"] == pytest.approx(result["val_accuracy"])
