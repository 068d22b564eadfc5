"""The options of pruning: its target, and how to get there."""

from dataclasses import dataclass

from ..core.errors import InputError
from .importance import IMPORTANCE
from .schedule import Schedule
from .units import DEFAULT_KINDS
from .unstructured import Sparsity


@dataclass(frozen=True)
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

    Args:
        target_params: share of the parameters to keep, between 0 and 1.
        target_size: size of the saved weights, in megabytes (10⁶ bytes).
        target_speedup: how many times as fast as the unpruned model, measured on this machine.
        importance: how to score units: `"taylor"`, `"magnitude"` or `"activation"`; see `tkd_hf.pruning.importance`.
        schedule: when to prune during training: `"one-shot"`, `"linear"` or `"cubic"`; see `tkd_hf.pruning.schedule`.
        units: kinds of units that a target may remove, from `"heads"`, `"neurons"`, `"layers"` and `"hidden"`.
        calibration: number of training examples to measure importance on.
        vocabulary: whether to keep only the tokens that the training texts use. A target given with it refers to the
            model with all its tokens.
        sparsity: share of the single weights that become zero.
        pattern: `"N:M"`, such as `"2:4"`: of every M neighbouring weights, N stay and the others become zero.
        scope: which weights `sparsity` compares: `"global"` or `"layer"`; see `tkd_hf.pruning.unstructured`.
        nncf: whether NNCF chooses the weights that become zero, instead of their magnitude alone.

    Raises:
        InputError: if no target is given, several are given, or an option belongs to a target that is not given.

    Example:

    ```python
    >>> from tkd_hf.commands.prune import PruningArguments
    >>> PruningArguments(target_speedup=2.0, units=("heads", "neurons")).removes_units
    True
    >>> PruningArguments(pattern="2:4", vocabulary=True).element_sparsity.target
    0.5

    ```
    """

    target_params: float | None = None
    target_size: float | None = None
    target_speedup: float | None = None
    importance: str = "taylor"
    schedule: str = "cubic"
    units: tuple[str, ...] = DEFAULT_KINDS
    calibration: int = 256
    vocabulary: bool = False
    sparsity: float | None = None
    pattern: str | None = None
    scope: str = "global"
    nncf: bool = False

    def __post_init__(self):
        targets = ("target_params", "target_size", "target_speedup", "sparsity", "pattern")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.vocabulary):
            raise InputError(
                f"{' and '.join(given) or 'no target'} given; give one of {', '.join(targets)}; vocabulary can be "
                "given alone or with any of them"
            )
        if self.element_sparsity is None and (self.nncf or self.scope != "global"):
            raise InputError(
                f"nncf={self.nncf} and scope={self.scope!r} apply to single weights only; add sparsity, or remove them"
            )
        Schedule(self.schedule)
        if self.importance not in IMPORTANCE:
            raise InputError(f"unknown importance {self.importance!r}; choose among {', '.join(IMPORTANCE)}")

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
