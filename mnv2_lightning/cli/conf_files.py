"""The files of `conf/`."""

from pathlib import Path


def config_dir() -> Path:
    """`conf/`: inside the package where it was installed from a wheel, else beside it."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parent / "conf") if p.is_dir())
