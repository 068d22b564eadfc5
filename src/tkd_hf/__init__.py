"""tkd-hf: distil a text classifier into a small, fast student that agrees with it.

Importing this package registers TKD with transformers (see `tkd_hf.registration`) and does nothing else: every public
name is loaded when it is first used.
"""

import importlib
import sys
from pathlib import Path


__version__ = "0.2.0"

# module -> the public names that it defines
_EXPORTS = {
    # the stages, one function per command, and their arguments
    "stages.pretrain": ("pretrain", "PretrainingArguments", "EncoderArguments"),
    "stages.finetune": ("finetune",),
    "stages.augment": ("augment",),
    "stages.label": ("label",),
    "stages.distill": ("distill",),
    "stages.prune": ("prune", "PruningArguments"),
    "stages.quantize": ("quantize",),
    "stages.evaluate": ("evaluate",),
    "stages.benchmark": ("benchmark",),
    "stages.report": ("report",),
    "stages.card": ("card",),
    "stages.push": ("push",),
    "stages.verify": ("verify",),
    "stages.student": ("StudentArguments",),
    "stages.run_folder": ("StageRecord",),
    "adapters": ("LoraArguments",),
    "data.corpus": ("CorpusArguments",),
    "data.loading": ("DataArguments",),
    "training_args": ("FineTuningArguments", "DistillationTrainingArguments"),
    # models, for direct use
    "configuration_tkd": ("TKDConfig",),
    "modeling_tkd": ("TKDModel", "TKDForSequenceClassification", "TKDForTokenClassification", "TKDForMaskedLM"),
    "student": ("student_from_teacher",),
    # training with your own data set or objective
    "trainer": ("DistillationTrainer",),
    "data.tokenization": ("tokenize",),
    "data.collation": ("DistillationCollator",),
    "soft_labels": ("SoftLabels",),
    "objectives": ("OBJECTIVES", "Objective"),
    "objectives.base": ("ObjectiveSetup",),
    "signals": ("Signals",),
    # errors
    "errors": ("InputError", "CheckFailed", "GateFailed", "CardMismatch", "TrainingStopped"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *_MODULE_OF])


# Registering loads torch and transformers. The command line leaves it to `tkd_hf.stages`, so that --help is quick.
if Path(sys.argv[0] if sys.argv else "").stem != "tkd-hf":
    from .registration import register_auto_classes

    register_auto_classes()
