"""What cannot work ends in one line, status 2, and leaves no folder."""

import re
from pathlib import Path

import pytest

from tests.conftest import Call

# What is typed -> what the one line must say.
BAD = {
    "optimizer.lr=-1": r"optimizer\.lr=-1: must be greater than 0",
    "optimizer.lr=abc": r"optimizer\.lr=abc: must be a number",
    "optimizer.lr=true": r"optimizer\.lr=true: must be a number",
    "optimizer.lr=nan": r"optimizer\.lr=nan: must be a finite number",
    "optimizer.lr=null": r"optimizer\.lr=null: must be a number",
    "optimizer.momentum=1": r"optimizer\.momentum=1: must be less than 1",
    "optimizer.momentum=0": r"optimizer\.nesterov=true: needs optimizer\.momentum above 0",
    "trainer.precision=16-mixed trainer.gradient_clip_val=1": r"set optimizer\.fused=null",
    "optimizer.learning_rate=1": r"optimizer\.learning_rate: unknown key",
    "optimzer.lr=1": r"optimzer\.lr: unknown key; did you mean optimizer\.lr\?",
    "+optimizer.momentun=1": r"optimizer\.momentun: unknown key; did you mean optimizer\.momentum",
    "+lr=1": r"lr: unknown key; did you mean optimizer\.lr\?",
    "+typo=1": r"typo: unknown key",
    "trainer.max_epoch=3": r"did you mean trainer\.max_epochs\?",
    "trainer.max_epochs=-1": r"trainer\.max_epochs=-1: training would never end",
    "trainer.max_epochs=-1 trainer.max_time=00:01:00:00": r"needs to know the end",
    "trainer.precision=8": r"trainer\.precision=8: must be '16-mixed'",
    "trainer.accelerator=npu": r"trainer\.accelerator=npu: must be 'auto', 'cpu', 'gpu'",
    "trainer.devices=1.5": r"trainer\.devices=1\.5: must be an integer or a text or a list",
    "trainer.devices=0": r"trainer\.devices=0: must be a number of devices, -1 for all",
    "trainer.strategy=foo": r"trainer\.strategy=foo: must be 'auto', 'ddp'",
    "++callbacks.last.monitr=1": r"did you mean callbacks\.last\.monitor\?",
    "+callbacks.x._target_=lightning.pytorch.callbacks.EarlyStopping": r"x\.monitor: a value is",
    "trainer.log_every_n_steps=0": r"must be greater than or equal to 1",
    "trainer.barebones=true": r"trainer\.barebones=true: must be false",
    "data.batch_size=0": r"data\.batch_size=0: must be greater than or equal to 1",
    "data.batch_size=60000": r"larger than the 55000 training images that data\.val_size=5000",
    "model=tutorial data.batch_size=1": r"data\.batch_size=1: .*; batch norm needs two "
    r"values a channel .*; take data\.batch_size=2 or more",
    "model=mobilenet_v1 data.batch_size=2 data.val_size=5001": r"data\.batch_size=2: .* has 1 "
    r"image; .*; take data\.batch_size=3 or more, or another data\.val_size",
    "model=tutorial data.batch_size=1 data.val_size=59999": r"data\.val_size=59999: .* has 1 "
    r"image; .*; take a smaller data\.val_size",
    "data.val_size=60000": r"data\.val_size=60000: must be less than 60000",
    "data.train_size=55001": r"data\.train_size=55001: there are 55000 images that data\.val_size",
    "data.train_size=100": r"larger than the 100 training images of data\.train_size=100",
    "model=tutorial data.train_size=3 data.batch_size=2": r"take data\.batch_size=3 or more, or "
    r"another data\.train_size",
    "study=linear_bottleneck": r"is a sweep; add -m, or for a single run "
    r"model\.bottleneck_activation=VALUE model\.shortcut=VALUE",
    "study=expand_ratio_equal_macs": r"is a sweep; add -m, or for a single run model\.expand_ratio",
    "-m study=shortcut,v1_v2": r"study=\w+: is a sweep; add -m, .*",
    "study=shortcuts": r"study=shortcuts: there is none such; did you mean shortcut\?",
    "study=expand_ratio_equal_macs seed=0 model.expand_ratio=5": r"5 is not in .* table: 1",
    "data.image_size=28.5": r"data\.image_size=28\.5: must be an integer",
    "data.augment.scale=1": r"data\.augment\.scale=1: must be less than 1",
    "+data.augment.rotate=1": r"data\.augment\.rotate: unknown key",
    "data=cifar": r"data=cifar: there is none such .*fashion_mnist, kmnist, mnist",
    "model=tutoral": r"model=tutoral: there is none such; did you mean tutorial\?",
    "model.expand_ratio=0": r"model\.expand_ratio=0: must be greater than 0",
    "model.width_mult=wide": r"model\.width_mult=wide: must be a number",
    "model.strides=[1,2]": r"model\.strides=\[1, 2\]: 2 strides; the stem and 4 stages need 5",
    "model.strides=28px": r"model\.strides=28px: 8 strides; the stem and 4 stages need 5",
    "model.strides=[2,2,2,2,2] data.image_size=6": r"too small for the strides",
    "model=mobilenet_v2 model.strides=224px data.image_size=4": r"too small for the strides",
    "model=mobilenet_v1 data.image_size=4": r"too small for the strides",
    "model.num_classes=7": r"model\.num_classes=7: the data set has 10 classes",
    "model.in_channels=3": r"model\.in_channels=3: the images have 1 channel",
    "model.shortcut=maybe": r"must be 'identity', 'projection' or 'none'",
    "experiment=fst": r"experiment=fst: there is none such",
    "callbacks.best.monitor=val_accuracy": r"did you mean val/accuracy\?",
    "callbacks=[ema]": r"callbacks=\[default,NAME\] adds to the default ones",
    "callbacks.last=null": r"callbacks: without `last` no run can be resumed",
    "callbacks=[] +callbacks.x._target_=lightning.pytorch.callbacks.Timer": r"without `last` no",
    "hydra/launcher=null": r"null: cannot be chosen from a group; KEY=\[\] chooses none",
    "-m logger=null,csv": r"null: cannot be chosen from a group; .* \(job logger-null\)",
    "--cfg job -m": r"Only one of --run, --multirun, --cfg, ",
    "model=null": r"model: a value is required",
    "callbacks=early_stopping": r"callbacks=\[default,NAME\] adds to the default ones",
    "trainer.overfit_batches=1": r"trainer\.overfit_batches=1: must be 0: it takes images one by",
    "trainer.strategy=ddp_spawn": r"trainer\.strategy=ddp_spawn: must be 'auto', 'ddp'",
    "data.dataset=kmnist": r"data\.dataset=kmnist: not one of mnist, fashion_mnist",
    "optimzer.lr=1 --cfg job": r"optimzer",
    "seed=-1": r"seed=-1: must be greater than or equal to 0",
    "callbacks=[default,early_stopping] data.val_size=0": r"leaves nothing to validate on",
    "optimizer.lr=[1": r"optimizer\.lr=\[1: a bracket or quote is not closed",
    "data.dir='a": r"data\.dir='a: a bracket or quote is not closed",
    "data.dir=a=b": r"data\.dir=a=b: not a value; put other characters in quotes",
    "model.widht=8": r"model\.widht: unknown key; did you mean model\.width_mult\?",
    "model.zzz=8": r"model\.zzz: unknown key \(there are: model\.in_channels, .*model\.weights\)",
    "callbacks=[default,early_stoping]": r"callbacks=early_stoping: there is none such; did you "
    r"mean early_stopping\? \(there are: best, default, .*\)",
    "logger=[tensorbord]": r"logger=tensorbord: there is none such; did you mean tensorboard\?",
    "-m logger=csv,tensorbord": r"logger=tensorbord: there is none such; .* \(job logger-tens.*\)",
    "+experiment=fast": r"\+experiment=fast: .*; type experiment=fast",
    "~experiment": r"~experiment: cannot be left out; experiment=default changes nothing",
    "--lr 0.1": r"--lr: unknown option; values are set by key=value, such as optimizer\.lr=0\.1",
    "-lr=0.1": r"-lr: unknown option; values are set by key=value, such as optimizer\.lr=0\.1",
    "--label-smoothing=0.1": r"such as classifier\.label_smoothing=0\.1",
    "--multrun seed=1,2": r"--multrun: unknown option; did you mean --multirun\?",
    "--cfg": r"--cfg/-c: expected one argument",
    "--cfg jobs": r"--cfg/-c: invalid choice: 'jobs'.*",
    "--config-dir=nope": r"--config-dir=nope: there is no such folder; make it, .*",
    "optimizer.lr = 0.1": r"optimizer\.lr: write it without spaces: optimizer\.lr=0\.1",
    "optimizer.lr =0.1": r"optimizer\.lr: write it without spaces: optimizer\.lr=0\.1",
    "optimizer.lr= 0.1": r"0\.1: write it without spaces: optimizer\.lr=0\.1",
    "optimizer.lr 0.1": r"optimizer\.lr: not key=value; did you mean optimizer\.lr=0\.1\?",
    "optimizer.lr:0.1": r"optimizer\.lr:0\.1: not key=value; did you mean optimizer\.lr=0\.1\?",
    "model.strides=[1, 2]": r"2\]: a value with spaces needs quotes: 'model\.strides=\[1, 2\]'",
    "fast": r"fast: not key=value; did you mean experiment=fast\?",
    "outputs/runs/a": r"outputs/runs/a: not key=value; did you mean resume=outputs/runs/a\?",
    "sed": r"sed: not key=value; did you mean seed=VALUE\?",
    "xyz": r"xyz: not key=value",
    "--help model=tutoral": r"model=tutoral: there is none such; did you mean tutorial\?",
    "--help optimizer.l=1": r"optimizer\.l: unknown key; did you mean optimizer\.lr\?",
    "run_dir=x": r"run_dir: is set by hydra\.run\.dir=PATH",
    "resume=nowhere": r"resume=nowhere: there is no such folder",
    "resume=https://a/b": r"must be a folder on this machine",
}


