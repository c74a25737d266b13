"""The tables: one model for each part of a config, with the type and range of every key.

`conf/` gives the values, these say what is allowed; a test holds both against the classes'
signatures. Messages come out of `schema/check.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mnv2_lightning.data.sets import DATA_SETS, SIDE, TRAIN


def _number(value: Any) -> Any:
    """`true` is no number, though Python counts it as one."""
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


def _named(node: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node.get("_target_"), str):
        raise ValueError("must be a group of keys with a _target_")
    return node


def _devices(value: Any) -> Any:
    if value in (0, "0", "", []) and not isinstance(value, bool):
        raise ValueError("must be a number of devices, -1 for all, or a list of their indices")
    return value


# Tested ones. Sharded parameters (FSDP, DeepSpeed) are one-dimensional, so that weight decay would
# leave out all of them; XLA and DeepSpeed write checkpoints in their own way; spawned processes
# would not report the best checkpoint.
STRATEGIES = Literal[
    "auto",
    "ddp",
    "ddp_find_unused_parameters_false",
    "ddp_find_unused_parameters_true",
    "single_device",
]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NonNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]  # 0 to 1, 1 left out
UpToOne = Annotated[Number, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A Lightning limit: a number of batches (int) or a share of them (float).
Batches = NonNegativeInt | Annotated[float, Field(ge=0.0, le=1.0)]
Stride = Literal[1, 2]
# YAML knows lists only, where these are of a fixed length.
StageRow = Annotated[tuple[PositiveInt, PositiveInt, PositiveInt, Stride], Field(strict=False)]
LayerRow = Annotated[tuple[PositiveInt, Stride], Field(strict=False)]
Betas = Annotated[tuple[Share, Share], Field(strict=False)]
# Its own table, if there is one, is in BY_TARGET.
Node = Annotated[dict[str, Any], AfterValidator(_named)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Targeted(Table):
    target: str = Field(alias="_target_")


class Partial(Targeted):
    partial: Literal[True] = Field(alias="_partial_")


class DataFolder(Table):
    dir: str | None


class Augment(Table):
    """Ranges of affine maps."""

    degrees: Annotated[Number, Field(ge=0, le=180)] = 0.0
    translate: UpToOne = 0.0
    scale: Share = 0.0
    shear: UpToOne = 0.0


class Evaluate(Table):
    run_dir: str
    checkpoint: Literal["best", "last", "previous"] | None
    split: Literal["test", "val"]
    test_time_augmentation: Augment | None
    data: DataFolder
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    traceback: bool


class Devices(Table):
    traceback: bool


class Benchmark(Table):
    parts: Annotated[
        list[
            Literal[
                "limits",
                "same_work",
                "loop",
                "input_pipeline",
                "inference",
                "growth",
                "time_to_accuracy",
            ]
        ],
        Field(min_length=1),
    ]
    pairs: PositiveInt
    warmup: PositiveInt
    steps: PositiveInt
    recipes: list[str]
    smoke: bool
    data: DataFolder
    run_dir: str
    traceback: bool


class Report(Table):
    run_dir: str | None
    runs: Annotated[list[str], Field(min_length=1)] | None
    out: str
    traceback: bool


class ReluCollapse(Table):
    dimensions: Annotated[list[Annotated[int, Field(ge=2, le=1000)]], Field(min_length=1)]
    points: Annotated[int, Field(ge=10, le=100_000)]
    matrices: Annotated[int, Field(ge=2, le=1_000_000)]
    seed: Seed
    run_dir: str
    traceback: bool


class MobileNetV2(Targeted):
    in_channels: PositiveInt
    num_classes: Annotated[int, Field(ge=2)]
    stem_channels: PositiveInt
    stem_kernel: Literal[3, 5, 7]
    stages: Annotated[list[StageRow], Field(min_length=1)]
    head_channels: PositiveInt
    expand_ratio: Positive | None
    expand_always: bool
    width_mult: Annotated[Number, Field(gt=0, le=16)]
    round_nearest: PositiveInt
    strides: Literal["28px", "32px", "224px"] | list[Stride] | None
    bottleneck_activation: Literal["linear", "relu6"]
    depthwise_activation: Literal["relu6", "none"]
    shortcut: Literal["identity", "projection", "none"]
    dropout: Share
    init: Literal["torchvision", "pytorch"]


class MobileNetV1(Targeted):
    in_channels: PositiveInt
    num_classes: Annotated[int, Field(ge=2)]
    stem_channels: PositiveInt
    stem_stride: Stride
    layers: Annotated[list[LayerRow], Field(min_length=1)]
    width_mult: Annotated[Number, Field(gt=0, le=16)]
    round_nearest: PositiveInt
    dropout: Share
    init: Literal["torchvision", "pytorch"]


class Data(Targeted):
    """What every data module has; one of the user's own may have more."""

    model_config = ConfigDict(extra="allow")

    dataset: Annotated[str, AfterValidator(_data_set)]
    dir: str | None
    batch_size: Annotated[int, Field(ge=1, le=TRAIN)]
    val_size: Annotated[int, Field(ge=0, lt=TRAIN)]
    image_size: Annotated[int, Field(ge=4, le=1024)]
    classes: Annotated[list[str], Field(min_length=10, max_length=10)]


