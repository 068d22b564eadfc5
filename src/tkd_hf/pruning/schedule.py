"""When to prune and how much: all at once, or in several prunings with recovery in between."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..core.errors import InputError


# Share of the pruning that is done, as a function of the progress through the schedule; both go from 0 to 1.
PROGRESS_CURVES: dict[str, Callable[[float], float]] = {
    "one-shot": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "cubic": lambda progress: 1 - (1 - progress) ** 3,
}


@dataclass(frozen=True)
class Schedule:
    """When during training to prune, and which share of the target each pruning reaches.

    Args:
        name: `"one-shot"` prunes everything at the start. `"linear"` prunes equal shares. `"cubic"` prunes much while
            the model has much to spare and little at the end (Zhu & Gupta 2017, arXiv 1710.01878).
        num_prunings: number of prunings; `"one-shot"` always has one.
        start, end: share of the training steps at which pruning starts and ends, from 0 to 1. After `end` the student
            only recovers. If `end` is close to 1, the last pruning has no time to recover.

    Raises:
        InputError: if the name is unknown, `num_prunings` is below 1, or `start` and `end` are not in order.

    Example:

    ```python
    >>> from tkd_hf.pruning.schedule import Schedule

    >>> schedule = Schedule("cubic", num_prunings=4, end=0.5)
    >>> [round(schedule.completed_share(count), 3) for count in range(5)]
    [0.0, 0.578, 0.875, 0.984, 1.0]
    >>> [schedule.prunings_due(step, 100) for step in (0, 12, 13, 50, 100)]
    [0, 0, 1, 4, 4]

    ```
    """

    name: str = "cubic"
    num_prunings: int = 10
    start: float = 0.0
    end: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in PROGRESS_CURVES:
            raise InputError(f"unknown schedule {self.name!r}; choose among {', '.join(PROGRESS_CURVES)}")
        if self.num_prunings < 1 or not 0 <= self.start <= self.end <= 1:
            raise InputError(
                f"num_prunings={self.num_prunings}, start={self.start}, end={self.end} are not a valid schedule; prune "
                "at least once, with 0 <= start <= end <= 1"
            )

    @property
    def total_prunings(self) -> int:
        """The number of prunings in the whole training."""
        return 1 if self.name == "one-shot" else self.num_prunings

    def completed_share(self, prunings: int) -> float:
        """Return the share of the pruning that is done after this many prunings."""
        return PROGRESS_CURVES[self.name](prunings / self.total_prunings) if prunings else 0.0

    def prunings_due(self, step: int, max_steps: int) -> int:
        """Return how many prunings are due after `step` of `max_steps` training steps."""
        prunings = range(1, self.total_prunings + 1)
        return sum(step >= math.ceil(self._share_of_training(pruning) * max_steps) for pruning in prunings)

    def _share_of_training(self, pruning: int) -> float:
        """Return the share of the training steps after which this pruning, counted from 1, takes place."""
        progress = 0.0 if self.name == "one-shot" else pruning / self.total_prunings
        return self.start + progress * (self.end - self.start)
