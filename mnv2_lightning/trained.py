"""The trained network of a run, with the preparation of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mnv2_lightning.data.input_transform import InputTransform
from mnv2_lightning.images.preparation import SIDE, MNISTPreparation
from mnv2_lightning.instantiate import instantiate
from mnv2_lightning.networks.folding import fold_batch_norms
from mnv2_lightning.runs import checkpoints, config, folder, pretrained, stored_config
from mnv2_lightning.runs.record import read_record
from mnv2_lightning.schema.check import has_idx_files
from mnv2_lightning.schema.errors import ConfigError
from mnv2_lightning.schema.targets import check_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image


class PictureClassifier(nn.Module):
    """Grey pictures, (B, H, W) uint8 -> logits, (B, num_classes), and what the network saw,
    (B, 28, 28) float32 from 0 to 255.

    What `predict`, `export` and the page compute. `prepare`: "mnist" brings a picture into MNIST's
    form; "plain" takes pictures of 28 x 28 px as they are.
    """

    def __init__(self, network: nn.Module, transform: InputTransform, prepare: str) -> None:
        super().__init__()
        self.preparation = MNISTPreparation() if prepare == "mnist" else None
        self.transform, self.network = transform, network

    def prepare(self, pictures: Tensor) -> Tensor:
        """What the network sees: (B, H, W) -> (B, 28, 28) float32 from 0 to 255."""
        return pictures.float() if self.preparation is None else self.preparation(pictures)

    def inputs(self, seen: Tensor) -> Tensor:
        """What the network takes, (B, 1, S, S), of what `prepare` returns."""
        return self.transform(seen[:, None] / 255)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.prepare(pictures)
        return self.network(self.inputs(seen)), seen


@dataclass(frozen=True)
class TrainedNetwork:
    """What `load` returns.

    `network`: (B, 1, S, S) -> (B, num_classes) logits, in evaluation mode. `classes`: their names.
    `prepare`: "mnist" or "plain", as in `predict`. `config` and `record`: the run's config, and its
    result.json. `input_transform`: None for a data module of the user's own.
    """

    network: nn.Module
    classes: list[str]
    prepare: str
    input_transform: InputTransform | None
    checkpoint: Path
    config: dict[str, Any]
    record: dict[str, Any]

    def transform(self, picture: Image.Image | np.ndarray | Tensor) -> Tensor:
        """Inputs of the network, (B, 1, S, S) float32; B is 1 for a single picture.

        `picture`: a PIL image of any mode; or grey, (H, W) or (B, H, W), of integers from 0 to 255
        or floats from 0 to 1, of 28 x 28 px if `prepare` is "plain". ConfigError: another shape.
        PictureError: a PIL image is empty or shows several digits.
        """
        from mnv2_lightning.images import image_files

        classifier = self.picture_classifier()
        if isinstance(picture, np.ndarray):
            picture = torch.tensor(np.ascontiguousarray(picture))
        elif not isinstance(picture, Tensor):
            picture = torch.tensor(image_files.to_grey(picture, self.prepare))
        shape = tuple(picture.shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[-1] in (3, 4)):
            raise ConfigError(f"picture of shape {shape}: must be grey, (H, W) or (B, H, W)")
        if self.prepare == "plain" and shape[-2:] != (SIDE, SIDE):
            raise ConfigError(
                f"picture of shape {shape}: must be of 28 x 28 px with prepare=plain; a PIL image "
                "is resized"
            )
        if picture.is_floating_point():
            picture = picture * 255
        seen = classifier.prepare(picture if picture.ndim == 3 else picture[None])
        return classifier.inputs(seen)

    def picture_classifier(self) -> PictureClassifier:
        """ConfigError: the run's data module is the user's own, whose transform is not known."""
        if self.input_transform is None:
            raise ConfigError(
                f"{self.checkpoint}: was trained on data of {self.config['data']['_target_']}; "
                "pictures can be prepared for mnv2_lightning's MNISTDataModule only"
            )
        return PictureClassifier(self.network, self.input_transform, self.prepare)


def load(
    run_dir: str | Path,
    *,
    checkpoint: str | None = None,
    prepare: str | None = None,
    fold: bool = True,
    trust: Sequence[str] | None = None,
) -> TrainedNetwork:
    """The network of a run, on the CPU, in evaluation mode.

    `checkpoint`: best, last or previous; None: best if there is one, else last. `prepare`: "mnist",
    "plain", or None: "mnist" for a network trained on MNIST. `fold`: fold batch norms into the
    convolutions before them. `trust`: packages whose classes the run's config may name.
    ConfigError, StorageError.
    """
    if prepare not in (None, "mnist", "plain"):
        raise ConfigError(f"prepare={prepare}: must be 'mnist' or 'plain'")
    run = folder.require_run("run_dir", str(run_dir))
    path = folder.require_checkpoint("run_dir", run, checkpoint)
    cfg = stored_config.config_to_evaluate(run, trust)
    stored = config.plain(cfg)
    check_targets({"model": stored["model"]})  # a data module would import lightning
    network = instantiate(nn.Module, "model", cfg.model)
    state = checkpoints.read(path)["state_dict"]
    weights, _ = pretrained.weights_of(network, state, str(path))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise checkpoints.does_not_fit(path, error) from error
    network.eval().requires_grad_(False)
    return TrainedNetwork(
        network=fold_batch_norms(network) if fold else network,
        classes=list(stored["data"]["classes"]),
        prepare=prepare or _preparation(stored["data"]),
        input_transform=_input_transform(stored["data"]),
        checkpoint=path,
        config=stored,
        record=read_record(run),
    )


def _preparation(data: dict[str, Any]) -> str:
    return "mnist" if data.get("dataset") == "mnist" else "plain"


def _input_transform(data: dict[str, Any]) -> InputTransform | None:
    if not has_idx_files(data):
        return None
    return InputTransform(**{key: data[key] for key in ("crop", "image_size", "mean", "std")})
