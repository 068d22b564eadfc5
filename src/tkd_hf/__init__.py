"""tkd-hf: distil a text classifier into a small, fast student that agrees with it.

Importing this package registers TKD with transformers (see `tkd_hf.models.registration`) and does nothing else: every
public name is loaded when it is first used. Only the command `tkd-hf`, which `tkd_hf_command` starts, registers TKD
later: when it first uses one of these names. Registering loads torch and transformers, which `--help` does not need.
"""

import importlib
import sys
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
# more names that the command line uses
_INTERNAL = {
    "commands.quantize": ("check_quantization_gate",),
    "records.recorded": ("recorded_data",),
    "commands.push": ("plan_push",),
    "commands.verify": ("claimed_task",),
    "quantization": ("load_backend",),
    "data.tasks": ("get_task",),
    "models.loading": ("load_tokenizer",),
}
_MODULE_OF = {name: module for table in (_EXPORTS, _INTERNAL) for module, names in table.items() for name in names}

__all__ = sorted(name for names in _EXPORTS.values() for name in names)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _register()
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _register() -> None:
    """Register TKD with transformers; calling this again changes nothing."""
    importlib.import_module(".models.registration", __name__).register_auto_classes()


keep_old_paths()
if "tkd_hf_command" not in sys.modules:
    _register()
