"""The benchmark compares like with like, and its report says what the record holds."""

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose
from omegaconf import DictConfig
from torch import nn

from mnv2_lightning.benchmark import benchmark
from mnv2_lightning.benchmarks import reference
from mnv2_lightning.benchmarks.parts import PARTS
from mnv2_lightning.benchmarks.side import run_side
from mnv2_lightning.build import build_network
from mnv2_lightning.cli.conf_files import config_dir
from mnv2_lightning.networks.folding import fold_batch_norms
from mnv2_lightning.reports import benchmark_tables as report
from mnv2_lightning.runs.record import read_dict
from mnv2_lightning.system import hydra_compat
from tests.conftest import Call, Configure


def test_the_tutorials_side_is_of_plain_layers(configure: Configure) -> None:
    """The same network as ours, to the weight, without our way round slow layers."""
    torch.manual_seed(0)
    theirs = reference.tutorial_network()
    torch.manual_seed(0)
    network = build_network(configure("experiment=tutorial"))
    ways_round = "mnv2_lightning.networks.small_maps"
    assert ways_round in {type(m).__module__ for m in network.modules()}
    assert ways_round not in {type(m).__module__ for m in theirs.modules()}
    x = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(theirs.eval()(x), network.eval()(x))


def test_plain_cnn() -> None:
    network = reference.PlainCNN()
    # 5x5x1x24 + 24, 3x3x24x32 + 32, 800x256 + 256, 256x10 + 10
    assert sum(p.numel() for p in network.parameters()) == 624 + 6944 + 205_056 + 2570
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("model", ["mobilenet_v2_small", "tutorial", "mobilenet_v1"])
def test_folding_changes_no_output(model: str, configure: Configure) -> None:
    network = build_network(configure(f"model={model}"))
    for module in network.modules():  # as after training: statistics that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    network.eval()
    folded = fold_batch_norms(copy.deepcopy(network))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(8, 1, 28, 28)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)


def test_a_side_runs_in_a_process_of_its_own() -> None:
    found = run_side("timing.limits", steps=1)
    assert found["sgemm_gflops"] > 0
    with pytest.raises(RuntimeError, match=r"timing\.limits: .*unexpected keyword"):
        run_side("timing.limits", stepps=1)


@pytest.mark.slow
def test_inference_of_a_run(call: Call, run: Path, small_data: Path, tmp_path: Path) -> None:
    """Its network and each exported file, with bytes and accuracy."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    parts = ("parts=[inference]", "smoke=true", f"trained={run}", "hydra.run.dir=b")
    ended = call("benchmark", *parts, f"data.dir={small_data}")
    assert (ended.status, ended.err) == (0, "")
    _, row = read_dict(tmp_path / "b" / "benchmark.json")["parts"]["inference"]
    assert row["model"] == run.name
    assert {"eager", "folded", "onnx float32", "onnx int8"} <= row["sides"].keys()
    for name, file in row["files"].items():
        assert row["sides"][name][0]["images_per_second"] > 0
        assert file["bytes"] > 1_000
        assert "path" not in file
        assert 0 <= file["accuracy"] <= 1
    table = (tmp_path / "b" / "benchmark.md").read_text()
    (line,) = [line for line in table.splitlines() if "| onnx int8 |" in line]
    assert f"{row['files']['onnx int8']['bytes']:,}" in line


def rated(*rates: float) -> list[dict[str, Any]]:
    return [{"images_per_second": rate, "peak_rss_bytes": 1e9} for rate in rates]


def test_report() -> None:
    """Ratios are of pairs, then their median; every part has a table."""
    conf = yaml.safe_load((config_dir() / "benchmark.yaml").read_text())
    assert [*conf["parts"], "time_to_accuracy"] == list(report.TABLES) == list(PARTS)
    assert report.times(rated(30, 60, 40), rated(10, 10, 20)) == "3.00"
    sides = {"tutorial": rated(10, 12, 11), "ours": rated(40, 36, 44)}
    text = report.markdown(
        {
            "hardware": {"cpu": "X", "cores": 2, "threads": 2, "simd": "AVX2"},
            "versions": {"python": "3.11", "torch": "2", "lightning": "2"},
            "git_commit": "abc",
            "pairs": 3,
            "smoke": False,
            "parts": {"same_work": [{"image_size": 28, "batch_size": 8, "sides": sides}]},
        }
    )
    row = (
        "| 28 px, batch 8 | 11.0 (10.0 to 12.0) | 40.0 (36.0 to 44.0) | 4.00 | 1.00 GB | 1.00 GB |"
    )
    assert row in text
    sides["ours"][0]["peak_rss_bytes"] = None  # on Windows
    _, _, (cells,) = report.same_work([{"image_size": 28, "batch_size": 8, "sides": sides}])
    assert cells[-2:] == ["1.00 GB", "-"]


def test_report_of_time_to_accuracy() -> None:
    """Against five epochs of the tutorial: 300,000 images at 10 a second."""
    runs = [
        {"seed": seed, "train_seconds": 29.0 + seed, "test_accuracy": 0.99, "parameters": 1234}
        for seed in range(3)
    ]
    part = {"tutorial": rated(10, 9, 11), "plain CNN, epochs: 1": runs, "experiment=fast": runs}
    _, _, (tutorial, plain, fast) = report.TABLES["time_to_accuracy"](part)
    assert tutorial == ["the tutorial's five epochs at 10.0 images/s", "", "30,000", "", "1", ""]
    assert plain == ["plain CNN, epochs: 1", "99.00 ± 0.00", "30.0 ± 1.0", "3", "1,000", "1,234"]
    assert fast[0] == "experiment=fast"


def test_a_part_that_fails_ends_the_call(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, as Ctrl-C and SIGTERM do: parts run where those are heard. What it had is kept."""
    asked: list[str] = []

    def fail(cfg: DictConfig) -> Iterator[Any]:
        asked.append(threading.current_thread().name)
        yield {"sgemm_gflops": 1.0, "copy_gb_per_second": 2.0, "threads": 1}
        raise RuntimeError("broken")

    monkeypatch.setitem(PARTS, "limits", fail)
    monkeypatch.setitem(PARTS, "loop", fail)
    with hydra_compat.initialize(str(config_dir())):
        cfg = compose("benchmark", [f"data.dir={small_data}", "parts=[limits,loop]"])
    cfg.run_dir = str(tmp_path)
    with pytest.raises(RuntimeError, match="broken"):
        benchmark(cfg)
    assert asked == [threading.main_thread().name]
    assert read_dict(tmp_path / "benchmark.json")["parts"]["limits"]["threads"] == 1


def test_growth_is_drawn() -> None:
    rows = [
        {"width": w, "image_size": s, "batch_size": b, "images_per_second": 1e4 / s, "gflops": s}
        for w in (0.5, 1.0)
        for s in (28, 56)
        for b in (32, 128)
    ]
    figure = report.draw_growth(rows, {"sgemm_gflops": 100})
    assert [len(axes.lines) for axes in figure.axes] == [4, 5]
