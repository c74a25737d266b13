"""Checks of a composed config: keys, types, ranges, and values that must fit together."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mnv2_lightning.data.sets import DATA_SETS, DIGITS, OWN_FILES, SIDE, TRAIN
from mnv2_lightning.networks.strides import resolve_strides
from mnv2_lightning.schema.errors import ConfigError, empty
from mnv2_lightning.schema.models import (
    BY_COMMAND,
    BY_TARGET,
    CheckpointConfig,
    Config,
    MNISTConfig,
    MobileNetConfig,
    MobileNetV2Config,
    SGDConfig,
    WarmupConfig,
)
from mnv2_lightning.schema.nearest import did_you_mean, dotted_keys

# Metrics that a callback can monitor.
METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
# Why some networks cannot train on one image.
BATCH_NORM = "batch norm needs two values a channel or more, and one image leaves it a map of 1 x 1"
# Names of pydantic's error types in messages.
TYPES = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a group of keys",
    "none_required": "null",
    "model_type": "a group of keys",
}


def check(command: str, config: dict[str, Any]) -> None:
    """Check the composed and resolved config of a job. ConfigError: a message of one line."""
    keys, own = dotted_keys(config), config
    if command == "evaluate" and "_target_" in config["data"]:
        own = config | {"data": {"dir": None}}
    validate(BY_COMMAND[command], own, "", keys)
    for path, node in targeted_nodes(config):
        if (model := BY_TARGET.get(str(node["_target_"]))) is not None:
            validate(model, node, f"{path}.", keys)
    if command in ("train", "search"):
        _check_fit(config)
        _check_callbacks(config)


def targeted_nodes(config: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted path, dict) of every node of a config that has a `_target_`."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from targeted_nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from targeted_nodes(value, f"{path}.{index}")


def validate(
    model: type[BaseModel], node: dict[str, Any], prefix: str, others: Iterable[str] = ()
) -> None:
    """ConfigError: a line about the first wrong key; the errors of a union are joined by "or".

    `prefix`: of the model's keys. `others`: further keys that the user may have meant.
    """
    try:
        model.model_validate(node)
        return
    except ValidationError as error:
        errors = error.errors()
    path = _real_path(errors[0], node)
    key = prefix + ".".join(map(str, path))
    same = [e for e in errors if _real_path(e, node)[: len(path)] == path]
    kinds = {e["type"] for e in same}
    if "extra_forbidden" in kinds:
        known = [f"{prefix}{field.alias or name}" for name, field in model.model_fields.items()]
        near = did_you_mean(key, [k for k in (*known, *others) if k != key])
        if not near and not others:
            near = f" (there are: {', '.join(known) or 'none'})"
        raise ConfigError(f"{key}: unknown key{near}")
    if "missing" in kinds:
        raise ConfigError(f"{key}: a value is required")
    if errors[0]["input"] == "":
        raise empty(key)
    must = " or ".join(dict.fromkeys(_must_be(e) for e in same))
    if must.startswith((f"{key}.", f"{key}: ")):  # it names a key below this one
        raise ConfigError(must)
    value = errors[0]["input"]
    if isinstance(value, dict):
        value = "a group of keys"
    elif value is None or isinstance(value, bool):
        value = json.dumps(value)
    raise ConfigError(f"{key}={value}: must be {must}")


def _real_path(error: ErrorDetails, node: Any) -> tuple[int | str, ...]:
    """The path to a wrong value in the config, without the union branches pydantic adds."""
    loc = error["loc"]
    if error["type"] == "missing" and len(loc) > 1:
        return (*_real_path({**error, "type": "", "loc": loc[:-1]}, node), loc[-1])
    for depth, step in enumerate(loc):
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            return loc[:depth] or loc
    return loc


def _must_be(error: ErrorDetails) -> str:
    if error["type"] in TYPES:
        return TYPES[error["type"]]
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def _check_fit(config: dict[str, Any]) -> None:
    """ConfigError: values that are valid, but not together."""
    data, model = config["data"], config["model"]
    optimizer, trainer = config["optimizer"], config["trainer"]
    last_map = None  # size of the last maps in px, if it is known
    if issubclass(_kind(model), MobileNetConfig):
        last_map = _check_mobilenet(model, data)
    if has_idx_files(data):
        _check_idx_files(data)
        if trainer["use_distributed_sampler"]:
            raise ConfigError(
                "trainer.use_distributed_sampler=true: must be false; the data module splits "
                "batches between ranks"
            )
        if data["dataset"] in DATA_SETS:
            check_batches(config, TRAIN, needs_two=BATCH_NORM if last_map == 1 else None)
    endless = trainer["max_epochs"] in (None, -1) and trainer["max_steps"] == -1
    if endless and not trainer["max_time"]:
        raise ConfigError(
            "trainer.max_epochs=-1: training would never end; "
            "set it, trainer.max_steps or trainer.max_time"
        )
    if endless and issubclass(_kind(config["scheduler"]), WarmupConfig):
        raise ConfigError(
            "trainer.max_epochs=-1: a schedule that warms up and falls needs to know the end; "
            "set trainer.max_epochs, trainer.max_steps or scheduler=constant"
        )
    if _kind(optimizer) is SGDConfig and optimizer["nesterov"] and optimizer["momentum"] == 0:
        raise ConfigError("optimizer.nesterov=true: needs optimizer.momentum above 0")
    clips = trainer["gradient_clip_val"] and trainer["precision"] == "16-mixed"
    if optimizer.get("fused") and clips:
        raise ConfigError(
            "optimizer.fused=true: cannot clip gradients in 16-mixed; set optimizer.fused=null"
        )


def has_idx_files(data: Mapping[Any, Any]) -> bool:
    """Whether the data module is ours, which reads files of MNIST's format."""
    return BY_TARGET.get(data["_target_"]) is MNISTConfig


