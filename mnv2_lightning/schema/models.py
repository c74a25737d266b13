"""One pydantic model for each part of a config: the type and range of every key.

`conf/` holds the values. A test compares both with the signatures of the classes. `schema/check.py`
makes the messages.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mnv2_lightning.data.sets import DATA_SETS, SIDE, TRAIN


def _number(value: Any) -> Any:
    """Python counts `true` as a number."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _no_overfit(value: float) -> float:
    if value:
        raise ValueError("must be 0: it takes images one by one; use trainer.limit_train_batches")
    return value


def _data_set(name: str) -> str:
    if name not in DATA_SETS:
        raise ValueError(f"must be one of {', '.join(DATA_SETS)}")
    return name


def _has_target(node: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node.get("_target_"), str):
        raise ValueError("must be a group of keys with a _target_")
    return node


def _devices(value: Any) -> Any:
    if value in (0, "0", "", []) and not isinstance(value, bool):
        raise ValueError("must be a number of devices, -1 for all, or a list of their indices")
    return value


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
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
UpToOne = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A limit of Lightning: a number of batches (int) or a fraction of them (float).
Batches = NonNegativeInt | Annotated[float, Field(ge=0.0, le=1.0)]
Stride = Literal[1, 2]
# Tuples of a fixed length, not strict because YAML has lists only.
StageRow = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt, Stride], Field(strict=False)]
LayerRow = Annotated[tuple[PositiveInt, Stride], Field(strict=False)]
Betas = Annotated[tuple[Fraction, Fraction], Field(strict=False)]
# Any node with a _target_; BY_TARGET may hold a model for it.
Node = Annotated[dict[str, Any], AfterValidator(_has_target)]


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TargetConfig(Config):
    target: str = Field(alias="_target_")


class PartialConfig(TargetConfig):
    partial: Literal[True] = Field(alias="_partial_")


class CommandConfig(Config):
    traceback: bool


class FolderConfig(CommandConfig):
    run_dir: str


class DataFolderConfig(Config):
    dir: str | None


class AffineConfig(Config):
    """Ranges of `data.affine`."""

    degrees: Annotated[Number, Field(ge=0, le=180)] = 0.0
    translate: UpToOne = 0.0
    scale: Fraction = 0.0
    shear: UpToOne = 0.0


class EvaluateConfig(FolderConfig):
    checkpoint: Literal["best", "last", "previous"] | None
    split: Literal["test", "val"]
    test_time_augmentation: AffineConfig | None
    data: DataFolderConfig
    accelerator: ACCELERATORS


BenchmarkPart = Literal[
    "limits",
    "same_work",
    "loop",
    "input_pipeline",
    "inference",
    "growth",
    "time_to_accuracy",
]


class BenchmarkConfig(FolderConfig):
    parts: Annotated[list[BenchmarkPart], Field(min_length=1)]
    pairs: PositiveInt
    warmup: PositiveInt
    steps: PositiveInt
    recipes: list[str]
    smoke: bool
    data: DataFolderConfig


class ReportConfig(CommandConfig):
    run_dir: str | None
    runs: Annotated[list[str], Field(min_length=1)] | None
    out: str


class ReluCollapseConfig(FolderConfig):
    dimensions: Annotated[list[Annotated[int, Field(ge=2, le=1000)]], Field(min_length=1)]
    points: Annotated[int, Field(ge=10, le=100_000)]
    matrices: Annotated[int, Field(ge=2, le=1_000_000)]
    seed: Seed


class MobileNetConfig(TargetConfig):
    in_channels: PositiveInt
    num_classes: Annotated[int, Field(ge=2)]
    stem_channels: PositiveInt
    width_mult: Annotated[Number, Field(gt=0, le=16)]
    round_nearest: PositiveInt
    dropout: Fraction
    init: Literal["torchvision", "pytorch"]


class MobileNetV1Config(MobileNetConfig):
    stem_stride: Stride
    layers: Annotated[list[LayerRow], Field(min_length=1)]


class MobileNetV2Config(MobileNetConfig):
    stem_kernel: Literal[3, 5, 7]
    stages: Annotated[list[StageRow], Field(min_length=1)]
    head_channels: PositiveInt
    expand_ratio: Positive | None
    expand_always: bool
    strides: Literal["28px", "32px", "224px"] | list[Stride] | None
    bottleneck_activation: Literal["linear", "relu6"]
    depthwise_activation: Literal["relu6", "none"]
    shortcut: Literal["identity", "projection", "none"]


class DataConfig(TargetConfig):
    """Keys of every data module; a user's own may have more."""

    model_config = ConfigDict(extra="allow")

    dataset: Annotated[str, AfterValidator(_data_set)]
    dir: str | None
    batch_size: Annotated[int, Field(ge=1, le=TRAIN)]
    val_size: Annotated[int, Field(ge=0, lt=TRAIN)]
    image_size: Annotated[int, Field(ge=4, le=1024)]
    classes: Annotated[list[str], Field(min_length=10, max_length=10)]


class MNISTConfig(DataConfig):
    model_config = ConfigDict(extra="forbid")

    crop: Annotated[int, Field(ge=4, le=SIDE)]
    mean: UpToOne
    std: Annotated[Number, Field(gt=0, le=1)]
    augment: AffineConfig
    seed: Seed


