"""Speed: the benchmark, time to accuracy, several processes."""

from statistics import mean, median

from mnv2_lightning.reports import benchmark_tables
from mnv2_lightning.reports.benchmark_tables import TUTORIAL_IMAGES, rates
from tests.evidence.markdown import (
    RECORDS,
    Record,
    command,
    measured_on,
    page,
    prose,
    read,
    runs,
    spread,
    table,
)


def benchmark() -> str:
    record = read(RECORDS / "benchmark" / "benchmark.json")
    parts = record["parts"]
    parts["input_pipeline"] = parts.pop("feed")  # its name when the record was written
    (large, small), inference = parts["same_work"], parts["inference"][0]
    rows = [
        against(
            f"train the tutorial's network, {row['image_size']} px, batch {row['batch_size']}",
            row["sides"]["ours"],
            "the tutorial's code",
            row["sides"]["tutorial"],
        )
        for row in (large, small)
    ]
    rows += [
        against(
            "train the default network with progress bar, logs, checkpoints and EMA",
            parts["loop"]["trainer"],
            "a plain PyTorch loop with EMA",
            parts["loop"]["bare"],
        ),
        against(
            "the input pipeline alone, augmented",
            parts["input_pipeline"]["augmented"],
            "the training that it feeds",
            parts["input_pipeline"]["training"],
        ),
        against(
            "classify one image: batch norm folded, `torch.compile`",
            inference["sides"]["compiled"],
            "the network as it was trained",
            inference["sides"]["eager"],
        ),
    ]
    return page(
        "Speed",
        prose("""
        The benchmark measures the tutorial's code (torchvision's MNIST image by image, a plain
        loop, NCHW) and this project in fresh processes that take turns. It takes 14 to 25 minutes.
        """),
        command("python -m mnv2_lightning.benchmark"),
        prose(f"""
        {measured_on([record])} Medians of {record["pairs"]} pairs; the ratio is the median of the
        ratios of the pairs, with the smallest and the largest. A ratio whose range includes 1 is a
        tie.
        """),
        table(("", "images/s", "compared with", "images/s", "ratio"), rows),
        "## Why",
        "None of this changes what is computed, except for rounding:",
        prose("""
        - The memory format is `channels_last`.
        - malloc keeps freed memory instead of returning it to the system after each step.
        - The data set is one uint8 tensor on the training device, and is augmented there in whole
        batches.
        - Maps of 1 to 4 px, which PyTorch computes slowly, are computed another way
        (`networks/small_maps.py`).
        - SGD is one fused kernel.
        """),
        prose("""
        On an AMD EPYC with AVX2 (records in the git history) the first ratio was 3.72 to 4.72 at
        different hours, the second 3.74 and the third 0.95. GPUs were not measured.
        """),
        "![Images and operations per second over width, image size and batch](growth.png)",
        measurements(record),
    )


def against(what: str, side: list[Record], other: str, reference: list[Record]) -> list[str]:
    pairs = [a / b for a, b in zip(rates(side), rates(reference), strict=True)]
    form = ",.1f" if median(rates(side)) < 1_000 else ",.0f"
    return [
        what,
        f"{median(rates(side)):{form}}",
        other,
        f"{median(rates(reference)):{form}}",
        f"**{median(pairs):.2f}** ({min(pairs):.2f} to {max(pairs):.2f})",
    ]


def measurements(record: Record) -> str:
    """The tables that the command itself writes, less their title and machine."""
    return "## " + benchmark_tables.markdown(record).partition("\n## ")[2].strip()


def inference() -> str:
    record = read(RECORDS / "inference" / "benchmark.json")
    (one,) = (
        row["sides"]
        for row in record["parts"]["inference"]
        if row.get("files") and row["batch_size"] == 1
    )
    best = max(one, key=lambda name: median(rates(one[name])))
    return page(
        "Inference in each format",
        prose(f"""
        The network of one default run, of 28 px, in PyTorch and as exported files without the
        preparation of pictures. For single images {best} is fastest, with
        {median(rates(one[best])):,.0f} a second; for batches, PyTorch compiled. `export` says what
        int8 loses with other runs, [here](../export/README.md).
        """),
        command("python -m mnv2_lightning.benchmark 'parts=[inference]' trained=RUN_DIR"),
        measured_on([record]),
        measurements(record),
    )


PLAIN = "plain CNN"
GOALS = (  # test accuracy in %, and among which recipes
    (99.0, ""),
    (99.0, PLAIN),
    (99.19, ""),
    (99.19, PLAIN),
    (99.19, "more than 1 M parameters in 17 blocks"),
    (99.5, ""),
    (99.6, ""),
)


