"""What was measured on a GPU, by tests/evidence/on_gpu.py."""

import re

from tests.evidence.markdown import RECORDS, page, prose, read, spread, table
from tests.evidence.results import result


def gpu() -> str:
    output = (RECORDS / "gpu" / "fast.txt").read_text(encoding="utf-8")
    accuracy = [float(found) for found in re.findall(r"test accuracy +([\d.]+) %\n", output)]
    seconds = [float(found) for found in re.findall(r"training +([\d.]+) s\n", output)]
    (versions,) = re.findall(r"python [\d.]+, (torch [\d.]+).*(lightning [\d.]+)", output)
    on_cpu, measured, rows = result("fast"), read(RECORDS / "gpu" / "speed.json"), []

    def busy(experiment: str, batch_size: int) -> str:
        """Milliseconds of the longest operators, of those of a step."""
        row = next(row for row in measured if row["overrides"] == f"experiment={experiment}")
        operators = sum(time for name, _, time in row["longest"] if name.startswith("aten::"))
        step = 1000 * batch_size / row["images_per_second"]
        return f"{operators / 1e4:.1f} of {step:.1f} ms"

    for row in measured:
        bare = row.get("bare_images_per_second")
        rows.append(
            [
                f"`{row['overrides']}`",
                f"{row['images_per_second']:,.0f}",
                f"{bare:,.0f}" if bare else "",
                f"{row['peak_gpu_bytes'] / 1e9:.2f} GB",
            ]
        )
    return page(
        "On a GPU",
        prose(f"""
        One NVIDIA H200, 16 cores of an Intel Xeon, Python 3.12, {", ".join(versions)}. The machine
        was lent for minutes: what is not here was not measured.
        """),
        prose(f"""
        `python -m mnv2_lightning.train -m experiment=fast seed=0,1,2,3,4`: {spread(accuracy)} %
        (n = {len(accuracy)}) in {spread(seconds, ".1f")} s of training, as
        [printed](fast.txt). On two CPU cores it is {on_cpu[1]} in {on_cpu[2]}.
        """),
        prose("""
        Training, 200 steps after a warm-up of 100, and a plain PyTorch loop with the same network
        and batches, without Lightning:
        """),
        table(("overrides", "images/s", "plain loop", "GPU memory"), rows),
        prose(f"""
        The longest operators take {busy("tutorial", 32)} of a step of the tutorial's network, and
        {busy("default", 128)} of the default's ([10 profiled steps](speed.json)); most of the rest
        is the CPU's time to launch kernels. So bf16-mixed, which launches more, made the tutorial's
        slower, and `classifier.channels_last=false` is faster although its kernels take longer.
        """),
        prose("""
        Training in 32-true, 16-mixed and bf16-mixed, a sweep, and the evaluation of a GPU's run on
        the CPU passed their tests (tests/test_gpu.py). That no step waits for the GPU was tested
        there and failed with EMA, where PyTorch's AveragedModel waits; ours no longer calls it, but
        was not run there again.
        """),
    )
