"""The nearest known key to a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def nearest(wrong: str, right: Iterable[str]) -> str | None:
    """The key that was meant, or None if no key, beginning or last part of a key is near."""
    candidates = [key for key in right if not wrong.startswith(f"{key}.")]
    parent, _, name = wrong.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in candidates if k.rpartition(".")[0] == parent}
    near = [siblings[k] for k in get_close_matches(name, siblings, 1, 0.75)]
    if not near and len(name) > 2:  # such as widht, for width_mult
        beginnings = {key[: len(name)]: siblings[key] for key in reversed(siblings)}
        near = [beginnings[k] for k in get_close_matches(name, beginnings, 1, 0.75)]
    if not near:
        near = [siblings[k] for k in get_close_matches(name, siblings, 1, 0.6)]
    if not near:
        others = [key for key in candidates if key not in siblings.values()]
        near = get_close_matches(wrong, others, 1, 0.6)
    if not near:
        last = {key.rpartition(".")[2]: key for key in reversed(candidates)}
        near = [last[k] for k in get_close_matches(name, last, 1, 0.8)]
    return near[0] if near else None


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """The text "; did you mean X?", or "" if nothing is near."""
    near = nearest(wrong, right)
    return f"; did you mean {near}?" if near else ""


def no_such_choice(group: str, choice: str, options: Iterable[str]) -> str:
    """The message for a file that a group of `conf/` lacks."""
    there = sorted(options)
    near = did_you_mean(choice, there)
    return f"{group}={choice}: there is none such{near} (there are: {', '.join(there)})"


def dotted_keys(config: Any, prefix: str = "") -> list[str]:
    """All keys of a nested dict as `a.b.c`, those of inner dicts included."""
    keys: list[str] = []
    if isinstance(config, dict):
        for key, value in config.items():
            if not str(key).startswith("_"):
                keys += [f"{prefix}{key}", *dotted_keys(value, f"{prefix}{key}.")]
    return keys
