"""Pictures and what the network sees of them: `python -m tests.preparation_vectors` writes them.

`MNISTPreparation` made the results. Torch and the page's JavaScript are both compared with them, so
write them anew only with a change of the preparation, and look at the pictures then.
"""

import base64
import json
from pathlib import Path

import numpy as np
import torch

from mnv2_lightning.images.preparation import MNISTPreparation
from tests.strokes import DIGITS, place, render

PATH = Path(__file__).with_name("vectors") / "preparation.json"


def pictures() -> dict[str, np.ndarray]:
    """(H, W) uint8: of several sizes, both polarities, at edges; some hold no digit."""
    random = np.random.default_rng(0)
    shadow = np.linspace(0, 40, 48)[:, None] + random.normal(0, 3, (48, 40))
    on_paper = render(place(DIGITS[6], 8, 10, 26), (48, 40), pen=3, paper=200, ink=30)
    return {
        "empty, dark": np.zeros((28, 28), np.uint8),
        "empty, light": np.full((20, 31), 200, np.uint8),
        "as in MNIST": render(place(DIGITS[3], 5, 4, 20), (28, 28), pen=2.5),
        "dark on light": render(place(DIGITS[7], 12, 6, 30), (48, 64), pen=4, paper=255, ink=0),
        "wide": render([[(3, 8), (57, 11)]], (20, 60), pen=3),
        "tall": render([[(8, 3), (9, 66)]], (70, 18), pen=2),
        "smaller than MNIST": render(place(DIGITS[5], 1, 1, 7), (9, 9), pen=1.2),
        "one pixel": np.pad(np.full((1, 1), 90, np.uint8), ((5, 8), (12, 1))),
        "at an edge": render(place(DIGITS[2], -2, 9, 30), (40, 40), pen=3),
        "all of the picture": render(place(DIGITS[8], 0, 0, 36), (36, 36), pen=5),
        "faint": render(place(DIGITS[4], 6, 5, 24), (34, 36), pen=3, paper=120, ink=140),
        "shadow and noise": (on_paper - shadow).clip(0, 255).astype(np.uint8),
        "top-heavy": render([*place(DIGITS[9], 20, 12, 60), [(30, 25), (62, 25)]], (90, 88), pen=9),
    }


def write() -> None:
    """Values of the results: hundredths of a grey level."""
    vectors = []
    for name, picture in pictures().items():
        seen = MNISTPreparation()(torch.from_numpy(picture)[None])[0]
        vectors.append(
            {
                "name": name,
                "shape": picture.shape,
                "picture": base64.b64encode(picture.tobytes()).decode(),
                "seen": (seen * 100).round().int().flatten().tolist(),
            }
        )
    PATH.parent.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in vectors)
    PATH.write_text(f"[\n{lines}\n]\n")


def read() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> picture, (H, W) uint8, and what the network sees, (28, 28) from 0 to 255."""
    vectors = {}
    for vector in json.loads(PATH.read_text()):
        raw = base64.b64decode(vector["picture"])
        picture = np.frombuffer(raw, np.uint8).reshape(vector["shape"])
        vectors[vector["name"]] = picture, np.reshape(vector["seen"], (28, 28)) / 100
    return vectors


if __name__ == "__main__":
    write()
