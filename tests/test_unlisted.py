"""Data sets of MNIST's format that `data/sets.py` does not list."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from mnv2_lightning.data import idx_files
from mnv2_lightning.data.sets import DATA_SETS
from mnv2_lightning.schema.errors import ConfigError, DataError
from tests.conftest import Call, idx, pack, record

COUNTS = {"train": 60, "test": 30}


def arrays(first: int = 1) -> dict[str, np.ndarray]:
    """Three classes, labelled from `first`: a bright row tells the class."""
    rng, made = np.random.default_rng(0), {}
    for split, count in COUNTS.items():
        labels = np.arange(count) % 3
        images = rng.integers(0, 40, (count, 16, 16)).astype(np.uint8)
        images[np.arange(count), 4 * labels + 2] = 220
        made[f"{split}-images-idx3-ubyte"] = images
        made[f"{split}-labels-idx1-ubyte"] = (labels + first).astype(np.uint8)
    return made


def write(folder: Path, made: dict[str, np.ndarray], prefix: str = "mine-") -> None:
    folder.mkdir(exist_ok=True)
    for name, array in made.items():
        (folder / f"{prefix}{name}.gz").write_bytes(pack(idx(array)))


@pytest.mark.parametrize("prefix", ["mine-", ""])
@pytest.mark.parametrize("where", ["", "mine"])
@pytest.mark.parametrize("first", [0, 1])
def test_found(prefix: str, where: str, first: int, tmp_path: Path) -> None:
    """Named as EMNIST's files or as MNIST's. Labels from 1 become labels from 0."""
    write(tmp_path / where, arrays(first), prefix)
    found = idx_files.load("mine", str(tmp_path), 3)
    assert list(found) == ["train-images", "train-labels", "t10k-images", "t10k-labels"]
    for (name, array), made in zip(found.items(), arrays(0).values(), strict=True):
        assert (array == made).all(), name
        assert array.dtype == np.uint8


def test_of_several_in_one_folder_the_one_that_is_named(tmp_path: Path) -> None:
    write(tmp_path, arrays(0), "other-")
    with pytest.raises(ConfigError, match=r"data\.dataset=mine: not one of mnist, fashion_mnist"):
        idx_files.load("mine", str(tmp_path), 3)
    write(tmp_path, {name: array[:6] for name, array in arrays(0).items()})
    assert len(idx_files.load("mine", str(tmp_path), 3)["train-images"]) == 6
    assert len(idx_files.load("other", str(tmp_path), 3)["train-images"]) == 60


TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = arrays()
UNFIT: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "fewer labels": ({TEST_LABELS: np.ones(5, np.uint8)}, "there are 30 images and 5 labels"),
    "no images": (
        {TEST_IMAGES: np.zeros((0, 16, 16), np.uint8), TEST_LABELS: np.ones(0, np.uint8)},
        "there are 0 images and 0 labels",
    ),
    "sizes": ({TEST_IMAGES: np.zeros((30, 8, 8), np.uint8)}, "must be squares of one size"),
    "no squares": ({TRAIN_IMAGES: np.zeros((60, 8, 9), np.uint8)}, r"shape \(60, 8, 9\) and"),
    "a high label": ({TEST_LABELS: np.full(30, 4, np.uint8)}, "labels run from 1 to 4, but data"),
    "a low label": (
        {TEST_LABELS: np.zeros(30, np.uint8)},
        "labels run from 0 to 3, but data.classes",
    ),
    "few classes": (
        {TRAIN_LABELS: np.zeros(60, np.uint8), TEST_LABELS: np.zeros(30, np.uint8)},
        "labels run from 0 to 0, but data.classes has 3",
    ),
    "dimensions": ({TEST_LABELS: np.zeros((30, 1), np.uint8)}, "of labels, in 1 dimension"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_files_that_do_not_fit(kind: str, tmp_path: Path) -> None:
    changed, message = UNFIT[kind]
    write(tmp_path, arrays() | changed)
    with pytest.raises(DataError, match=message):
        idx_files.load("mine", str(tmp_path), 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole IDX file"),
        (idx(arrays()[TRAIN_IMAGES])[:-1], "not a whole IDX file"),
        (idx(arrays()[TRAIN_IMAGES]) + b"x", "not a whole IDX file"),
        (b"\0\0\x0d\3" + idx(arrays()[TRAIN_IMAGES])[4:], "not a whole IDX file of bytes"),
        (gzip.compress(idx(arrays()[TRAIN_IMAGES]))[:-9], r"cannot be read \("),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path, arrays())
    path = tmp_path / f"mine-{TRAIN_IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: {message}"):
        idx_files.load("mine", str(tmp_path), 3)


def test_a_misspelt_name_does_not_avoid_the_checksums(small_data: Path) -> None:
    with pytest.raises(DataError, match=r"is a file of mnist; set data\.dataset=mnist"):
        idx_files.load("mnits", str(small_data / "mnist"))
    assert "mnits" not in DATA_SETS


YAML = "defaults: [mnist]\ndataset: mine\ndir: {folder}\nclasses: [a, b, c]\ncrop: 16\n"
SHORT = ("data.batch_size=20", "data.val_size=10", "trainer.max_epochs=1")
BAD = {
    "data.val_size=60": (2, r"data\.val_size=60: must be less than 60"),
    "data.batch_size=51": (2, r"data\.batch_size=51: larger than the 50 training images"),
    "data.crop=28": (2, r"data\.crop=28: must be less than or equal to 16"),
    "data.classes=[a,b]": (5, r"labels run from 1 to 3, but data\.classes has 2"),
    "data.dir=null": (2, r"data\.dataset=mine: must be one of .*, or data\.dir=PATH hold"),
    "data.dir=conf": (
        2,
        r"data\.dataset=mine: not one of .*, and conf does not hold its four files",
    ),
    "data.dataset=mnist": (2, r"data\.classes: has 3 names; mnist has 10 classes"),
    "model.num_classes=10": (2, r"model\.num_classes=10: the data set has 3 classes"),
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    write(tmp_path / "files", arrays())
    (tmp_path / "conf" / "data").mkdir(parents=True)
    path = tmp_path / "conf" / "data" / "mine.yaml"
    path.write_text(YAML.format(folder=tmp_path / "files"))
    return tmp_path


def test_trained_resumed_and_evaluated(call: Call, own: Path) -> None:
    """From a file in `--config-dir`. `MNV2_DATA_DIR`, which the tests set, holds other files."""
    command = ("train", "--config-dir=conf", "data=mine", *SHORT, "hydra.run.dir=run")
    ended = call(*command)
    assert ended.status == 0, ended.err
    assert "MobileNetV2 on mine" in ended.out
    assert call("train", "resume=run", "trainer.max_epochs=2").status == 0
    assert record(own / "run")["epochs"] == 2
    for split, count in (("test", 30), ("val", 10)):
        ended = call("evaluate", "run_dir=run", f"split={split}")
        assert ended.status == 0, ended.err
        assert f"on {count} {split} images" in ended.out
    (own / "files").rename(own / "moved")
    ended = call("evaluate", "run_dir=run")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert call("evaluate", "run_dir=run", "data.dir=moved").status == 0


def ten_classes(prefix: str, side: int = 28) -> dict[str, np.ndarray]:
    """Made files as QMNIST's, KMNIST's or EMNIST's are."""
    rng, made = np.random.default_rng(0), {}
    for split, count in COUNTS.items():
        name = "t10k" if prefix == "" and split == "test" else split
        images = rng.integers(0, 256, (count, side, side)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        made[f"{name}-images-idx3-ubyte"] = images
        if prefix == "qmnist-":  # the class, and seven other numbers
            others = rng.integers(0, 100_000, (count, 7))
            made[f"{name}-labels-idx2-int"] = np.hstack([labels[:, None], others]).astype(np.int32)
        else:
            made[f"{name}-labels-idx1-ubyte"] = labels
    return made


@pytest.mark.parametrize(
    ("data", "prefix"), [("qmnist", "qmnist-"), ("kmnist", ""), ("emnist_digits", "emnist-digits-")]
)
def test_known_sets_from_their_own_files(
    data: str, prefix: str, call: Call, tmp_path: Path
) -> None:
    """Their sizes are those in the files. EMNIST's images are stored transposed."""
    files = ten_classes(prefix)
    write(tmp_path / "files", files, prefix)
    dataset = data.replace("_", "-")
    found = idx_files.load(dataset, str(tmp_path / "files"))
    assert found["train-labels"].tolist() == [i % 10 for i in range(60)]
    stored = files["train-images-idx3-ubyte"]
    assert (
        found["train-images"]
        == (stored.transpose(0, 2, 1) if data.startswith("emnist") else stored)
    ).all()
    place = (f"data={data}", "data.dir=files")
    ended = call("train", *place, *SHORT, "hydra.run.dir=run", "model.width_mult=0.25")
    assert ended.status == 0, ended.err
    assert call("evaluate", "run_dir=run", *place).status == 0
    assert (tmp_path / "run" / "evaluation" / dataset / "best-test.json").is_file()


def test_a_run_on_another_set(call: Call, copied: Path, tmp_path: Path) -> None:
    """Prepared as the run's; where its own are is not used."""
    write(tmp_path / "files", ten_classes("qmnist-"), "qmnist-")
    ended = call("evaluate", f"run_dir={copied}", "data=qmnist", "data.dir=files")
    assert ended.status == 0, ended.err
    assert "on 30 test images" in ended.out
    write(tmp_path / "small", ten_classes("qmnist-", side=20), "qmnist-")
    place = ("data=qmnist", "data.dir=small", "corruptions=all")
    ended = call("evaluate", f"run_dir={copied}", *place)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "are for images of 28 x 28 px, not 20 x 20" in ended.err


def test_scikit_learns_digits(call: Call, copied: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    ended = call("evaluate", f"run_dir={copied}", "data=digits")
    assert ended.status == 0, ended.err
    assert "on 1,797 test images" in ended.out
    ended = call("train", "data=digits")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "has test images only" in ended.err
    assert idx_files.load("digits", None)["t10k-images"].max() > 200


@pytest.mark.parametrize("typed", BAD)
def test_bad(typed: str, call: Call, own: Path) -> None:
    """One line, before a folder is made."""
    status, message = BAD[typed]
    before = sorted(own.rglob("*"))
    ended = call("train", "--config-dir=conf", "data=mine", *SHORT, typed)
    assert ended.status == status
    assert ended.err.count("\n") == 1
    assert re.search(message, ended.err), ended.err
    assert sorted(own.rglob("*")) == before
