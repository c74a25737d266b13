"""The LightningModule and its network without a Trainer: a step, and what is decayed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnv2_lightning import build
from mnv2_lightning.callbacks.ema import Average
from mnv2_lightning.callbacks.non_finite_guard import NonFiniteGuard
from mnv2_lightning.system import warning_filters
from tests.conftest import AUGMENTED, SMALL, Configure
from tests.test_resume import assert_same


def test_one_batch_can_be_overfitted(configure: Configure) -> None:
    torch.manual_seed(0)
    cfg = configure(*SMALL)
    network = build.build_network(cfg).train()
    images, labels = torch.randn(10, 1, 28, 28), torch.arange(10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_a_step_reads_nothing_back_from_its_device(configure: Configure) -> None:
    """On the meta device, whose tensors have no values, whatever would wait for a GPU fails: the
    order of batches, gather, augmentation, forward pass, loss, the sums that are logged, and the
    check for non-finite losses.
    """
    cfg = configure(*SMALL, *AUGMENTED)
    data = build.build_datamodule(cfg)
    data.setup()
    data.arrays = {name: tensor.to("meta") for name, tensor in data.arrays.items()}
    data.indices["train"] = torch.arange(500, device="meta")
    with torch.device("meta"):
        classifier = build.build_classifier(cfg, build.build_network(cfg))
    trainer = SimpleNamespace(
        log_every_n_steps=10**9,
        accumulate_grad_batches=1,
        num_training_batches=10,
        max_steps=-1,
        global_step=1,  # the first step is logged
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
    )
    guard = NonFiniteGuard()
    classifier._trainer = trainer
    for number, batch in zip(range(2), data.train_dataloader(), strict=False):
        guard.on_train_batch_start(trainer, classifier, batch, number)  # type: ignore[arg-type]
        loss = classifier.training_step(batch, number)
        loss.backward()
        guard.on_train_batch_end(trainer, classifier, {"loss": loss}, None, number)  # type: ignore[arg-type]
        assert loss.is_meta
        assert classifier.window is not None
        assert classifier.window.is_meta


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_ema(device: str) -> None:
    """As PyTorch's, but for the counts of batches, and without a value read from the device."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).to(device)
    average_by = get_ema_multi_avg_fn(0.9)
    ours = Average(network, average_by)
    pytorchs = AveragedModel(network, use_buffers=True, multi_avg_fn=average_by)
    ours.is_begun = device == "meta"  # only the first update reads one
    for _ in range(3):
        network(torch.randn(5, 1, 8, 8, device=device))
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        ours.update_parameters(network)
        if device == "cpu":
            pytorchs.update_parameters(network)
    if device == "cpu":
        found, expected = ours.state_dict(), pytorchs.state_dict()
        assert found.pop("module.1.num_batches_tracked") == 3
        del expected["module.1.num_batches_tracked"]
        assert_same(found, expected)


def test_evaluations_average_evaluation_logits(configure: Configure) -> None:
    """The log of the mean of probabilities; without views the logits as they are."""
    augmentation = "classifier.test_time_augmentation"
    cfg = configure(*SMALL, f"{augmentation}.degrees=20", f"{augmentation}.shear=0.2")
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), torch.rand(3, 1, 28, 28)
    classifier = build.build_classifier(cfg, network)
    mean = classifier._evaluation_logits(images).exp()
    each = torch.stack([classifier(view).softmax(1) for view in classifier.views(images)])
    assert len(each) == 5
    assert each.std(0).min() > 1e-4
    torch.testing.assert_close(mean, each.mean(0))
    classifier = build.build_classifier(configure(*SMALL), network)
    assert torch.equal(classifier._evaluation_logits(images), classifier(images))


@pytest.mark.parametrize("model", ["mobilenet_v2", "mobilenet_v1", "tutorial"])
def test_weight_decay_leaves_out_biases_and_norms(model: str, configure: Configure) -> None:
    """Of the real networks, each parameter in one group: kernels and matrices decay."""
    cfg = configure(f"model={model}", "optimizer.weight_decay=0.5")
    network = build.build_network(cfg)
    groups = build.build_classifier(cfg, network).build_optimizer().param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    parameters = 0
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_kernel = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            assert decays[id(parameter)] == (0.5 if is_kernel else 0.0), (module, name)
            parameters += 1
    assert sum(len(group["params"]) for group in groups) == parameters


def test_predict(configure: Configure) -> None:
    """By the Trainer, the probabilities of the test images in their order."""
    warning_filters.install()
    cfg = configure(*SMALL)
    data, network = build.build_datamodule(cfg), build.build_network(cfg)
    classifier = build.build_classifier(cfg, network)
    trainer = build.build_trainer(cfg, [], [])
    probabilities = torch.cat(trainer.predict(classifier, datamodule=data))  # type: ignore[arg-type]
    images = torch.cat([images for images, _ in data.test_dataloader()])
    with torch.inference_mode():
        expected = network.eval()(images).softmax(1)
    torch.testing.assert_close(probabilities, expected)
