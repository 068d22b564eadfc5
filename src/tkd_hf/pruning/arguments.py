"""The options of pruning: its target, and how to get there."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import InputError, check_finite
from ..core.options import option, option_class


CRITERIA = ("taylor", "magnitude", "activation")  # their functions are in `importance`
KINDS = ("heads", "neurons", "layers", "hidden")
DEFAULT_KINDS = ("heads", "neurons", "layers")
SCOPES = ("global", "layer")


def parse_size(value: Any) -> float:
    """Parse a size such as `10MB`, or `10`, into megabytes (10⁶ bytes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)?", str(value).strip(), re.IGNORECASE)
    if not match:
        raise ValueError("is not a size; write it as 10MB")
    return float(match[1]) * {"KB": 1e-3, "MB": 1.0, "GB": 1e3}[(match[2] or "MB").upper()]


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
    >>> from tkd_hf.pruning import Schedule

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


@dataclass(frozen=True)
class Sparsity:
    """How many weights become zero, and which.

    Give a share to choose the weights freely. Give a pattern only for a runtime that makes use of it, such as GPUs with
    sparse matrix units (2:4): it leaves less choice, so the model usually loses more at the same sparsity.

    Args:
        share: share of the weights that become zero, above 0 and below 1.
        scope: `"global"` compares the magnitudes of all matrices, so that layers with large weights keep more;
            `"layer"` prunes the same share of every matrix.
        pattern: `"N:M"`, instead of `share`: of every M neighbouring weights in a row, the N largest stay.

    Raises:
        InputError: if neither or both of `share` and `pattern` are given, or one of them is not valid.

    Example:

    ```python
    >>> from tkd_hf.pruning.unstructured import Sparsity
    >>> Sparsity(0.8).target, Sparsity(pattern="2:4").target
    (0.8, 0.5)

    ```
    """

    share: float | None = None
    scope: str = "global"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.pattern is None):
            raise InputError(
                f"share={self.share} and pattern={self.pattern}: give exactly one of the two, to set how many weights "
                "become zero"
            )
        if self.scope not in SCOPES:
            raise InputError(f"unknown scope {self.scope!r}; choose among {', '.join(SCOPES)}")
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(
                f"share={self.share} of the weights cannot become zero; choose a number between 0 and 1, such as 0.5"
            )
        if self.pattern is not None:
            remaining, group = self.pattern_counts()
            if not 0 < remaining < group:
                raise InputError(
                    f"pattern={self.pattern!r} keeps {remaining} of {group} weights; give N:M with 0 < N < M, as in 2:4"
                )

    def pattern_counts(self) -> tuple[int, int]:
        """Return N and M of the pattern."""
        remaining, _, group = (self.pattern or "").partition(":")
        if not (remaining.isdecimal() and group.isdecimal()):
            raise InputError(f"pattern={self.pattern!r} is not of the form N:M; give a pattern such as 2:4")
        return int(remaining), int(group)

    @property
    def target(self) -> float:
        """The share of the weights that are zero after the last pruning."""
        if self.share is not None:
            return self.share
        remaining, group = self.pattern_counts()
        return 1 - remaining / group


@option_class
class PruningArguments:
    """The target of pruning, and how to get there.

    Give exactly one of `target_params`, `target_size`, `target_speedup`, `sparsity` and `pattern`, or `vocabulary`, or
    one of them together with `vocabulary`:

    - The three targets remove whole units, so the model becomes smaller and faster everywhere. Use `target_speedup` if
      latency matters, and prune on the machine that will run the student.
    - `vocabulary` removes tokens that the training texts do not use. It is often the largest reduction in size, needs
      no training, and makes nothing faster. Texts with other words are split into more tokens.
    - `sparsity` and `pattern` set single weights to zero. Only a compressed file becomes smaller, and only a runtime
      that knows the pattern becomes faster.

    Raises:
        InputError: if no target is given, several are given, or an option belongs to a target that is not given.

    Example:

    ```python
    >>> from tkd_hf import PruningArguments
    >>> PruningArguments(target_speedup=2.0, units=("heads", "neurons")).removes_units
    True
    >>> PruningArguments(pattern="2:4", vocabulary=True).element_sparsity.target
    0.5

    ```
    """

    target_params: float | None = option(
        default=None, help="Share of the parameters to keep, between 0 and 1, such as 0.5."
    )
    target_size: float | None = option(
        default=None,
        parse=parse_size,
        metavar="SIZE",
        help="Size of the saved weights, such as 10MB. A number without a unit means megabytes (10⁶ bytes).",
    )
    target_speedup: float | None = option(
        default=None, help="Speed relative to the unpruned model on this machine, such as 2."
    )
    importance: str = option(
        default="taylor",
        choices=CRITERIA,
        help="Measure of the importance of units. `tkd_hf.pruning.importance` says which to choose.",
    )
    schedule: str = option(
        default="cubic",
        choices=PROGRESS_CURVES,
        shown_default="cubic; without training one-shot",
        help="When to prune during training. `tkd_hf.pruning.Schedule` explains the choices.",
    )
    units: tuple[str, ...] = option(
        default=DEFAULT_KINDS,
        choices=KINDS,
        metavar="KIND,…",
        help="Kinds of units that a target may remove. The kinds are heads, neurons, layers and hidden, the width.",
    )
    calibration: int = option(default=256, minimum=1, help="Number of training examples to measure importance on.")
    vocabulary: bool = option(
        default=False,
        help="Keep only the tokens that the training texts use. Can stand alone or go with a target, which then refers "
        "to the model with all its tokens.",
    )
    sparsity: float | None = option(
        default=None, help="Share of the single weights that become zero, such as 0.8. Zeros save no time."
    )
    pattern: str | None = option(
        default=None,
        metavar="N:M",
        help="Pattern of single weights, such as 2:4. Of every M neighbouring weights, N stay and the others become 0.",
    )
    scope: str = option(
        default="global",
        choices=SCOPES,
        help="Which weights --sparsity compares. The scope global compares all of them, layer those of each layer.",
    )
    nncf: bool = option(
        default=False, help="Let NNCF choose the weights of --sparsity, instead of their magnitude alone."
    )

    def __post_init__(self) -> None:
        targets = ("target_params", "target_size", "target_speedup", "sparsity", "pattern")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.vocabulary):
            raise InputError(
                f"{' and '.join(given) or 'no target'} given; give one of {', '.join(targets)}; vocabulary can be "
                "given alone or with any of them"
            )
        check_finite(target_params=self.target_params, target_size=self.target_size, target_speedup=self.target_speedup)
        if self.element_sparsity is None and (self.nncf or self.scope != "global"):
            raise InputError(
                f"nncf={self.nncf} and scope={self.scope!r} apply to single weights only; add sparsity, or remove them"
            )
        Schedule(self.schedule)
        if self.importance not in CRITERIA:
            raise InputError(f"unknown importance {self.importance!r}; choose among {', '.join(CRITERIA)}")

    @property
    def element_sparsity(self) -> Sparsity | None:
        """How many single weights become zero; `None` if the target is not about single weights."""
        if self.sparsity is None and self.pattern is None:
            return None
        return Sparsity(self.sparsity, self.scope, self.pattern)

    @property
    def removes_units(self) -> bool:
        """Whether the target removes whole heads, neurons, layers or hidden width."""
        return (self.target_params, self.target_size, self.target_speedup) != (None, None, None)