def time_to_accuracy() -> str:
    record = read(RECORDS / "time_to_accuracy" / "benchmark.json")
    part = dict(record["parts"]["time_to_accuracy"])
    rate = median(rates(part.pop("tutorial")))
    tutorial = TUTORIAL_IMAGES / rate
    rows = []
    for goal, among in GOALS:
        name = cheapest(part, goal, among)
        accuracy = [100 * run["test_accuracy"] for run in part[name]]
        seconds = training_seconds(part, name)
        rows.append(
            [
                f"{goal} %{f', {among}' if among else ''}",
                f"`{name}`" if "=" in name else name,
                spread(accuracy),
                f"{spread(seconds, '.0f')} s",
                f"{tutorial / mean(seconds):,.0f}",
                f"{part[name][0]['parameters']:,}",
            ]
        )
    ours, plain = (cheapest(part, 99.19, among) for among in ("", PLAIN))
    first = min((ours, plain), key=lambda name: mean(training_seconds(part, name)))
    return page(
        "Time to accuracy",
        prose(f"""
        How much training does it take to be as accurate as the tutorial, 99.19 %, and more? Each
        recipe was trained in full with {record["pairs"]} seeds, in turns, and the tutorial's code
        was timed in between: {rate:.1f} images/s, which is {tutorial:,.0f} s for its five epochs.
        It takes 55 minutes.
        """),
        command("python -m mnv2_lightning.benchmark 'parts=[time_to_accuracy]' pairs=5"),
        prose(f"""
        {measured_on([record])} Mean and standard deviation over seeds. Each row is the recipe with
        the least training among those whose mean reaches the goal; plain CNNs have rows of their
        own.
        """),
        table(
            ("goal", "recipe", "test accuracy, %", "training", "times as fast", "parameters"),
            rows,
        ),
        prose(f"""
        To 99.19 %, {f"`{first}`" if "=" in first else f"the {PLAIN}"} is the fastest. The plain CNN
        has two convolutions and two linear layers. `tutorial_fast` is the tutorial's own network at
        28 px. `accurate` averages over nine views of each test image, and its training time does
        not include that.
        """),
        prose("""
        On an AMD EPYC with AVX2 (record in the git history) all recipes took 1.6 times as long and
        the factors were the same; `accurate` without views had 99.56 ± 0.06 % there.
        """),
        measurements(record),
    )


def training_seconds(part: dict[str, list[Record]], name: str) -> list[float]:
    return [run["train_seconds"] for run in part[name]]


def cheapest(part: dict[str, list[Record]], goal: float, among: str) -> str:
    """The recipe with the least training whose mean, rounded as it is shown, reaches `goal`."""
    able = [
        name
        for name, found in part.items()
        if round(100 * mean(run["test_accuracy"] for run in found), 2) >= goal
        and name.startswith(PLAIN) == (among == PLAIN)
        and ("1 M" not in among or found[0]["parameters"] >= 1_000_000)
    ]
    return min(able, key=lambda name: mean(training_seconds(part, name)))


PROCESSES = (
    "python -m mnv2_lightning.train experiment=fast trainer.max_steps=600 "
    "trainer.limit_test_batches=0 callbacks.test_images=null"
)
WAYS = {  # by folder: what is added to PROCESSES, jobs at a time, processes per job, probable limit
    "single": ("", 1, 1, "too little work per image for two threads to share well"),
    "one": ("seed=0,1,2,3 -m", 1, 1, "the same"),
    "joblib": (
        "hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1,2,3 -m",
        2,
        1,
        "the cores",
    ),
    "ddp": (
        "trainer.accelerator=cpu trainer.strategy=ddp trainer.devices=2",
        1,
        2,
        "processes that wait for each other's gradients at each step (gloo)",
    ),
}


def processes() -> str:
    rows: list[list[str]] = []
    everything: list[Record] = []
    for name, (added, jobs, count, limit) in WAYS.items():
        folders = sorted((RECORDS / "processes").glob(f"{name}-*"))
        assert len(folders) == 2
        found = [run for folder in folders for run in runs(folder)]
        everything += found
        (threads,) = {run["hardware"]["threads"] for run in found}
        total = [jobs * run["images_per_second"] for run in found]
        rows.append(
            [
                f"`{added}`" if added else "nothing: one job",
                str(jobs),
                str(count),
                str(threads),
                f"{mean(total):,.0f} ({min(total):,.0f} to {max(total):,.0f})",
                limit,
            ]
        )
    (cost,) = {run["multiply_adds"] for run in everything}
    head = (
        "added to the command",
        "jobs at a time",
        "processes per job",
        "threads per process",
        "images/s in total",
        "probable limit",
    )
    return page(
        "Several jobs, several processes",
        prose(f"""
        `experiment=fast` for 600 steps on two cores, with nothing else running. Each way was
        measured twice. The total is the mean rate of a job, with the smallest and the largest,
        times the jobs that run at a time. The network has {cost / 1e6:.1f} M multiply-adds per
        image. The limits were not measured.
        """),
        command(PROCESSES),
        table(head, rows),
        prose(measured_on(everything)),
        prose("""
        Two commands that run at once on one CPU slow each other down unless each has
        `OMP_WAIT_POLICY=PASSIVE` in its environment.
        """),
        "## Launchers",
        prose("""
        - joblib divides the CPU's threads between its jobs and reserves a GPU for each. When the
        system kills a worker, the other workers end too, and the same command resumes the sweep.
        - `submitit_local` starts all jobs at once.
        - A process that dies ends its run, not the sweep. The reason is in `result.json`; under
        your own `torchrun` or `srun` it is on the terminal only.
        - All of this was tried on one machine. SLURM itself (its jobs ran by `submitit_local`),
        GPUs, and nodes that share no folder were not tried.
        """),
        "## Estimates for larger machines",
        prose("""
        These were calculated, not measured. Eight GPUs each hold the data set (55 MB) and the
        weights of the default network (0.5 MB), and a step moves 0.5 MB of gradients. Of a batch of
        128 each GPU gets 16 images, so the launch of kernels limits the speed, not the network:
        raise `data.batch_size` and `optimizer.lr` together, or run eight jobs.
        """),
        prose("""
        A sweep of a hundred jobs shares the folder of MNIST, which each job reads and checks in
        0.2 s, and the sweep's folder, which must be on a file system that all machines see. A job
        leaves 2 MB (`fast`) to 8 MB (`best`) there. The first limits are these: the command
        composes and checks all jobs one after the other before the first one starts, it must run
        until the last one has ended, and a study in SQLite is for one machine.
        """),
    )
