"""The nearest known key to a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """The text "; did you mean X?", or "" if no key or last part of a key is near."""
    candidates = list(right)
    parent, _, name = wrong.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in candidates if k.rpartition(".")[0] == parent}
    near = [siblings[k] for k in get_close_matches(name, siblings, 1, 0.6)]
    if not near:
        others = [key for key in candidates if key not in siblings.values()]
        near = get_close_matches(wrong, others, 1, 0.6)
    if not near:
        last = {key.rpartition(".")[2]: key for key in reversed(candidates)}
        near = [last[k] for k in get_close_matches(name, last, 1, 0.8)]
    return f"; did you mean {near[0]}?" if near else ""


def dotted_keys(config: Any, prefix: str = "") -> list[str]:
    """All keys of a nested dict as `a.b.c`, those of inner dicts included."""
    keys: list[str] = []
    if isinstance(config, dict):
        for key, value in config.items():
            if not str(key).startswith("_"):
                keys += [f"{prefix}{key}", *dotted_keys(value, f"{prefix}{key}.")]
    return keys