@pytest.mark.parametrize("typed", BAD)
def test_bad_config(typed: str, call: Call, tmp_path: Path) -> None:
    ended = call("train", *typed.split())
    assert ended.status == 2
    assert re.fullmatch(rf"error: .*{BAD[typed]}.*\n", ended.err), ended.err
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_empty_argument(call: Call) -> None:
    message = "an argument is empty (is a variable of the shell not set?)"
    assert call("train", "seed=1", "").err == f"error: {message}\n"


def test_a_file_is_no_folder(call: Call) -> None:
    ended = call("train", f"hydra.run.dir={__file__}/x")
    assert ended.status == 2
    assert ended.err == f"error: {Path(__file__, 'x')}: {__file__} is a file\n"


# These need torch.
BAD_FOR_TORCH = {
    "trainer.accelerator=gpu": r"trainer\.accelerator=gpu: this machine has none; trainer",
    "+callbacks.x._target_=mnv2_lightning.networks.none.Such": r"there is no such class",
    "+callbacks.x._target_=lightning.pytorch.callbacks.Timer +callbacks.x.dura=1": (
        r"x\.dura: unknown key; did you mean callbacks\.x\.duration\?"
    ),
    "+callbacks.x._target_=mnv2_lightning.callbacks.predictions.Predicted": (
        r"callbacks\.x\.labels: a value is required"
    ),
    "model.expand_ratio=0.01": r"model\.expand_ratio=0\.01: leaves none of 24 channels",
    "trainer.strategy=ddp trainer.devices=3 data.batch_size=2": r"too few for each of 3 devices; "
    r"take data\.batch_size=4 or more, or fewer trainer\.devices",
    "trainer.strategy=ddp trainer.devices=3 data.batch_size=3": r"has 2 images, too few for each",
    "trainer.strategy=ddp trainer.devices=2 data.batch_size=3 model=mobilenet_v1": r"has 2 images, "
    r"too few for each of 2 devices; batch norm .*; take data\.batch_size=4 or more, or fewer",
    "trainer.strategy=fsdp": r"trainer\.strategy=fsdp: must be 'auto', 'ddp'",
    "trainer.strategy=deepspeed_stage_2": r"strategy=deepspeed_stage_2: must be 'auto', 'ddp'",
    "callbacks.last.save_on_train_epoch_end=false": r"callbacks\.last: .* end of each epoch",
    "+callbacks.last.every_n_train_steps=5": r"callbacks\.last: .* end of each epoch",
}