class ClassifierConfig(TargetConfig):
    label_smoothing: Fraction
    test_time_augmentation: AffineConfig | None = None  # older runs lack it
    channels_last: bool
    compile: bool


class OptimizerConfig(PartialConfig):
    lr: Positive
    weight_decay: NonNegative


class SGDConfig(OptimizerConfig):
    momentum: Fraction
    nesterov: bool
    fused: bool | None


class AdamWConfig(OptimizerConfig):
    betas: Betas
    eps: Positive


class RMSpropConfig(OptimizerConfig):
    alpha: Fraction
    eps: Positive
    momentum: Fraction


class WarmupConfig(PartialConfig):
    warmup: Fraction
    final: UpToOne


class ExponentialConfig(PartialConfig):
    decay: Annotated[Number, Field(gt=0, le=1)]


class TrainerConfig(TargetConfig):
    accelerator: ACCELERATORS
    strategy: STRATEGIES | Node
    devices: Annotated[
        Annotated[int, Field(ge=-1)] | str | list[NonNegativeInt], BeforeValidator(_devices)
    ]
    num_nodes: PositiveInt
    precision: PRECISIONS | None
    fast_dev_run: bool | NonNegativeInt
    max_epochs: Annotated[int, Field(ge=-1)] | None
    min_epochs: NonNegativeInt | None
    max_steps: Annotated[int, Field(ge=-1)]
    min_steps: NonNegativeInt | None
    max_time: str | dict[str, int] | None
    limit_train_batches: Batches | None
    limit_val_batches: Batches | None
    limit_test_batches: Batches | None
    limit_predict_batches: Batches | None
    overfit_batches: Annotated[float, AfterValidator(_no_overfit)]
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
    use_distributed_sampler: Literal[False]
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | Node | None
    detect_anomaly: bool
    barebones: Literal[False]
    plugins: str | Node | list[Node] | None
    sync_batchnorm: bool
    reload_dataloaders_every_n_epochs: NonNegativeInt
    enable_autolog_hparams: bool
    model_registry: str | None


class CheckpointConfig(TargetConfig):
    dirpath: str | None = None
    filename: str | None = None
    monitor: str | None = None
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


class EarlyStoppingConfig(TargetConfig):
    monitor: str
    min_delta: Number = 0.0
    patience: NonNegativeInt = 3
    verbose: bool = False
    mode: Literal["min", "max"] = "min"
    strict: bool = True
    check_finite: bool = True
    stopping_threshold: Number | None = None
    divergence_threshold: Number | None = None
    check_on_train_epoch_end: bool | None = None
    log_rank_zero_only: bool = False


class EMAConfig(TargetConfig):
    decay: Annotated[Number, Field(gt=0, lt=1)]


class ThroughputConfig(TargetConfig):
    warmup_steps: NonNegativeInt


class TestImagesConfig(TargetConfig):
    images: Annotated[int, Field(ge=1, le=400)]


class TrainConfig(FolderConfig):
    model: Node
    data: DataConfig
    classifier: Node
    optimizer: Node
    scheduler: Node
    trainer: TrainerConfig
    callbacks: dict[str, Node | None]
    logger: dict[str, Node | None]
    seed: Seed
    sweep: str | int | None
    resume: str | None
    overrides: list[str]
    command: str | None


class RangeConfig(Config):
    """Range of a searched parameter, an integer if both ends are."""

    low: Number
    high: Number
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
    name: str | int | None
    trials: PositiveInt
    seed: Seed
    storage: str | None
    space: Annotated[dict[str, Any], AfterValidator(_space)]
    sampler: Node
    pruner: Node


class SearchConfig(TrainConfig):
    search: StudyConfig


BY_COMMAND: dict[str, type[Config]] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "benchmark": BenchmarkConfig,
    "devices": CommandConfig,
    "relu_collapse": ReluCollapseConfig,
    "report": ReportConfig,
    "search": SearchConfig,
}
BY_TARGET: dict[str, type[Config]] = {
    "mnv2_lightning.networks.mobilenet_v2.MobileNetV2": MobileNetV2Config,
    "mnv2_lightning.networks.mobilenet_v1.MobileNetV1": MobileNetV1Config,
    "mnv2_lightning.data.datamodule.MNISTDataModule": MNISTConfig,
    "mnv2_lightning.classifier.Classifier": ClassifierConfig,
    "torch.optim.SGD": SGDConfig,
    "torch.optim.AdamW": AdamWConfig,
    "torch.optim.RMSprop": RMSpropConfig,
    "mnv2_lightning.schedules.constant": PartialConfig,
    "mnv2_lightning.schedules.linear": WarmupConfig,
    "mnv2_lightning.schedules.cosine": WarmupConfig,
    "mnv2_lightning.schedules.exponential": ExponentialConfig,
    "lightning.pytorch.Trainer": TrainerConfig,
    "mnv2_lightning.callbacks.model_checkpoint.Checkpoint": CheckpointConfig,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStoppingConfig,
    "mnv2_lightning.callbacks.ema.EMA": EMAConfig,
    "mnv2_lightning.callbacks.non_finite_guard.NonFiniteGuard": TargetConfig,
    "mnv2_lightning.callbacks.throughput.Throughput": ThroughputConfig,
    "mnv2_lightning.callbacks.test_images.TestImages": TestImagesConfig,
}
