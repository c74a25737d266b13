"""One side of a comparison, in its own process: some settings hold for a whole process."""

import json
import subprocess
import sys
from importlib import import_module
from typing import Any


def run_side(name: str, **options: Any) -> dict[str, Any]:
    """Call a function of `benchmarks`, such as reference.tutorial_loop, in a new process.

    RuntimeError: it failed; the message is the last line of its standard error.
    """
    command = [sys.executable, "-m", "mnv2_lightning.benchmarks.side", name, json.dumps(options)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = ended.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{name}: {last[-1]}")
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    name, options = sys.argv[1:]
    module, _, function = name.partition(".")
    found = getattr(import_module(f"mnv2_lightning.benchmarks.{module}"), function)
    print(json.dumps(found(**json.loads(options))))


if __name__ == "__main__":
    main()