def _check_idx_files(data: dict[str, Any]) -> None:
    """ConfigError: values that do not fit a listed data set, or no folder of another one."""
    name, classes = data["dataset"], len(data["classes"])
    if name == DIGITS:
        raise ConfigError(f"data.dataset={DIGITS}: has test images only; it is for evaluate")
    if name not in DATA_SETS:
        if data["dir"] is None:
            if name in OWN_FILES:
                raise ConfigError(f"data.dir: must hold the four files of {name}: data.dir=PATH")
            raise ConfigError(
                f"data.dataset={name}: must be one of {', '.join(DATA_SETS)}, or data.dir=PATH "
                f"hold its four files{did_you_mean(name, DATA_SETS)}"
            )
    elif classes != 10:
        raise ConfigError(f"data.classes: has {classes} names; {name} has 10 classes")
    elif data["crop"] > SIDE:
        raise ConfigError(f"data.crop={data['crop']}: must be less than or equal to {SIDE}")


def _check_callbacks(config: dict[str, Any]) -> None:
    """ConfigError: a callback watches what is not logged, or no exact resuming from `last`."""
    data, trainer, callbacks = config["data"], config["trainer"], config["callbacks"]
    off = "data.val_size=0" if data.get("val_size") == 0 else "trainer.limit_val_batches=0"
    validates = data.get("val_size") != 0 and trainer["limit_val_batches"] != 0
    nodes = [config["classifier"], *filter(None, callbacks.values())]
    is_ours = all(node["_target_"].startswith(("mnv2_lightning.", "lightning.")) for node in nodes)
    for name, node in callbacks.items():
        monitor = node and node.get("monitor")
        if not isinstance(monitor, str):
            continue
        if is_ours and monitor not in METRICS:
            raise ConfigError(
                f"callbacks.{name}.monitor={monitor}: nothing is logged by that name"
                f"{did_you_mean(monitor, METRICS)} (there are: {', '.join(METRICS)})"
            )
        stops = node["_target_"].endswith("EarlyStopping")
        if stops and not validates and monitor.startswith("val/"):
            raise ConfigError(
                f"callbacks.{name}: watches {monitor}, and {off} leaves nothing to validate on"
            )
    last = callbacks.get("last")
    if trainer["enable_checkpointing"] and callbacks and not last:
        raise ConfigError(
            "callbacks: without `last` no run can be resumed; callbacks=[default,NAME] adds to the "
            "default ones, trainer.enable_checkpointing=false does without checkpoints, and "
            "callbacks=[] without any callback"
        )
    if last and _kind(last) is CheckpointConfig:
        by_epoch = last.get("save_on_train_epoch_end") and not last.get("every_n_train_steps")
        if not by_epoch or last.get("monitor"):
            raise ConfigError(
                "callbacks.last: a run resumes from it, so it is written at the end of each epoch "
                "(save_on_train_epoch_end: true, monitor: null); give other checkpoints another "
                "name"
            )