class MNISTDataModule(Data):
    model_config = ConfigDict(extra="forbid")

    crop: Annotated[int, Field(ge=4, le=SIDE)]
    mean: UpToOne
    std: Annotated[Number, Field(gt=0, le=1)]
    augment: Augment
    seed: Seed


class Classifier(Targeted):
    label_smoothing: Share
    test_time_augmentation: Augment | None = None  # None: a run from before there was such
    channels_last: bool
    compile: bool


class SGD(Partial):
    lr: Positive
    momentum: Share
    nesterov: bool
    fused: bool | None
    weight_decay: NonNegative


class AdamW(Partial):
    lr: Positive
    betas: Betas
    eps: Positive
    weight_decay: NonNegative


class RMSprop(Partial):
    lr: Positive
    alpha: Share
    eps: Positive
    momentum: Share
    weight_decay: NonNegative


class Warmup(Partial):
    warmup: Share
    final: UpToOne


class Exponential(Partial):
    decay: Annotated[Number, Field(gt=0, le=1)]


class Trainer(Targeted):
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    strategy: STRATEGIES | Node
    devices: Annotated[
        Annotated[int, Field(ge=-1)] | str | list[NonNegativeInt], BeforeValidator(_devices)
    ]
    num_nodes: PositiveInt
    precision: (
        Literal[
            "16-mixed",
            "bf16-mixed",
            "32-true",
            "64-true",
            "16-true",
            "bf16-true",
            "transformer-engine",
            "transformer-engine-float16",
            16,
            32,
            64,
            "16",
            "32",
            "64",
            "bf16",
        ]
        | None
    )
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


class ModelCheckpoint(Targeted):
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
    train_time_interval: None = None  # a timedelta, which YAML does not have
    every_n_epochs: NonNegativeInt | None = None
    save_on_train_epoch_end: bool | None = None
    enable_version_counter: bool = True


class EarlyStopping(Targeted):
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


class EMA(Targeted):
    decay: Annotated[Number, Field(gt=0, lt=1)]


class Throughput(Targeted):
    warmup_steps: NonNegativeInt


class TestImages(Targeted):
    images: Annotated[int, Field(ge=1, le=400)]


class Train(Table):
    model: Node
    data: Data
    classifier: Node
    optimizer: Node
    scheduler: Node
    trainer: Trainer
    callbacks: dict[str, Node | None]
    logger: dict[str, Node | None]
    seed: Seed
    sweep: str | int | None
    resume: str | None
    traceback: bool
    run_dir: str
    overrides: list[str]


class Range(Table):
    """Of a parameter that is searched for; integers where both ends are."""

    low: Number
    high: Number
    log: bool = False
    step: Positive | None = None


def _space(space: dict[str, Any], path: str = "search.space") -> dict[str, Any]:
    """A tree of ranges and choices. ValueError: begins with the key."""
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
                end = Range.model_validate(node)
            except ValidationError as error:
                first = error.errors()[0]
                at = ".".join(map(str, (key, *first["loc"])))
                raise ValueError(f"{at}: {first['msg'].lower()}") from None
            if not end.low < end.high:
                raise ValueError(f"{key}: low must be below high")
            if end.log and (end.step or end.low <= 0):
                raise ValueError(f"{key}: log must have low above 0 and no step")
        else:
            _space(node, key)
    return space


class Searched(Table):
    name: str | int | None
    trials: PositiveInt
    seed: Seed
    storage: str | None
    space: Annotated[dict[str, Any], AfterValidator(_space)]
    sampler: Node
    pruner: Node


class Search(Train):
    search: Searched


BY_VERB: dict[str, type[Table]] = {
    "train": Train,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "devices": Devices,
    "relu_collapse": ReluCollapse,
    "report": Report,
    "search": Search,
}
BY_TARGET: dict[str, type[Table]] = {
    "mnv2_lightning.networks.mobilenet_v2.MobileNetV2": MobileNetV2,
    "mnv2_lightning.networks.mobilenet_v1.MobileNetV1": MobileNetV1,
    "mnv2_lightning.data.datamodule.MNISTDataModule": MNISTDataModule,
    "mnv2_lightning.classifier.Classifier": Classifier,
    "torch.optim.SGD": SGD,
    "torch.optim.AdamW": AdamW,
    "torch.optim.RMSprop": RMSprop,
    "mnv2_lightning.schedules.constant": Partial,
    "mnv2_lightning.schedules.linear": Warmup,
    "mnv2_lightning.schedules.cosine": Warmup,
    "mnv2_lightning.schedules.exponential": Exponential,
    "lightning.pytorch.Trainer": Trainer,
    "mnv2_lightning.callbacks.model_checkpoint.Checkpoint": ModelCheckpoint,
    "lightning.pytorch.callbacks.EarlyStopping": EarlyStopping,
    "mnv2_lightning.callbacks.ema.EMA": EMA,
    "mnv2_lightning.callbacks.non_finite_guard.NonFiniteGuard": Targeted,
    "mnv2_lightning.callbacks.throughput.Throughput": Throughput,
    "mnv2_lightning.callbacks.test_images.TestImages": TestImages,
}
