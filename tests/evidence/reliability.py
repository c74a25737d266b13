"""Fault injection: how often each fault was tried, and the result."""

from tests.evidence.markdown import ROOT, Record, command, measured_on, prose, read, table
from tests.evidence.markdown import page as page_of

WAY, EXPERIMENT = "ways_to_end, ", "kills_of_experiment_"  # how names of several cases begin


def page() -> str:
    record = read(ROOT / "outputs" / "reliability" / "record.json")
    assert record["failed"] == []
    cases = record["cases"]
    assert cases["two_resumes_in_a_row"]["resumed_equal"]
    assert not cases["torchs_shuffling"]["resumed_equal"]
    ways, experiments = named(cases, WAY), named(cases, EXPERIMENT)
    (cuts,) = {way["cuts"] for way in ways.values()}
    (kills,) = {experiment["kills"] for experiment in experiments.values()}
    return page_of(
        "Reliability",
        prose("""
        `make test-crash` injects faults (SIGKILL, power loss, full disks, corrupt files) into the
        real commands and writes `record.json`, in about 30 minutes. The tests try a part of that at
        every commit.
        """),
        command("make test-crash"),
        table(("property", "fault", "result"), promises(cases)),
        prose(measured_on([record])),
        "## What resuming restores",
        prose("""
        On a CPU a run that was interrupted and resumed ends with the same bits as one that was not:
        weights, averaged weights, optimizer, schedule, metrics and the choice of the best
        checkpoint. A run of two processes is as exact as a run of one. An epoch that was
        interrupted is trained again from its start. With torch's own shuffling in place of ours a
        resumed run differs.
        """),
        prose(f"""
        Each of these {len(ways)} ways for a run to end and to validate was interrupted {cuts} times
        in a row: {"; ".join(ways)}.
        """),
        prose(f"""
        Each of the shipped experiments, reduced to a narrow network, 28 px and 5 batches per epoch,
        was killed {kills} times in a row and resumed:
        {", ".join(f"`{name}`" for name in experiments)}.
        """),
        "## What stops a run",
        prose("""
        A NaN or infinite loss stops the run before a checkpoint holds its consequences. A run whose
        MNIST cannot be downloaded or is not MNIST stops with instructions for a manual download.
        """),
        "## The price",
        prose(price(cases["price"])),
    )


def named(cases: Record, prefix: str) -> dict[str, Record]:
    """The cases whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): case for name, case in cases.items() if name.startswith(prefix)
    }


def total(cases: dict[str, Record], key: str) -> int:
    return sum(case[key] for case in cases.values())


def promises(cases: Record) -> list[list[str]]:
    """Rows of property, fault and result."""
    kills, window = cases["random_kills"], cases["kills_in_the_save_window"]
    ways, experiments = named(cases, WAY), named(cases, EXPERIMENT)
    sweep, search = cases["kills_of_a_sweep"], cases["kills_of_a_search"]
    writer, moved = cases["kills_of_the_writer_ours"], cases["kills_of_the_writer_moved"]
    power, bare = cases["power_cuts"], cases["power_cuts_without_fsync"]
    stock, mutated = cases["power_cuts_lightnings_writer"], cases["mutations"]
    harmless = f", {count} without effect" if (count := mutated.get("harmless")) else ""
    equal = kills["runs_equal_to_the_bit"] + window["runs_equal_to_the_bit"]
    equal += total(experiments, "resumed_equal")
    return [
        [
            "a killed run resumes bit-exactly",
            f"{kills['kills']} SIGKILLs of `train` at random times, {window['kills']} while it "
            f"wrote a checkpoint, {total(experiments, 'kills')} of the {len(experiments)} shipped "
            "experiments, reduced in size",
            f"at most {max(kills['most_epochs_lost'], window['most_epochs_lost'])} epoch lost; all "
            f"{equal} runs ended with the same bits",
        ],
        [
            "so it does however it ends and validates",
            f"{len(ways)} ways, each interrupted {max(way['cuts'] for way in ways.values())} times "
            "in a row: epochs, steps, time, early stopping; validation within and between epochs; "
            "accumulation; EMA",
            f"{total(ways, 'resumed_equal')} ended with the same bits",
        ],
        [
            "a killed sweep or search resumes",
            f"{sweep['kills']} SIGKILLs of a sweep of {sweep['runs']} runs, {search['kills']} of "
            f"{search['searches']} searches of {search['trials']} trials",
            "the same results as without; no run or trial twice",
        ],
        [
            "the checkpoint writer may be killed",
            f"{writer['kills']} SIGKILLs of the writer alone",
            f"{writer['good']} left the last checkpoint whole (`shutil.move`: {moved['good']} of "
            f"{moved['kills']})",
        ],
        [
            "it may fail at any file operation",
            f"{cases['failpoints']['cases']:,} crashes, full disks and I/O errors",
            f"{cases['failpoints']['lost']} without a whole checkpoint of the last two epochs",
        ],
        [
            "the power may fail",
            f"{power['cuts']} simulated power cuts that may lose what was not fsynced",
            f"{power['loaded']} resumed (without fsync {bare['loaded']}, Lightning's writer "
            f"{stock['loaded']})",
        ],
        [
            "a damaged checkpoint is named, and the newest whole one is used",
            f"{mutated['cases']} mutations: bits, pages, truncation, another run's file",
            f"{mutated['detected']} detected" + harmless,
        ],
        [
            "a run directory from a stranger runs no code",
            f"{cases['strangers']['cases']} payloads in checkpoints and configs",
            f"{cases['strangers']['fired']} executed",
        ],
        [
            "training never uses wrong data",
            f"{cases['corrupt_images']['cases']} corrupt files, "
            f"{cases['mirror_faults']['cases']} failing servers",
            f"{cases['corrupt_images']['used']} used; repaired where another source was available",
        ],
    ]


def price(measured: Record) -> str:
    spent, shares = measured["milliseconds"], measured["per_cent_of_an_epoch"]
    return f"""
        Writing a checkpoint of the default network takes {spent["save_ours"]:.1f} ms (Lightning's
        writer: {spent["save_lightnings"]:.1f} ms). Of an epoch, two checkpoints take
        {shares["save"]:.2f} %, writing metrics.csv to the disk {shares["metrics"]:.2f} %, order and
        augmentation that depend on seed and epoch only {shares["exactness"]:.2f} %, and the check
        for a NaN or infinite loss {shares["divergence"]:.3f} %.
        """
