"""The command `predict`: answers of a run and of an exported file, on standard output."""

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnv2_lightning import compose, predict, trained
from mnv2_lightning.data import idx_files
from mnv2_lightning.images import image_files
from mnv2_lightning.predict import predict as predict_images
from mnv2_lightning.reports import contact_sheet, prediction_tables
from mnv2_lightning.runs.record import RECORD
from mnv2_lightning.schema.errors import PictureError
from tests.conftest import Call, digits, record
from tests.test_image_files import four, photograph

ODD_NAMES = ("a b.png", "a[1], b=2 ü.png", "it's {1} $HOME *.png", "日本 #1.png", "-x.png")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an empty picture, a digit, what is no image, and a digit again."""
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("L", (40, 40), 255).save(folder / "empty.png")
    four().save(folder / "four.png")
    (folder / "text.jpg").write_text("no image")
    Image.fromarray(digits(1, 0)[0][0]).save(folder / "zebra.png")
    return folder


def test_table(call: Call, run: Path, files: Path, tmp_path: Path) -> None:
    ended = call("predict", f"run_dir={run}", "images=in", "hydra.run.dir=out")
    assert ended.status == 0
    head, empty, digit, text, _ = ended.out.splitlines()
    assert head.split() == ["image", "class", "probability", "second", "probability"]
    assert empty.split(maxsplit=2)[:2] == ["in/empty.png", "-"]
    assert empty.endswith("is empty: there is no ink that differs from the paper")
    assert digit.split()[0] == "in/four.png"
    assert digit.split()[1] in "0123456789"
    assert digit.split()[3::3] == ["%", "%"]
    assert "is not an image that can be read" in text
    assert ended.err == f"written: {tmp_path / 'out' / 'contact_sheet.png'}\n"
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * contact_sheet.CELL[0], contact_sheet.CELL[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_csv_and_json_say_what_the_network_does(call: Call, run: Path, files: Path) -> None:
    model = trained.load(run)
    args = ("predict", f"run_dir={run}", "images=in/*.png", "out=sheets", "hydra.run.dir=.")
    ended = call(*args, "format=json")
    rows = json.loads(ended.out)
    assert [row["image"] for row in rows] == ["in/empty.png", "in/four.png", "in/zebra.png"]
    assert [row["class"] is None for row in rows] == [True, False, False]
    assert rows[0]["reason"].startswith("is empty")
    for row in rows[1:]:
        assert list(row) == list(prediction_tables.COLUMNS)
        with Image.open(row["image"]) as picture, torch.no_grad():
            logits = model.network(model.transform(picture))
        expected, classes = logits.softmax(1)[0].topk(2)
        assert [row["class"], row["second"]] == [str(int(i)) for i in classes]
        assert row["probability"] == pytest.approx(float(expected[0]), abs=2e-6)
        assert row["second_probability"] == pytest.approx(float(expected[1]), abs=2e-6)
        assert row["reason"] is None
    ended = call(*args, "format=csv")
    found = list(csv.DictReader(io.StringIO(ended.out)))
    assert [row["image"] for row in found] == [row["image"] for row in rows]
    assert [row["class"] or None for row in found] == [row["class"] for row in rows]
    assert float(found[1]["probability"]) == rows[1]["probability"]
    assert (ended.status, ended.err) == (0, "written: sheets/contact_sheet.png\n")


def test_no_answer_is_an_error(call: Call, run: Path, files: Path) -> None:
    ended = call("predict", f"run_dir={run}", "images=[in/empty.png,in/missing.png]", "format=csv")
    assert ended.status == 2
    assert "in/missing.png,,,,,there is no such file" in ended.out
    assert ended.err.endswith("error: images: 2 of 2 have no class, for the reasons above\n")
    assert call("predict", f"run_dir={run}", "images=[in/four.png,in/missing.png]").status == 0


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(name: str, call: Call, run: Path, tmp_path: Path) -> None:
    """In a folder, by a glob, and alone in quotes, a backslash before a quote within them."""
    folder = tmp_path / "odd"
    folder.mkdir()
    four().save(folder / name)
    alone = str(folder / name).replace("'", r"\'")
    for images in ("odd", "odd/*.png", f"'{alone}'"):
        ended = call("predict", f"run_dir={run}", f"images={images}", "format=json")
        assert ended.status == 0, ended.err
        assert [Path(row["image"]).name for row in json.loads(ended.out)] == [name]


def test_names_of_a_stranger(call: Call, run: Path, tmp_path: Path) -> None:
    """Control characters do not reach the terminal, nor do bytes that are not UTF-8 fail."""
    (tmp_path / "in").mkdir()
    for name in ("\x1b[31mred\n.png", "\udcff.png"):
        four().save(tmp_path / "in" / name)
    for form in ("table", "csv", "json"):
        ended = call("predict", f"run_dir={run}", "images=in", f"format={form}")
        assert ended.status == 0, ended.err
        if form == "table":
            assert "\x1b" not in ended.out
            assert len(ended.out.splitlines()) == 3


def test_characters_that_a_terminal_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    predict._show("ü \udcff")
    assert stream.buffer.getvalue() == b"\\xfc \\udcff\n"


def test_a_digit_alone_is_answered_as_in_a_batch(
    call: Call, run: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        four(number + 1).save(files / f"{number}.png")
    args = ("predict", f"run_dir={run}", "images=in", "format=json")
    together = json.loads(call(*args).out)
    monkeypatch.setattr(predict, "BATCH", 2)
    for row, other in zip(together, json.loads(call(*args).out), strict=True):
        assert row["image"] == other["image"]
        assert row["class"] == other["class"]
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_more_images_than_a_sheet_holds(
    call: Call, run: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "MOST", 2)
    ended = call("predict", f"run_dir={run}", "images=in", "out=sheet")
    assert len(ended.out.splitlines()) == 5
    assert "contact_sheet.png (the first 2 of 4 images)\n" in ended.err
    with Image.open("sheet/contact_sheet.png") as sheet:
        assert sheet.size == (2 * contact_sheet.CELL[0], contact_sheet.CELL[1])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("images=in", "run_dir: the folder of a run is needed, or onnx="),
        ("images=in run_dir=RUN onnx=a.onnx", "onnx: takes the place of run_dir; leave one"),
        ("run_dir=RUN", "images: a value is required"),
        ("run_dir=RUN images=none.png", "images=none.png: there is no such file or folder"),
        ("run_dir=RUN images=none", "images=none: there is no such file or folder"),
        ("run_dir=RUN images=*.jpg", "images=*.jpg: no file matches"),
        ("run_dir=RUN images=[]", "images"),
        ("run_dir=none images=in", "run_dir=none: there is no such folder"),
        ("run_dir=in images=in", "not a run's folder"),
        ("run_dir=RUN images=in checkpoint=previous2", "must be 'best', 'last' or 'previous'"),
        ("run_dir=RUN images=in format=xml", "must be 'table', 'csv' or 'json'"),
        ("run_dir=RUN images=in prepare=plain photo=true", "photo=true: needs prepare=mnist"),
        ("onnx=none.onnx images=in", "onnx=none.onnx: there is no such file"),
        ("onnx=in/text.jpg images=in prepare=mnist", "prepare: is for run_dir="),
        ("in/four.png run_dir=RUN", "did you mean images=in/four.png?"),
    ],
)
def test_bad_configs(typed: str, message: str, call: Call, run: Path, files: Path) -> None:
    ended = call("predict", *typed.replace("RUN", str(run)).split())
    assert ended.status == 2
    assert message in ended.err.splitlines()[-1]
    assert ended.out == ""


def test_unfinished_runs(call: Call, run: Path, files: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "begun")
    (tmp_path / "begun" / RECORD).write_text(json.dumps(record(run) | {"status": "interrupted"}))
    args = ("predict", "run_dir=begun", "images=in/four.png")
    ended = call(*args)
    assert ended.status == 0
    assert "begun: the run is interrupted; uses best.ckpt\n" in ended.err
    (tmp_path / "begun" / RECORD).write_text(json.dumps({"status": "\x1b[31mred\nline"}))
    assert "begun: the run is unfinished; uses best.ckpt\n" in call(*args).err
    (tmp_path / "begun" / RECORD).unlink()
    assert "begun: the run is unfinished; uses last.ckpt\n" in call(*args, "checkpoint=last").err
    shutil.rmtree(tmp_path / "begun" / "checkpoints")
    ended = call(*args)
    assert ended.status == 2
    assert "begun: has no last checkpoint" in ended.err


def test_from_python(run: Path, files: Path, tmp_path: Path) -> None:
    cfg = compose("predict", [f"run_dir={run}", f"images={files}", f"hydra.run.dir={tmp_path}/out"])
    result = predict_images(cfg)
    assert [row["reason"] is None for row in result["predictions"]] == [False, True, False, True]
    assert Path(result["contact_sheet"]).is_file()
    cfg.images = [str(files / "empty.png")]
    with pytest.raises(PictureError):
        predict_images(cfg)


def test_plain_pictures_are_resized_only(call: Call, run: Path, files: Path) -> None:
    """Ink on paper stays dark on light; one color is no digit's, but a garment's perhaps."""
    ended = call("predict", f"run_dir={run}", "images=in", "prepare=plain", "format=json")
    rows = json.loads(ended.out)
    assert [row["reason"] is None for row in rows] == [True, True, False, True]
    model = trained.load(run, prepare="plain")
    with Image.open("in/four.png") as picture, torch.no_grad():
        logits = model.network(model.transform(picture))
    assert rows[1]["class"] == str(int(logits.argmax()))


def test_thumbnails() -> None:
    for size in ((1, 1), (1, 500), (500, 1), (512, 300), (8, 8)):
        for mode in ("L", "RGB", "RGBA"):
            small = contact_sheet.thumbnail(Image.new(mode, size))
            assert max(small.size) == contact_sheet.SIDE
            assert small.mode == "RGB"


def exported(run: Path, path: Path, **metadata: str) -> Path:
    """An ONNX file as `export` writes it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra onnx")
    from mnv2_lightning.formats import onnx_file

    model = trained.load(run)
    about = {"classes": model.classes, "prepare": model.prepare} | metadata
    calibration = np.zeros((2, 28, 28), np.uint8)
    onnx_file.write(model.picture_classifier(), path, about, "none", calibration)
    return path


