"""Exported files compute what the network does, and files that do not are refused."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnv2_lightning import compose, trained
from mnv2_lightning.data.input_transform import InputTransform
from mnv2_lightning.export import export
from mnv2_lightning.formats import onnx_file, page, verification
from mnv2_lightning.formats.verification import Comparison, Reference
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.system import durable_files
from mnv2_lightning.train import train
from tests.conftest import SMALL, Call, Configure

pytest.importorskip("onnxscript", reason="needs the extra onnx")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture
def exported(keep: dict[str, Path], copied: Path, call: Call) -> Path:
    """A copy of the run whose network was exported to ONNX in float32, and nobody changes."""
    if "exported" not in keep:
        ended = call("export", f"run_dir={copied}")
        assert (ended.status, ended.err) == (0, "")
        keep["exported"] = copied
    return keep["exported"]


def model_of(run: Path) -> Any:
    (path,) = (run / "export").glob("*.onnx")
    return onnx.load(path)


def answers_agree(run: Path, path: Path, pictures: np.ndarray) -> None:
    classifier = trained.load(run).picture_classifier()
    with torch.no_grad():
        logits, seen = (tensor.numpy() for tensor in classifier(torch.tensor(pictures)))
    for optimize in (True, False):
        found, found_seen = onnx_file.load(path, optimize=optimize)(pictures)
        np.testing.assert_allclose(found, logits, atol=1e-4)
        np.testing.assert_allclose(found_seen, seen, atol=1e-2)


def drawn(height: int, width: int) -> np.ndarray:
    """(2, height, width): a thick grey stroke on black, and its negative."""
    picture = np.zeros((height, width), np.uint8)
    picture[height // 4 : height // 2, width // 3 : width // 2] = 200
    picture[height // 2 : 3 * height // 4, width // 2 : 2 * width // 3] = 120
    return np.stack([picture, 255 - picture])


@pytest.mark.parametrize("size", [(28, 28), (90, 61), (300, 400)])
def test_pictures_of_any_size_and_polarity(size: tuple[int, int], exported: Path) -> None:
    answers_agree(exported, exported / "export" / "best.onnx", drawn(*size))


def test_inputs_and_outputs(exported: Path) -> None:
    graph = model_of(exported).graph

    def shape(value: Any) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert [(v.name, shape(v)) for v in graph.input] == [("pictures", ["batch", "height", "width"])]
    outputs = {value.name: shape(value) for value in graph.output}
    assert outputs == {"logits": ["batch", 10], "seen": ["batch", 28, 28]}


def test_metadata(exported: Path) -> None:
    found = {entry.key: entry.value for entry in model_of(exported).metadata_props}
    report = json.loads((exported / "export" / "best.onnx.json").read_text())
    assert json.loads(found["classes"]) == list("0123456789") == report["classes"]
    assert float(found["torch_accuracy"]) == report["torch_accuracy"]
    assert (found["run"], found["checkpoint"], found["prepare"]) == ("a", "best", "mnist")
    assert (found["quantize"], found["torch"]) == ("none", torch.__version__.split("+")[0])
    assert found["mnv2_lightning"]


def test_report(exported: Path) -> None:
    report = json.loads((exported / "export" / "best.onnx.json").read_text())
    assert report["images"] == 100
    assert report["agreement"] == 1
    assert report["accuracy"] == report["torch_accuracy"]
    assert report["largest_difference"] <= verification.TOLERANCE
    assert report["bytes"] == (exported / "export" / "best.onnx").stat().st_size
    assert report["latency_ms"] > 0
    assert report["runtime"].startswith("onnxruntime 1.")


def test_no_path_and_no_source_in_the_bytes(exported: Path) -> None:
    content = (exported / "export" / "best.onnx").read_bytes()
    package = Path(trained.__file__).parent
    for text in (str(exported.parent), str(package), str(Path.home()), "preparation.py", "forward"):
        assert text.encode() not in content, text


def test_same_bytes_in_another_process_and_folder(exported: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(exported, tmp_path / "elsewhere" / "a"))
    shutil.rmtree(other / "export")
    code = """