@pytest.mark.parametrize("typed", BAD_FOR_TORCH)
def test_bad_for_torch(
    typed: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = call("train", *typed.split())
    assert ended.status == 2
    assert re.fullmatch(rf"error: .*({BAD_FOR_TORCH[typed]}).*\n", ended.err), ended.err
    assert list(tmp_path.iterdir()) == []


EMPTY = {  # where a variable of the shell is not set
    "train": (
        *("resume", "-m seed=0,1 sweep", "-m seed=0,1 hydra.sweep.dir", "-m seed=0,1 resume"),
        *("hydra.run.dir", "data.dir", "optimizer.lr", "seed", "model.strides"),
        *("trainer.max_time", "callbacks.best.monitor", "callbacks.best.filename"),
        *("-m hydra.sweep.subdir", "trainer.devices"),
    ),
    "activations": ("run_dir", "run_dir=. out"),
    "evaluate": ("run_dir", "run_dir=. baseline", "run_dir=. split", "-m run_dir"),
    "export": ("run_dir", "run_dir=. format", "run_dir=. out", "run_dir=. hydra.run.dir"),
    "report": ("run_dir", "out", "hydra.run.dir"),
    "compare": ("run_dir", "out", "hydra.run.dir"),
    "predict": ("images", "images=a run_dir", "images=a onnx", "images=a out"),
    "search": ("search.name", "search.storage", "resume", "sweep", "hydra.run.dir"),
    "benchmark": ("data.dir", "hydra.run.dir"),
    "relu_collapse": ("hydra.run.dir",),
}


@pytest.mark.parametrize(
    ("command", "typed"), [(command, typed) for command, all_ in EMPTY.items() for typed in all_]
)
def test_empty(
    command: str, typed: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MNV2_DATA_DIR")
    *_, key = typed.split()
    for value in ("", "''") if typed in ("resume", "optimizer.lr", "run_dir") else ("",):
        ended = call(command, *f"{typed}={value}".split())
        assert ended.status == 2
        assert ended.err.startswith(f"error: {key} is empty; "), ended.err
        assert ended.err.count("\n") == 1
        assert ended.out == ""
        assert list(tmp_path.iterdir()) == []


def test_an_empty_variable_for_the_data_is_none(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MNV2_DATA_DIR", "")
    monkeypatch.setattr("mnv2_lightning.data.idx_files.user_cache_path", lambda _: tmp_path / "c")
    few = ("data.batch_size=50", "data.val_size=100", "hydra.run.dir=a")
    assert "put the four files, raw or .gz, into" in call("train", *few).err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "run_dir: a value is required"),
        (("run_dir=.",), "not a run's folder"),
        (("run_dir=none",), "there is no such folder"),
        (("none",), "none: not key=value; did you mean run_dir=none?"),
        (("run_dir=.", "test_time_augmentation={degree:7}"), "augmentation.degree: unknown key"),
        (("run_dir=.", "split=train"), "split=train: must be 'test' or 'val'"),
    ],
)
def test_bad_evaluate(args: tuple[str, ...], message: str, call: Call, tmp_path: Path) -> None:
    ended = call("evaluate", *args)
    assert ended.status == 2
    assert message in ended.err
    assert list(tmp_path.iterdir()) == []


