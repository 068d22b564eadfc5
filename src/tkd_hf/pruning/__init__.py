"""Pruning: heads, neurons, layers and hidden width, physically removed; tokens; and single elements, set to zero.

`StructuredPruner` ranks units by importance (`importance`, `ranking`), masks them until a target is met (`structured`,
`targets`), and gives the smaller model. `PruningCallback` has it do so on a `Schedule` while a trainer trains.

`prune_vocabulary` cuts model and tokenizer to the tokens of a corpus. `ElementPruner` sets elements of weights to zero,
by magnitude or as `NNCFMasks` has it, and `ElementPruningCallback` has it do so while a trainer trains; zeros alone
make nothing faster.
"""

from .callback import PruningCallback, calibration_data
from .importance import IMPORTANCE
from .nncf import NNCFMasks
from .pruner import StructuredPruner
from .schedule import Schedule
from .structured import Gates, compact
from .targets import ParameterTarget, SpeedTarget
from .units import Units
from .unstructured import ElementPruner, ElementPruningCallback, Sparsity, SparsityReport, sparsity_report
from .vocabulary import VocabularyReport, corpus_texts, prune_vocabulary


__all__ = [
    "PruningCallback",
    "calibration_data",
    "StructuredPruner",
    "ParameterTarget",
    "SpeedTarget",
    "Schedule",
    "IMPORTANCE",
    "Gates",
    "compact",
    "Units",
    "prune_vocabulary",
    "corpus_texts",
    "VocabularyReport",
    "Sparsity",
    "ElementPruner",
    "ElementPruningCallback",
    "sparsity_report",
    "SparsityReport",
    "NNCFMasks",
]