import sys
import numpy as np
from pathlib import Path
from mnv2_lightning import trained
from mnv2_lightning.formats import onnx_file
import onnx
net = trained.load(sys.argv[1])
metadata = {e.key: e.value for e in onnx.load(sys.argv[2]).metadata_props}
images = np.zeros((2, 28, 28), np.uint8)
onnx_file.write(net.picture_classifier(), Path(sys.argv[1], "x.onnx"), metadata, "none", images)
assert "lightning" not in sys.modules
"""
    first = exported / "export" / "best.onnx"
    subprocess.run([sys.executable, "-c", code, other, first], check=True, cwd=tmp_path)
    assert (other / "x.onnx").read_bytes() == first.read_bytes()


def test_int8_is_small_and_agrees(exported: Path, small_data: Path, tmp_path: Path) -> None:
    """On pictures of the made data; the command compares accuracies on the real one."""
    net = trained.load(exported)
    images = np.fromfile(small_data / "mnist" / "train-images-idx3-ubyte", np.uint8, offset=16)
    images = images.reshape(-1, 28, 28)[:200]
    path = tmp_path / "int8.onnx"
    onnx_file.write(net.picture_classifier(), path, {"classes": net.classes}, "int8", images)
    with torch.no_grad():
        expected = net.picture_classifier()(torch.tensor(images))[0].numpy()
    optimized, plain = (onnx_file.load(path, optimize=o)(images)[0] for o in (True, False))
    for logits in (optimized, plain):
        assert np.mean(logits.argmax(1) == expected.argmax(1)) > 0.95
    np.testing.assert_allclose(optimized, plain, atol=1e-2 * np.abs(expected).max())
    model = onnx.load(path)
    constants = {i.name: i for i in model.graph.initializer}
    arrays = [onnx.numpy_helper.to_array(i) for i in constants.values()]
    contents = [(a.dtype, a.shape, a.tobytes()) for a in arrays]
    assert len(set(contents)) == len(contents)
    weights = [i for i in constants.values() if i.data_type == onnx.TensorProto.INT8]
    count = sum(p.numel() for p in net.network.parameters() if p.ndim > 1)
    assert sum(np.prod(w.dims) for w in weights) == count  # and no zero points
    assert max(len(name) for name in constants) < 5
    assert path.stat().st_size < (exported / "export" / "best.onnx").stat().st_size / 2


@pytest.fixture
def damaged(exported: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """What is added to the first logit by the file that `export` writes."""
    added = 100.0

    def write(model: Any, path: Path, *args: Any) -> None:
        graph = onnx.load(exported / "export" / "best.onnx")
        (bias,) = (i for i in graph.graph.initializer if i.name.endswith("classifier.1.bias"))
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += added
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        path.write_bytes(graph.SerializeToString())

    monkeypatch.setattr(onnx_file, "write", write)
    return added


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), r"logits differ from PyTorch.s by up to 1\.0e\+02; at most 1e-04"),
        (("quantize=int8", "max_loss=100"), r"gives PyTorch.s class on .* %"),
    ],
)
@pytest.mark.usefixtures("damaged")
def test_another_network_is_rejected(
    typed: tuple[str, ...], message: str, copied: Path, call: Call
) -> None:
    before = (
        copied / "export" / "best-int8.onnx"
        if "quantize=int8" in typed
        else copied / "export" / "best.onnx"
    )
    before.parent.mkdir()
    before.write_bytes(b"of an earlier export")
    ended = call("export", f"run_dir={copied}", *typed)
    assert ended.status == 1
    line = rf"error: .*\.onnx\.rejected: not usable: {message}.*\n"
    assert re.fullmatch(line, ended.err), ended.err
    assert before.read_bytes() == b"of an earlier export"
    assert {p.name for p in before.parent.iterdir()} == {before.name, f"{before.name}.rejected"}


def test_what_is_rejected() -> None:
    """By 1e-4 in a logit; for int8 by max_loss points and by 99.8 % of agreement."""
    reference = Reference(np.zeros((1000, 10)), accuracy=0.99, plain_accuracy=0.99)

    def problem(quantize: str, *found: float, max_loss: float = 0.1) -> str | None:
        return verification.find_problem(reference, Comparison(*found), quantize, max_loss)

    assert problem("none", 0.99, 1.0, 0.9e-4) is None
    assert problem("none", 0.99, 1.0, 1.1e-4) is not None
    assert problem("none", 0.99, 1.0, float("nan")) is not None
    assert problem("int8", 0.989, 0.998, 0.5) is None
    assert problem("int8", 0.9864, 0.999, 0.5) == (
        "accuracy falls from 99.00 % to 98.64 %, by 0.36 points; max_loss=0.1 allows less"
    )
    assert problem("int8", 0.9889, 0.999, 0.5, max_loss=0.2) is None
    assert problem("int8", 0.99, 0.9979, 0.5) is not None
    assert problem("int8", float("nan"), 1.0, float("nan")) is not None


def test_the_worst_run_counts() -> None:
    """A runtime may compute another result with its optimizer than without it."""
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.int64)
    right, wrong = np.eye(10)[:1].repeat(4, 0), np.eye(10)[1:2].repeat(4, 0)
    reference = Reference(right, 1.0, 1.0)
    runs = {"a": lambda batch: (right, batch), "b": lambda batch: (wrong, batch)}
    found = verification.compare(reference, runs, images, labels)
    assert found == Comparison(accuracy=0.0, agreement=0.0, largest_difference=1.0)


@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_missing_extra(
    format: str, run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2_lightning.export.find_spec", lambda name: None)
    ended = call("export", f"run_dir={run}", f"format={format}")
    assert ended.status == 2
    package = f'there is no package {format}; pip install -e ".[{format}]"'
    assert ended.err == f"error: format={format}: {package}\n"
    assert not (run / "export").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("format=onx", "format=onx: must be 'onnx', 'executorch' or 'page'"),
        ("format=page quantize=int8", "quantize=int8: a page has float32 weights only"),
        ("out=", "out is empty; give it a value"),
        ("max_loss=-1", "max_loss=-1: must be greater than or equal to 0"),
        ("checkpoint=first", "checkpoint=first: must be 'best', 'last' or 'previous'"),
        ("data.dir=none", "data.dir=none: there is no such folder"),
    ],
)
def test_bad_export(typed: str, message: str, run: Path, call: Call, tmp_path: Path) -> None:
    ended = call("export", f"run_dir={run}", *typed.split())
    assert ended.status == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert not (run / "export").exists()
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    """A network with a branch that depends on the values of the pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def classifier_of(network: nn.Module, prepare: str = "plain") -> trained.PictureClassifier:
    transform = InputTransform(crop=28, image_size=28, mean=0.1307, std=0.3081)
    return trained.PictureClassifier(network, transform, prepare).eval()