def test_bad_recipe(call: Call, tmp_path: Path) -> None:
    """Of a part that takes an hour: told before it starts."""
    recipe = 'recipes=["experiment=fast optimizer.lr=-1"]'
    ended = call("benchmark", "parts=[time_to_accuracy]", recipe)
    assert ended.status == 2
    assert ended.err.startswith("error: recipes: optimizer.lr=-1: must be greater than 0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("train resume=a/checkpoints/last.ckpt", "resume=a"),
        ("evaluate run_dir=a/checkpoints/best.ckpt", "run_dir=a checkpoint=best"),
        ("evaluate run_dir='a/config.yaml'", "run_dir=a"),
        ("export run_dir=a/checkpoints/best.ckpt", "run_dir=a checkpoint=best"),
        ("predict run_dir=a/checkpoints/best.ckpt", "run_dir=a checkpoint=best"),
        ("report run_dir=a/config.yaml", "run_dir=a"),
    ],
)
def test_a_file_of_a_run_in_place_of_its_folder(
    typed: str, remedy: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        (tmp_path / "a" / name).touch()
    command, argument = typed.split()
    ended = call(command, argument)
    assert ended.status == 2
    assert ended.err == f"error: {argument}: lies in the folder of a run; type {remedy}\n"
    (tmp_path / "a" / "config.yaml").unlink()
    if "checkpoints" in typed:
        assert "is a file, and not in the folder of a run" in call(command, argument).err
