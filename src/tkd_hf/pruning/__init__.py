"""Pruning: remove heads, neurons, layers, hidden width and tokens, or set single weights to zero.

Three independent kinds of pruning live here:

- **Structured** pruning removes whole units, so the student becomes smaller and faster on any hardware.
  `StructuredPruner` scores the units (`importance`), ranks them (`ranking`), masks them until a target is met
  (`targets`, `structured`), and returns the smaller model. `PruningCallback` does this on a `Schedule` during training.
- **Vocabulary** pruning (`prune_vocabulary`) removes the tokens that a corpus does not use from model and tokenizer.
  This saves memory but no time.
- **Unstructured** pruning (`ElementPruner`, `ElementPruningCallback`) sets single weights to zero, by magnitude or as
  NNCF chooses (`NNCFMasks`). Zeros alone make nothing faster.

To add an importance criterion, write a function in `importance`, register it in `IMPORTANCE`, and name it in
`arguments.CRITERIA`. To add a target, write a class with the members of `targets.Target`.

Importing this package is quick, so that `tkd-hf --help` can read `arguments`: every other name is loaded when it is
first used.
"""

from importlib import import_module
from typing import Any


# module -> the names that it defines
_EXPORTS = {
    "arguments": ("Schedule", "Sparsity"),
    "callback": ("PruningCallback", "calibration_data"),
    "importance": ("IMPORTANCE",),
    "nncf": ("NNCFMasks",),
    "pruner": ("StructuredPruner",),
    "structured": ("Gates", "compact"),
    "targets": ("ParameterTarget", "SpeedTarget"),
    "units": ("Units",),
    "unstructured": ("ElementPruner", "ElementPruningCallback", "SparsityReport", "sparsity_report"),
    "vocabulary": ("VocabularyReport", "corpus_texts", "prune_vocabulary"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
