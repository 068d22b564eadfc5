"""tkd-hf: distil a text classifier into a small, fast student that agrees with it.

Importing this package registers TKD with transformers (see `tkd_hf.models.registration`) and does nothing else: every
public name is loaded when it is first used.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from ._old_paths import keep_old_paths


__version__ = "0.2.0"

# module -> the public names that it defines
_EXPORTS = {
    # the stages, one function per command, and their arguments
    "commands.pretrain": ("pretrain",),
    "commands.finetune": ("finetune",),
    "commands.augment": ("augment",),
    "commands.label": ("label",),
    "commands.distill": ("distill",),
    "commands.prune": ("prune",),
    "commands.quantize": ("quantize",),
    "commands.evaluate": ("evaluate",),
    "commands.benchmark": ("benchmark",),
    "commands.report": ("report",),
    "cards.generate": ("card",),
    "commands.push": ("push",),
    "commands.verify": ("verify",),
    "records.run_folder": ("StageRecord",),
    "models.arguments": ("StudentArguments", "EncoderArguments", "LoraArguments"),
    "data.arguments": ("DataArguments", "CorpusArguments"),
    "objectives.arguments": ("FineTuningArguments", "DistillationTrainingArguments", "PretrainingArguments"),
    "pruning.arguments": ("PruningArguments",),
    # models, for direct use
    "models.configuration_tkd": ("TKDConfig",),
    "models.modeling_tkd": ("TKDModel", "TKDForSequenceClassification", "TKDForTokenClassification", "TKDForMaskedLM"),
    "models.student": ("student_from_teacher",),
    # training with your own data set or objective
    "training.trainer": ("DistillationTrainer",),
    "data.tokenization": ("tokenize",),
    "data.collation": ("DistillationCollator",),
    "teachers.soft_labels": ("SoftLabels",),
    "objectives": ("OBJECTIVES", "Objective", "register_objective"),
    "objectives.base": ("ObjectiveSetup",),
    "models.signals": ("Signals",),
    # extensions of your own
    "data.problem_types": ("ProblemType",),
    "data.tasks": ("Task", "register_task"),
    "evaluation.metrics": ("TextMetric", "register_metric"),
    "quantization": ("Backend", "register_backend"),
    "models.architectures": ("Architecture", "register_architecture"),
    # errors
    "core.errors": ("InputError", "CheckFailed", "GateFailed", "CardMismatch", "TrainingStopped"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


keep_old_paths()

# Registering loads torch and transformers. The command line leaves it to `tkd_hf.commands`, so that --help is quick.
if Path(sys.argv[0] if sys.argv else "").name not in ("tkd-hf", "tkd-hf.exe"):
    from .models.registration import register_auto_classes

    register_auto_classes()
