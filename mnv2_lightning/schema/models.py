"""One pydantic model for each part of a config: the type and range of every key.

`conf/` holds the values. A test compares both with the signatures of the classes. `schema/check.py`
makes the messages.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    ValidationError,
)


def _must_be(what: str, is_valid: Callable[[Any], bool]) -> AfterValidator:
    """A validator for `Annotated`, with the end of the message "must be ..."."""

    def validate(value: Any) -> Any:
        if not is_valid(value):
            raise ValueError(what)
        return value

    return AfterValidator(validate)


# The strategies that were tested. FSDP and DeepSpeed shard parameters into 1-D tensors, which would
# all be without weight decay; XLA and DeepSpeed write checkpoints in their own way; spawned
# processes would not report the best checkpoint.
STRATEGIES = Literal[
    "auto",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
    "single_device",
]
PRECISIONS = Literal["16-mixed", "bf16-mixed", "32-true", "64-true", "16-true", "bf16-true"]
ACCELERATORS = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Text = Annotated[str, Field(min_length=1)]
PositiveInt = Annotated[int, Field(ge=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, lt=1)]
UpToOne = Annotated[FiniteFloat, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A limit of Lightning: a number of batches (int) or a fraction of them (float).
Batches = NonNegativeInt | Annotated[float, Field(ge=0.0, le=1.0)]
Pixels = Annotated[int, Field(ge=4, le=1024)]
Classes = Annotated[list[str], Field(min_length=2)]
Stride = Literal[1, 2]
# Tuples of a fixed length, not strict because YAML has lists only.
StageRow = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt, Stride], Field(strict=False)]
LayerRow = Annotated[tuple[PositiveInt, Stride], Field(strict=False)]
# Any node with a _target_; BY_TARGET may hold a model for it.
Node = Annotated[
    dict[str, Any],
    _must_be("a group of keys with a _target_", lambda node: isinstance(node.get("_target_"), str)),
]


def _require_names(nodes: Any) -> Any:
    if isinstance(nodes, dict) and "_target_" in nodes:
        raise ValueError("groups by name, such as {mine: {_target_: ...}}")
    return nodes


# Callbacks or loggers by name; null leaves one out.
Nodes = Annotated[dict[str, Node | None], BeforeValidator(_require_names)]
BY_COMMAND: dict[str, type["Config"]] = {}
BY_TARGET: dict[str, type["Config"]] = {}  # not every _target_ has a model


class Config(BaseModel, extra="forbid", strict=True, defer_build=True):
    """A group of keys. `command` or `target` in a class statement adds the class to a table."""

    def __init_subclass__(cls, *, command: str = "", target: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if command:
            BY_COMMAND[command] = cls
        if target:
            BY_TARGET[target] = cls


class TargetConfig(Config, target="mnv2_lightning.callbacks.non_finite_guard.NonFiniteGuard"):
    """The key of every node with a _target_, and the only one of NonFiniteGuard."""

    target: str = Field(alias="_target_")


class PartialConfig(TargetConfig, target="mnv2_lightning.schedules.constant"):
    """The keys of every partial node, and the only ones of `constant`."""

    partial: Literal[True] = Field(alias="_partial_")


class CommandConfig(Config, command="devices"):
    """The key of every command, and the only one of `devices`."""

    traceback: bool


class FolderConfig(CommandConfig):
    run_dir: Text


class DataFolderConfig(Config):
    dir: str | None


class AffineConfig(Config):
    """Ranges of `data.affine`."""

    degrees: Annotated[FiniteFloat, Field(ge=0, le=180)] = 0.0
    translate: UpToOne = 0.0
    scale: Fraction = 0.0
    shear: UpToOne = 0.0


# The kinds of `data.corruptions`.
Corruption = Literal[
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
]


class EvaluateConfig(FolderConfig, command="evaluate"):
    trust: list[str] | None
    checkpoint: Literal["best", "last", "previous"] | None
    split: Literal["test", "val"]
    corruptions: (
        Literal["all"] | Corruption | Annotated[list[Corruption], Field(min_length=1)] | None
    )
    baseline: Text | None
    test_time_augmentation: AffineConfig | None
    data: DataFolderConfig  # or a data set, which `check` checks by its class
    accelerator: ACCELERATORS


class ExportConfig(FolderConfig, command="export"):
    format: Literal["onnx", "executorch", "page"]
    quantize: Literal["none", "int8"]
    checkpoint: Literal["best", "last", "previous"] | None
    prepare: Literal["mnist", "plain"] | None
    max_loss: Annotated[FiniteFloat, Field(ge=0, le=100)]
    data: DataFolderConfig
    out: Text
    trust: list[str] | None


class ActivationsConfig(FolderConfig, command="activations"):
    checkpoint: Literal["best", "last", "previous"] | None
    images: Annotated[int, Field(ge=2)] | None
    data: DataFolderConfig
    out: Text
    trust: list[str] | None


BenchmarkPart = Literal[
    "limits", "same_work", "loop", "input_pipeline", "inference", "growth", "time_to_accuracy"
]


class BenchmarkConfig(FolderConfig, command="benchmark"):
    parts: Annotated[list[BenchmarkPart], Field(min_length=1)]
    pairs: PositiveInt
    warmup: PositiveInt
    steps: PositiveInt
    recipes: list[str]
    trained: Text | None
    smoke: bool
    data: DataFolderConfig


class ReportConfig(CommandConfig, command="report"):
    run_dir: Text | None
    runs: Annotated[list[Text], Field(min_length=1)] | None
    out: Text


class CompareConfig(ReportConfig, command="compare"):
    by: Annotated[list[Text], Field(min_length=1)] | None
    metric: Literal["val_accuracy", "test_accuracy", "corrupted_accuracy"] | None


class ReluCollapseConfig(FolderConfig, command="relu_collapse"):
    dimensions: Annotated[list[Annotated[int, Field(ge=2, le=1000)]], Field(min_length=1)]
    points: Annotated[int, Field(ge=10, le=100_000)]
    matrices: Annotated[int, Field(ge=2, le=1_000_000)]
    seed: Seed


class PredictConfig(CommandConfig, command="predict"):
    run_dir: Text | None
    onnx: Text | None
    images: Text | Annotated[list[Text], Field(min_length=1)]
    checkpoint: Literal["best", "last", "previous"] | None
    prepare: Literal["mnist", "plain"] | None
    photo: bool | None
    format: Literal["table", "csv", "json"]
    out: Text
    trust: list[str] | None


class MobileNetConfig(TargetConfig):
    in_channels: PositiveInt
    num_classes: Annotated[int, Field(ge=2)]
    stem_channels: PositiveInt
    width_mult: Annotated[FiniteFloat, Field(gt=0, le=16)]
    round_nearest: PositiveInt
    dropout: Fraction
    init: Literal["torchvision", "pytorch"]
    weights: Text | None = None  # older runs lack it


class MobileNetV1Config(MobileNetConfig, target="mnv2_lightning.networks.mobilenet_v1.MobileNetV1"):
    stem_stride: Stride
    layers: Annotated[list[LayerRow], Field(min_length=1)]


class MobileNetV2Config(MobileNetConfig, target="mnv2_lightning.networks.mobilenet_v2.MobileNetV2"):
    stem_kernel: Literal[3, 5, 7]
    stages: Annotated[list[StageRow], Field(min_length=1)]
    head_channels: PositiveInt
    expand_ratio: Positive | None
    expand_always: bool
    strides: Literal["28px", "32px", "224px"] | list[Stride] | None
    bottleneck_activation: Literal["linear", "relu6"]
    depthwise_activation: Literal["relu6", "none"]
    shortcut: Literal["identity", "projection", "none"]


class DataConfig(TargetConfig, extra="allow"):
    """The keys that describe the batches of every data module; its class may take others."""

    classes: Classes
    image_size: Pixels
    channels: PositiveInt = 1


class MNISTConfig(TargetConfig, target="mnv2_lightning.data.datamodule.MNISTDataModule"):
    dataset: Text
    dir: str | None
    batch_size: PositiveInt
    train_size: PositiveInt | None = None  # older runs lack it
    val_size: NonNegativeInt
    crop: Pixels
    image_size: Pixels
    classes: Classes
    mean: UpToOne
    std: Annotated[FiniteFloat, Field(gt=0, le=1)]
    augment: AffineConfig
    seed: Seed


class ClassifierConfig(TargetConfig, target="mnv2_lightning.classifier.Classifier"):
    label_smoothing: Fraction
    test_time_augmentation: AffineConfig | None = None  # older runs lack it
    channels_last: bool
    compile: bool


class OptimizerConfig(PartialConfig):
    lr: Positive
    weight_decay: NonNegative


class SGDConfig(OptimizerConfig, target="torch.optim.SGD"):
    momentum: Fraction
    nesterov: bool
    fused: bool | None


class AdamWConfig(OptimizerConfig, target="torch.optim.AdamW"):
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)]
    eps: Positive


class RMSpropConfig(OptimizerConfig, target="torch.optim.RMSprop"):
    alpha: Fraction
    eps: Positive
    momentum: Fraction


class WarmupConfig(PartialConfig, target="mnv2_lightning.schedules.linear"):
    warmup: Fraction
    final: UpToOne


class CosineConfig(WarmupConfig, target="mnv2_lightning.schedules.cosine"):
    """The keys of `linear`."""


class ExponentialConfig(PartialConfig, target="mnv2_lightning.schedules.exponential"):
    decay: Annotated[FiniteFloat, Field(gt=0, le=1)]


class TrainerConfig(TargetConfig, target="lightning.pytorch.Trainer"):
    accelerator: ACCELERATORS
    strategy: STRATEGIES | Node
    devices: Annotated[
        Annotated[int, Field(ge=-1)] | str | list[NonNegativeInt],
        _must_be(
            "a number of devices, -1 for all, or a list of their indices",
            lambda devices: devices not in (0, "0", "", []),
        ),
    ]
    num_nodes: PositiveInt
    precision: PRECISIONS | None
    fast_dev_run: bool | NonNegativeInt
    max_epochs: Annotated[int, Field(ge=-1)] | None
    min_epochs: NonNegativeInt | None
    max_steps: Annotated[int, Field(ge=-1)]
    min_steps: NonNegativeInt | None
    max_time: Text | dict[str, int] | None
    limit_train_batches: Batches | None
    limit_val_batches: Batches | None
    limit_test_batches: Batches | None
    limit_predict_batches: Batches | None
    overfit_batches: Annotated[
        float,
        _must_be("0: it takes images one by one; use trainer.limit_train_batches", lambda x: not x),
    ]
    val_check_interval: PositiveInt | UpToOne | None
    check_val_every_n_epoch: PositiveInt | None
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None
    log_every_n_steps: PositiveInt
    enable_checkpointing: bool
    enable_progress_bar: bool
    enable_model_summary: bool
    accumulate_grad_batches: PositiveInt
    gradient_clip_val: NonNegative | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    deterministic: bool | Literal["warn"] | None
    benchmark: bool | None
    inference_mode: bool
    use_distributed_sampler: bool
    profiler: Literal["simple", "advanced", "pytorch"] | Node | None
    detect_anomaly: bool
    barebones: Literal[False]
    plugins: None  # `build_trainer` sets the one for checkpoints
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: NonNegativeInt
    enable_autolog_hparams: bool
    model_registry: Text | None


class CheckpointConfig(TargetConfig, target="mnv2_lightning.callbacks.model_checkpoint.Checkpoint"):
    dirpath: Text | None = None
    filename: Text | None = None
    monitor: Text | None = None
    verbose: bool = False
    save_last: bool | Literal["link"] | None = None
    save_top_k: Annotated[int, Field(ge=-1)] = 1
    save_on_exception: bool = False
    save_weights_only: bool = False
    mode: Literal["min", "max"] = "min"
    auto_insert_metric_name: bool = True
    every_n_train_steps: NonNegativeInt | None = None
    train_time_interval: None = None  # a timedelta, which YAML lacks
    every_n_epochs: NonNegativeInt | None = None
    save_on_train_epoch_end: bool | None = None
    enable_version_counter: bool = True


class EarlyStoppingConfig(TargetConfig, target="lightning.pytorch.callbacks.EarlyStopping"):
    monitor: Text
    min_delta: FiniteFloat = 0.0
    patience: NonNegativeInt = 3
    verbose: bool = False
    mode: Literal["min", "max"] = "min"
    strict: bool = True
    check_finite: bool = True
    stopping_threshold: FiniteFloat | None = None
    divergence_threshold: FiniteFloat | None = None
    check_on_train_epoch_end: bool | None = None
    log_rank_zero_only: bool = False


class EMAConfig(TargetConfig, target="mnv2_lightning.callbacks.ema.EMA"):
    decay: Annotated[FiniteFloat, Field(gt=0, lt=1)]


class ThroughputConfig(TargetConfig, target="mnv2_lightning.callbacks.throughput.Throughput"):
    warmup_steps: NonNegativeInt


class TestImagesConfig(TargetConfig, target="mnv2_lightning.callbacks.test_images.TestImages"):
    images: Annotated[int, Field(ge=1, le=400)]


class TrainConfig(FolderConfig, command="train"):
    model: Node
    data: DataConfig
    classifier: Node
    optimizer: Node
    scheduler: Node
    trainer: TrainerConfig
    callbacks: Nodes
    logger: Nodes
    seed: Seed
    sweep: Text | int | None
    fail_fast: bool
    resume: Text | None
    trust: list[str] | None
    overrides: list[str]
    command: str | None
    weights_sha256: str | None = None  # older runs lack it


class RangeConfig(Config):
    """Range of a searched parameter, an integer if both ends are."""

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    step: Positive | None = None


def _space(space: dict[str, Any], path: str = "search.space") -> dict[str, Any]:
    """Check a tree of ranges and choices. ValueError: the message begins with the key."""
    if not space:
        raise ValueError(f"{path}: must hold a parameter at least")
    for name, node in space.items():
        key = f"{path}.{name}"
        if not isinstance(node, dict):
            raise ValueError(f"{key}: must be {{low, high}}, {{choices}} or a group of such keys")
        if "choices" in node:
            values = node["choices"]
            is_list = isinstance(values, list) and len(node) == 1 and len(values) > 1
            if not is_list or any(isinstance(value, dict | list) for value in values):
                raise ValueError(f"{key}.choices: must be a list of two values or more, alone")
        elif "low" in node or "high" in node:
            try:
                parameter = RangeConfig.model_validate(node)
            except ValidationError as error:
                first = error.errors()[0]
                at = ".".join(map(str, (key, *first["loc"])))
                raise ValueError(f"{at}: {first['msg'].lower()}") from None
            if not parameter.low < parameter.high:
                raise ValueError(f"{key}: low must be below high")
            if parameter.log and (parameter.step or parameter.low <= 0):
                raise ValueError(f"{key}: log must have low above 0 and no step")
        else:
            _space(node, key)
    return space


class StudyConfig(Config):
    name: Text | int | None
    trials: PositiveInt
    seed: Seed
    storage: Text | None
    space: Annotated[dict[str, Any], AfterValidator(_space)]
    sampler: Node
    pruner: Node


class SearchConfig(TrainConfig, command="search"):
    search: StudyConfig
