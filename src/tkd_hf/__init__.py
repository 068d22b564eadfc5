"""tkd-hf: turn a fine-tuned text model into a small, fast student that keeps its answers.

Importing this package registers TKD with the Auto classes of transformers, and does no more than that: every public
name is loaded when it is first used.
"""

import importlib
import sys
from pathlib import Path


__version__ = "0.1.0"

# public name -> the module that defines it
_EXPORTS = {
    "TKDConfig": "configuration_tkd",
    "TKDModel": "modeling_tkd",
    "TKDForSequenceClassification": "modeling_tkd",
    "TKDForTokenClassification": "modeling_tkd",
    "TKDForMaskedLM": "modeling_tkd",
    "student_from_teacher": "student",
    "FineTuningArguments": "training_args",
    "DistillationTrainingArguments": "training_args",
    "DistillationTrainer": "trainer",
    "SoftLabels": "soft_labels",
    "InputError": "errors",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *_EXPORTS])


# Registering loads torch and transformers: the command line leaves it to `tkd_hf.stages`, so that --help is quick.
if Path(sys.argv[0] if sys.argv else "").stem != "tkd-hf":
    from .registration import register_auto_classes

    register_auto_classes()
