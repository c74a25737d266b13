"""The README's table of promises is made from the record of `make test-crash`."""

import json
from typing import Any

from tests.test_readme import README, ROOT


def promises(record: dict[str, Any]) -> tuple[list[str], str]:
    """The rows of the table of promises, and the sentence on their price."""
    cases = record["cases"]
    kills, window = cases["random_kills"], cases["kills_in_the_save_window"]
    cuts, ours = cases["power_cuts"], cases["kills_of_the_writer_ours"]
    stock, bare = cases["power_cuts_lightnings_writer"], cases["power_cuts_without_fsync"]
    moved = cases["kills_of_the_writer_moved"]
    mutated, strangers = cases["mutations"], cases["strangers"]
    sweep, search = cases["kills_of_a_sweep"], cases["kills_of_a_search"]
    shipped = [x for name, x in cases.items() if name.startswith("kills_of_experiment_")]
    ways = [x for name, x in cases.items() if name.startswith("ways_to_end")]
    equal = [x["runs_equal_to_the_bit"] for x in (kills, window)]
    equal += [x["resumed_equal"] for x in shipped]
    told = [
        (
            "killed at any instant, it goes on",
            f"{kills['kills']} random SIGKILLs of `train`, {window['kills']} while it wrote a "
            f"checkpoint, {sum(x['kills'] for x in shipped)} of the {len(shipped)} shipped "
            "experiments",
            f"at most {max(kills['most_epochs_lost'], window['most_epochs_lost'])} epoch lost; all "
            f"{sum(equal)} runs ended equal to the bit",
        ),
        (
            "however it ends and validates",
            f"{len(ways)} ways: by epochs, steps, time, early stopping; validation within and "
            f"between epochs; accumulation; EMA; each cut {ways[0]['cuts']} times in a row",
            f"{sum(x['resumed_equal'] for x in ways)} ended equal to the bit",
        ),
        (
            "and so do a sweep and a search",
            f"{sweep['kills']} SIGKILLs of a sweep of {sweep['runs']} runs, {search['kills']} of "
            f"{search['searches']} searches of {search['trials']} trials",
            "each ended with the numbers of one that was not; no run or trial twice",
        ),
        (
            "the writer may be killed",
            f"{ours['kills']} SIGKILLs of it alone",
            f"{ours['good']} left the last checkpoint (`shutil.move`: {moved['good']} of "
            f"{moved['kills']})",
        ),
        (
            "or fail at any point",
            f"{cases['failpoints']['cases']}: crash, full disk, I/O error",
            f"{cases['failpoints']['lost']} without a whole checkpoint of the last two epochs",
        ),
        (
            "or lose power",
            f"{cuts['cuts']} simulated cuts: what was not fsynced may be lost",
            f"{cuts['loaded']} went on (without fsync {bare['loaded']}, Lightning's writer "
            f"{stock['loaded']})",
        ),
        (
            "a damaged checkpoint is named, the newest whole one taken",
            f"{mutated['cases']} mutations: bits, pages, ends, another run's",
            f"{mutated['detected']} found",
        ),
        (
            "a stranger's run folder runs no code",
            f"{strangers['cases']} payloads in checkpoints and configs",
            f"{strangers['fired']} fired",
        ),
        (
            "MNIST itself, or a stop",
            f"{cases['corrupt_images']['cases']} corrupt files, "
            f"{cases['mirror_faults']['cases']} servers that failed",
            f"{cases['corrupt_images']['used']} used; healed where another source was there",
        ),
    ]
    spent, shares = cases["price"]["milliseconds"], cases["price"]["per_cent_of_an_epoch"]
    price = (
        f"The price: a checkpoint of the default network takes {spent['save_ours']:.1f} ms "
        f"(Lightning's writer: {spent['save_lightnings']:.1f}), two of them {shares['save']:.2f} % "
        f"of an epoch; metrics.csv on the disk {shares['metrics']:.2f} %; order and augmentation "
        f"that depend on nothing but seed and epoch {shares['exactness']:.2f} %; the watch for "
        f"divergence {shares['divergence']:.3f} %."
    )
    return [f"| {' | '.join(row)} |" for row in told], price


def test_promises_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "outputs/reliability/record.json").read_text())
    assert record["failed"] == []
    assert record["cases"]["two_resumes_in_a_row"]["resumed_equal"]
    assert not record["cases"]["torchs_shuffling"]["resumed_equal"]
    rows, price = promises(record)
    for row in rows:
        assert row in README
    assert price in " ".join(README.split())
