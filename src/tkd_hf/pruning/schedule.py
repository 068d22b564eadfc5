"""When to prune how much: all at once, or in steps over the first part of training, with recovery between them."""

import math
from dataclasses import dataclass

from ..errors import InputError


# the share of pruning that is done as a function of the way through it, both from 0 to 1
PROGRESS_CURVES = {
    "one-shot": lambda way: 1.0,
    "linear": lambda way: way,
    "cubic": lambda way: 1 - (1 - way) ** 3,
}


@dataclass(frozen=True)
class Schedule:
    """Prunings of a training run, by the share of training before each.

    Args:
        name: `"one-shot"`, all at the start; `"linear"`; or `"cubic"`, which prunes fast while there is much to spare
            and slowly at the end (Zhu & Gupta 2017, arXiv 1710.01878).
        num_prunings: in how many prunings; of one-shot one.
        start, end: the share of training at which pruning starts and ends. What is left is recovery.

    Raises:
        InputError: for an unknown name, or numbers that make no schedule.

    Example:

    ```python
    >>> from tkd_hf.pruning import Schedule

    >>> schedule = Schedule("cubic", num_prunings=4, end=0.5)
    >>> [round(schedule.share(count), 3) for count in range(5)]
    [0.0, 0.578, 0.875, 0.984, 1.0]
    >>> [schedule.due(step, 100) for step in (0, 12, 13, 50, 100)]
    [0, 0, 1, 4, 4]

    ```
    """

    name: str = "cubic"
    num_prunings: int = 10
    start: float = 0.0
    end: float = 0.5

    def __post_init__(self):
        if self.name not in PROGRESS_CURVES:
            raise InputError(f"unknown schedule {self.name!r}; there are {', '.join(PROGRESS_CURVES)}")
        if self.num_prunings < 1 or not 0 <= self.start <= self.end <= 1:
            raise InputError(
                f"num_prunings={self.num_prunings}, start={self.start}, end={self.end} make no schedule; "
                "prune at least once, between 0 and 1 of training"
            )

    @property
    def total_prunings(self) -> int:
        """How many prunings there are."""
        return 1 if self.name == "one-shot" else self.num_prunings

    def share(self, count: int) -> float:
        """The share of pruning that is done after so many prunings."""
        return PROGRESS_CURVES[self.name](count / self.total_prunings) if count else 0.0

    def due(self, step: int, max_steps: int) -> int:
        """How many prunings are due when so many steps of training are done."""
        return sum(step >= math.ceil(self._progress(count) * max_steps) for count in range(1, self.total_prunings + 1))

    def _progress(self, count: int) -> float:
        way = 0.0 if self.name == "one-shot" else count / self.total_prunings
        return self.start + way * (self.end - self.start)