def check_batches(
    config: dict[str, Any], images: int, devices: int = 1, *, needs_two: str | None = None
) -> None:
    """ConfigError: a batch or the validation takes more than all training images, or one of
    `devices` gets no image of the smallest batch, or only one.

    `needs_two`: why the network cannot train on one image; None if it can.
    """
    data, trainer = config["data"], config["trainer"]
    count, batch_size = images - data["val_size"], data["batch_size"]
    if count < 1:
        raise ConfigError(f"data.val_size={data['val_size']}: must be less than {images}")
    size_key, of = "data.val_size", f"that data.val_size={data['val_size']} leaves"
    if (train_size := data.get("train_size")) is not None:
        if train_size > count:
            raise ConfigError(f"data.train_size={train_size}: there are {count} images {of}")
        size_key, count, of = "data.train_size", train_size, f"of data.train_size={train_size}"
    if batch_size > count:
        raise ConfigError(
            f"data.batch_size={batch_size}: larger than the {count} training images {of}"
        )
    smallest, least = smallest_batch(count, batch_size), devices * (2 if needs_two else 1)
    if smallest >= least:
        return
    few = f"the smallest batch has {smallest} image{'s' if smallest > 1 else ''}"
    if devices > 1:
        few += f", too few for each of {devices} devices"
    sizes = range(batch_size + 1, count + 1)
    enough = next((size for size in sizes if smallest_batch(count, size) >= least), None)
    other = "a smaller data.val_size" if size_key == "data.val_size" else "a larger data.train_size"
    remedies = [f"data.batch_size={enough} or more"] if enough else [other]
    if enough and batch_size >= least:
        remedies.append(f"another {size_key}")
    if devices > 1:
        remedies.append(f"fewer trainer.{'devices' if trainer['num_nodes'] == 1 else 'num_nodes'}")
    name = size_key.removeprefix("data.")
    key = f"data.batch_size={batch_size}" if enough else f"{size_key}={data[name]}"
    why = f"; {needs_two}" if needs_two else ""
    raise ConfigError(f"{key}: {few}{why}; take {', or '.join(remedies)}")


def smallest_batch(count: int, batch_size: int) -> int:
    """Size of the smallest batch that `data.batches.Batches` makes of `count` indices."""
    return count // -(-count // batch_size)


def _kind(node: dict[str, Any]) -> type[Config]:
    """The model of a node; Config if there is none for its class."""
    return BY_TARGET.get(node["_target_"], Config)


def _check_mobilenet(model: dict[str, Any], data: dict[str, Any]) -> int:
    """The size of the last maps in px.

    ConfigError: other classes or channels than the images', strides that do not fit the stages, or
    several strides that meet a map of 1 px.
    """
    classes, channels, image_size = (
        len(data["classes"]),
        data.get("channels", 1),
        data["image_size"],
    )
    for key, value, there in (
        ("num_classes", classes, f"the data set has {classes} classes"),
        ("in_channels", channels, f"the images have {channels} channel{'s' * (channels > 1)}"),
    ):
        if model[key] != value:
            raise ConfigError(f"model.{key}={model[key]}: {there}")
    if _kind(model) is MobileNetV2Config:
        try:
            strides = resolve_strides(model["stages"], model["strides"])
        except ValueError as error:
            raise ConfigError(f"model.{error}") from None
    else:
        strides = (model["stem_stride"], *(stride for _, stride in model["layers"]))
    size, idle = image_size, 0
    for stride in strides:
        idle += stride > 1 and size == 1
        size = -(-size // stride)
    if idle > 1:
        raise ConfigError(
            f"data.image_size={image_size}: too small for the strides {list(strides)}, {idle} of "
            "which would meet a map of 1 px; take a larger image or smaller strides"
        )
    return size
