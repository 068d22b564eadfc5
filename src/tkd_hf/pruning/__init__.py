"""Pruning: remove heads, neurons, layers, hidden width and tokens, or set single weights to zero.

Three independent kinds of pruning live here:

- **Structured** pruning removes whole units, so the student becomes smaller and faster on any hardware.
  `StructuredPruner` scores the units (`importance`), ranks them (`ranking`), masks them until a target is met
  (`targets`, `structured`), and returns the smaller model. `PruningCallback` does this on a `Schedule` during training.
- **Vocabulary** pruning (`prune_vocabulary`) removes the tokens that a corpus does not use from model and tokenizer.
  This saves memory but no time.
- **Unstructured** pruning (`ElementPruner`, `ElementPruningCallback`) sets single weights to zero, by magnitude or as
  NNCF chooses (`NNCFMasks`). Zeros alone make nothing faster.

To add an importance criterion, write a function in `importance` and register it in `IMPORTANCE`. To add a target, write
a class with the methods of `ParameterTarget` in `targets`.
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
