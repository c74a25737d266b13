"""Strides of the stem and the stages. Imports no torch, for the checks of configs."""

from collections.abc import Sequence

# Strides of the stem and of seven stages. The ImageNet strides, 224px, would shrink an image of
# 28 px to a 1x1 map before the last stages; the others end with 4x4.
STRIDES = {
    "28px": (2, 1, 1, 2, 1, 1, 2, 1),  # 14 14 14 7 7 7 4 4
    "32px": (1, 1, 2, 2, 2, 1, 1, 1),  # 32 32 16 8 4 4 4 4
    "224px": (2, 1, 2, 2, 2, 1, 2, 1),  # the paper's: 112 112 56 28 14 14 7 7
}


def resolve_strides(
    stages: Sequence[Sequence[int]], strides: str | Sequence[int] | None
) -> tuple[int, ...]:
    """The strides of the stem and of each stage. ValueError: their number is wrong."""
    if strides is None:
        return (2, *(s for _, _, _, s in stages))
    resolved = STRIDES[strides] if isinstance(strides, str) else tuple(strides)
    if len(resolved) != len(stages) + 1:
        raise ValueError(
            f"strides={strides}: {len(resolved)} strides; the stem and {len(stages)} stages need "
            f"{len(stages) + 1}"
        )
    return resolved
