"""`python -m mnv2_lightning` lists the commands."""

import sys

from mnv2_lightning.cli import answers, conf_files
from mnv2_lightning.schema.models import BY_COMMAND
from mnv2_lightning.schema.nearest import did_you_mean

USAGE = "python -m mnv2_lightning.COMMAND --help explains a command, and --version prints versions."


def main(arguments: list[str]) -> int:
    """Print the list, or what to type for a command; return the exit status."""
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h"):
        config = conf_files.Config([conf_files.config_dir()])
        rows = [f"  {name:<15}{config.summary(name)}" for name in sorted(BY_COMMAND)]
        return answers.show("\n".join(["Commands:", *rows, "", USAGE]))
    if first == "--version":
        return answers.show(answers.versions())
    if (name := first.replace("-", "_")) in BY_COMMAND:
        message = f"type python -m mnv2_lightning.{name}"
    else:
        message = f"there is no such command{did_you_mean(name, BY_COMMAND)}"
    print(f"error: {first}: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