def test_a_network_that_cannot_be_exported(tmp_path: Path, capfd: Any) -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    with pytest.raises(ConfigError, match=r"^format=onnx: the network cannot be exported \(Could"):
        onnx_file.write(classifier_of(Branching()), tmp_path / "a", {}, "none", images)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def trained_with(configure: Configure, *overrides: str) -> Path:
    return Path(train(configure(*SMALL, "trainer.max_epochs=1", *overrides))["run_dir"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("model=mobilenet_v1", "model.width_mult=0.25", "data.crop=24"),
        ("data.image_size=32",),
        ("data.image_size=14",),
        ("data=fashion_mnist", "data.val_size=100"),
    ],
)
def test_other_networks_and_sizes(
    overrides: tuple[str, ...], configure: Configure, call: Call, tmp_path: Path
) -> None:
    run = trained_with(configure, *overrides)
    ended = call("export", f"run_dir={run}", "out=here")
    assert (ended.status, ended.err) == (0, "")
    (out,) = (tmp_path / "here").glob("*.onnx")
    prepare = json.loads(out.with_name(f"{out.name}.json").read_text())["prepare"]
    assert prepare == ("plain" if "data=fashion_mnist" in overrides else "mnist")
    answers_agree(run, out, drawn(28, 28))


def test_from_python(
    copied: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, small_data: Path
) -> None:
    """The file goes into `out`, and `export` returns what it measured."""
    monkeypatch.chdir(copied.parent)
    monkeypatch.setenv("MNV2_DATA_DIR", str(small_data))
    same = (exported / "export" / "best.onnx").read_bytes()
    write = durable_files.write_bytes
    monkeypatch.setattr(onnx_file, "write", lambda model, path, *args: write(path, same))
    result = export(compose("export", [f"run_dir={copied}", "out=mine"]))
    assert result["agreement"] == 1
    assert sorted(p.name for p in Path("mine").iterdir()) == ["best.onnx", "best.onnx.json"]
    assert not (copied / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_executorch(quantize: str, exported: Path, small_data: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("executorch.runtime", reason="needs the extra executorch")
    from mnv2_lightning.formats import executorch_file

    net = trained.load(exported)
    images = np.fromfile(small_data / "mnist" / "train-images-idx3-ubyte", np.uint8, offset=16)
    images = images.reshape(-1, 28, 28)[:100]
    path = tmp_path / "a.pte"
    metadata = {"run": "a", "accuracy": 0.5, "classes": ["0", "1"]}
    executorch_file.write(net.picture_classifier(), path, metadata, quantize, images)
    program = runtime.Runtime.get().load_program(path)
    found = {key: program.load_method(key).execute([])[0] for key in metadata}
    assert found == {"run": "a", "accuracy": 0.5, "classes": '["0", "1"]'}
    for pictures in (images, drawn(300, 400), drawn(1024, 33)):
        with torch.no_grad():
            expected, expected_seen = net.picture_classifier()(torch.tensor(pictures))
        logits, seen = executorch_file.load(path)(pictures)
        np.testing.assert_allclose(seen, expected_seen, atol=1e-2)
        if quantize == "none":
            np.testing.assert_allclose(logits, expected, atol=1e-4)
        assert np.mean(logits.argmax(1) == expected.numpy().argmax(1)) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("has_node", [True, False])
def test_page(has_node: bool, copied: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_node and not page.is_available():
        pytest.skip("needs node")
    monkeypatch.setattr(page, "is_available", lambda: has_node)
    ended = call("export", f"run_dir={copied}", "format=page")
    assert (ended.status, ended.err) == (0, "")
    assert ("there is no node" in ended.out) == (not has_node)
    report = json.loads((copied / "export" / "best.html.json").read_text())
    assert report["agreement"] == (1 if has_node else None)
    assert (report["latency_ms"] is not None) == has_node


@pytest.mark.slow
def test_real_mnist(mnist_run: Path, tmp_path: Path) -> None:
    """At most 0.1 points are lost in int8, in less than a third of the bytes."""

    def command(name: str, *args: str) -> str:
        code = (
            "import sys; from importlib import import_module\n"
            f"status = import_module('mnv2_lightning.{name}').COMMAND.run()\n"
            f"sys.exit(status or ('{name}' == 'export' and 'lightning' in sys.modules))"
        )
        call = [sys.executable, "-c", code, *args]
        ended = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
        return ended.stdout

    shutil.copytree(mnist_run, tmp_path / "a")
    found = {}
    for kind, file in (("onnx", "last.onnx"), ("executorch", "last.pte")):
        if find_spec(kind) is None:
            continue
        for quantize in ("none", "int8"):
            out = command("export", "run_dir=a", f"format={kind}", f"quantize={quantize}")
            assert f"written: {tmp_path}/a/export/last" in out
            name = file if quantize == "none" else file.replace(".", "-int8.")
            found[kind, quantize] = json.loads(
                (tmp_path / "a" / "export" / f"{name}.json").read_text()
            )
    for (kind, quantize), report in found.items():
        assert report["torch_accuracy"] > 0.985
        assert report["torch_accuracy_plain"] > 0.985
        if quantize == "none":
            assert report["agreement"] == 1
            assert report["largest_difference"] < 3e-5
        else:
            assert report["accuracy"] > report["torch_accuracy"] - 0.001
            assert report["bytes"] < 0.45 * found[kind, "none"]["bytes"]
