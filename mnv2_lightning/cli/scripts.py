"""What starts a verb, as a console script or by `python -m`: it imports it, which takes time, when
it can be interrupted, and under the name that other processes know it by.
"""

import sys
from collections.abc import Callable
from importlib import import_module

from mnv2_lightning.system import signals, supervisor


def _script(verb: str) -> Callable[[], None]:
    def main() -> None:
        signals.end_at_once()
        if verb == "train" and any(x == "-m" or x.startswith("--mu") for x in sys.argv):
            supervisor.supervise()
        import_module(f"mnv2_lightning.{verb}").main()

    return main


train = _script("train")
evaluate = _script("evaluate")
benchmark = _script("benchmark")
devices = _script("devices")
report = _script("report")
search = _script("search")
relu_collapse = _script("relu_collapse")