@pytest.mark.slow
def test_an_exported_file_gives_the_same(
    call: Call, run: Path, files: Path, tmp_path: Path
) -> None:
    for number in range(6):
        four(number % 3 + 1).save(files / f"{number}.png")
    exported(run, tmp_path / "a.onnx")
    args = ("predict", "images=in", "format=json")
    expected = json.loads(call(*args, f"run_dir={run}").out)
    ended = call(*args, "onnx=a.onnx")
    assert ended.status == 0, ended.err
    for row, other in zip(json.loads(ended.out), expected, strict=True):
        assert {k: v for k, v in row.items() if "probability" not in k} == {
            k: v for k, v in other.items() if "probability" not in k
        }
        if row["reason"] is None:
            assert row["probability"] == pytest.approx(other["probability"], abs=1e-4)
    for bad in ({"classes": "[1]"}, {"classes": "x"}, {"prepare": "none"}):
        exported(run, tmp_path / "a.onnx", **bad)
        ended = call(*args, "onnx=a.onnx")
        assert "error: onnx=a.onnx: was not written by mnv2_lightning.export\n" in ended.err
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    ended = call(*args, "onnx=a.onnx")
    assert ended.status == 2
    assert "onnx=a.onnx: cannot be loaded" in ended.err


@pytest.mark.slow
def test_what_is_imported(run: Path, files: Path, tmp_path: Path) -> None:
    """Neither lightning nor matplotlib; for an ONNX file, not even torch. Memory besides torch."""
    Image.new("RGB", (8000, 6000), "white").save(files / "large.jpg")
    exported(run, tmp_path / "a.onnx")
    code = (
        "import sys\nfrom mnv2_lightning.predict import COMMAND\n"
        "from mnv2_lightning.system.memory import peak_rss_bytes\n"
        "before = 0\n"
        "if sys.argv[1].startswith('run_dir'):\n"
        "    import torch\n"
        "    before = peak_rss_bytes()\n"
        "status = COMMAND.run()\n"
        "names = ('lightning', 'matplotlib', 'torchvision', 'torch')\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "print(status, heavy, peak_rss_bytes() - before, file=sys.stderr)"
    )
    for source, modules in ((f"run_dir={run}", ["torch"]), ("onnx=a.onnx", [])):
        ended = subprocess.run(
            [sys.executable, "-c", code, source, "images=in"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        status, *heavy, peak = ended.stderr.splitlines()[-1].split()
        print(source[:7], int(peak) // 2**20, "MiB")
        assert (status, "".join(heavy)) == ("0", str(modules))
        assert int(peak) < 200e6


def answers(model: trained.TrainedNetwork, pictures: Iterable[Image.Image]) -> list[str | None]:
    """The class of each, None if it is refused."""
    classifier = model.picture_classifier()
    found: list[str | None] = []
    for picture in pictures:
        try:
            grey = image_files.to_grey(picture, "mnist")
        except PictureError:
            found.append(None)
            continue
        with torch.inference_mode():
            logits, _ = classifier(torch.tensor(grey)[None])
        found.append(model.classes[int(logits.argmax())])
    return found


def share(found: list[str | None], labels: Iterable[int]) -> float:
    right = [answer == str(label) for answer, label in zip(found, labels, strict=True)]
    return sum(right) / len(right)


@pytest.mark.slow
def test_mnist_is_prepared_without_loss(mnist_run: Path) -> None:
    """Within 0.1 points of the test accuracy without reading pictures and preparing them."""
    data = idx_files.load("mnist", None, 10)
    labels = [int(label) for label in data["t10k-labels"]]
    model = trained.load(mnist_run)
    found = answers(model, map(Image.fromarray, data["t10k-images"]))
    plain = trained.load(mnist_run, prepare="plain")
    with torch.inference_mode():
        logits = [
            plain.network(plain.transform(x)) for x in torch.tensor(data["t10k-images"]).split(500)
        ]
    expected = [str(int(i)) for i in torch.cat(logits).argmax(1)]
    print(f"MNIST: {share(found, labels):.2%}, as it is {share(list(expected), labels):.2%}")
    assert share(found, labels) >= share(list(expected), labels) - 0.001


@pytest.mark.slow
def test_photographs(mnist_run: Path) -> None:
    """300, made of training images 4 to 10 times as large and three inks: at least 98 %."""
    data = idx_files.load("mnist", None, 10)
    rng = np.random.default_rng(2026)
    chosen = rng.integers(0, 60_000, 300)
    pictures = []
    for number, index in enumerate(chosen):
        side = round(28 * rng.uniform(4, 10))
        digit = Image.fromarray(data["train-images"][index]).resize((side, side))
        ink = ((35, 35, 40), (30, 55, 160), (170, 45, 50))[number % 3]
        pictures.append(photograph(np.asarray(digit) / 255, rng, ink))
    found = answers(trained.load(mnist_run), pictures)
    right = share(found, (int(label) for label in data["train-labels"][chosen]))
    print(f"photographs: {right:.2%}, refused {found.count(None)}")
    assert right >= 0.98
