"""The networks of five runs in each format of `export`."""

from tests.evidence.markdown import RECORDS, command, page, prose, read, runs, spread, table

RUNS = {  # folder: what trained the run
    "default": "default",
    "fast": "`fast`",
    "tutorial": "`tutorial_fast`",
    "accurate": "`accurate`",
    "nano": "`nano`",
}
FORMATS = {"onnx": "ONNX", "executorch": "ExecuTorch", "page": "page"}


def exports() -> str:
    rows = []
    for name, run in RUNS.items():
        found = [read(path) for path in (RECORDS / "export" / name).glob("*.json")]
        found.sort(key=lambda record: (list(FORMATS).index(record["format"]), record["bytes"]))
        for record in found:
            assert record["images"] == 10_000
            assert (record["quantize"] != "none") == (record["largest_difference"] > 1e-4)
            rows.append(
                [
                    run,
                    f"{100 * record['torch_accuracy_plain']:.2f}",
                    f"{100 * record['torch_accuracy']:.2f}",
                    FORMATS[record["format"]] + (", int8" * (record["quantize"] == "int8")),
                    f"{100 * record['accuracy']:.2f}",
                    f"{100 * record['agreement']:.2f}",
                    f"{record['largest_difference']:.1e}",
                    f"{record['bytes']:,}",
                ]
            )
    seeds = runs(RECORDS / "export" / "nano")
    (parameters,) = {run["parameters"] for run in seeds}
    accuracies = [100 * run["test_accuracy"] for run in seeds]
    return page(
        "Exported networks",
        prose("""
        One run each, all 10,000 test images, one view of an image. Every file holds the preparation
        of pictures. "Agreement": the share of images to which the file and PyTorch give the same
        class. ONNX was run with and without its optimizer; the worse of both counts. The int8 files
        were calibrated on 500 training images.
        """),
        command("python -m mnv2_lightning.export run_dir=RUN_DIR format=onnx quantize=int8"),
        prose(f"""
        `nano` is the smallest network over 99.0 % that was found: {parameters:,} parameters,
        {spread(accuracies)} % over {len(accuracies)} seeds, of which the first is below. It was
        chosen on 10,000 held-out images, where it had 99.18 % (98.95 % after 30 epochs instead of
        60), and one of 2,570 parameters 98.26 % (30 epochs). The int8 file of another
        seed agreed with PyTorch on 99.83 % of the images; 99.8 % is the limit.
        """),
        table(
            [
                "run",
                "PyTorch, as in training, %",
                "PyTorch, prepared, %",
                "file",
                "accuracy, %",
                "agreement, %",
                "largest difference of a logit",
                "bytes",
            ],
            rows,
        ),
        "![The page, with a drawn digit](page.png)",
    )
