"""Pruning: heads, neurons, layers and hidden width, physically removed.

`StructuredPruner` ranks units by importance (`importance`, `ranking`), masks them until a target is met (`structured`,
`targets`), and gives the smaller model. `PruningCallback` has it do so on a `Schedule` while a trainer trains.
"""

from .callback import PruningCallback, calibration
from .importance import IMPORTANCE
from .pruner import StructuredPruner
from .schedule import Schedule
from .structured import Gates, compact
from .targets import ParameterTarget, SpeedTarget
from .units import Units


__all__ = [
    "PruningCallback",
    "calibration",
    "StructuredPruner",
    "ParameterTarget",
    "SpeedTarget",
    "Schedule",
    "IMPORTANCE",
    "Gates",
    "compact",
    "Units",
]
