"""A run that was cut ends with the same bits, and the test of it bites."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mnv2_lightning.callbacks.exact_resume import ExactResume
from mnv2_lightning.data.datamodule import FILES, MNISTDataModule
from mnv2_lightning.train import train
from tests.conftest import AUGMENTED, SMALL, Configure, load
from tests.reliability.conftest import Reliability
from tests.test_resume import assert_same, comparable, cut_after_one_epoch, resumed


def test_two_resumes_in_a_row(
    configure: Configure, tmp_path: Path, reliability: Reliability
) -> None:
    """Each after other random numbers were drawn."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    longer = ("trainer.max_epochs=3", "scheduler=constant", "callbacks=[default,ema]")
    train(configure(*SMALL, *AUGMENTED, *longer, run_dir=whole))
    for epochs in (1, 2, 3):
        torch.manual_seed(1000 + epochs)
        random.seed(epochs)
        if epochs == 1:
            few = (*longer, "trainer.max_epochs=1")
            train(configure(*SMALL, *AUGMENTED, *few, run_dir=cut))
        else:
            train(resumed(cut, f"trainer.max_epochs={epochs}"))
    assert_same(comparable(load(cut)), comparable(load(whole)))
    reliability.note("two_resumes_in_a_row", resumed_equal=True)


def test_without_our_order_of_batches_a_resume_differs(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reliability: Reliability,
) -> None:
    """The test above bites: torch's own shuffling depends on the process's random state, where
    that is not seeded anew each epoch.
    """

    def stock(self: MNISTDataModule, split: str, *, shuffle: bool = False, **_: Any) -> Any:
        indices = self.indices[split]
        images, labels = (self.arrays[f"{FILES[split]}-{kind}"] for kind in ("images", "labels"))
        one = TensorDataset(self.transform(images[indices, None] / 255), labels[indices])
        return DataLoader(one, batch_size=50, shuffle=shuffle)

    monkeypatch.setattr(MNISTDataModule, "_loader", stock)
    monkeypatch.setattr(ExactResume, "on_train_epoch_start", lambda *args: None)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(*SMALL, run_dir=whole))
    cut_after_one_epoch(configure, cut, "callbacks.test_images=null")
    train(resumed(cut))
    weight = "network.stem.conv.weight"
    equal = torch.equal(load(cut)["state_dict"][weight], load(whole)["state_dict"][weight])
    reliability.note("torchs_shuffling", resumed_equal=equal)
    assert not equal
