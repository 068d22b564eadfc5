"""Keep the import paths that version 0.1.0 documented: `tkd_hf.trainer` is now `tkd_hf.training.trainer`, and so on.

New code imports from `tkd_hf` itself. This module can go with version 1.0.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType


COMMANDS = "augment benchmark distill evaluate finetune label pretrain prune push quantize report verify".split()
MOVED = {
    "tkd_hf.adapters": "tkd_hf.models.lora",
    "tkd_hf.configuration_tkd": "tkd_hf.models.configuration_tkd",
    "tkd_hf.conversion": "tkd_hf.models.conversion",
    "tkd_hf.data.features": "tkd_hf.data.tokenization",
    "tkd_hf.errors": "tkd_hf.core.errors",
    "tkd_hf.layer_map": "tkd_hf.models.layer_map",
    "tkd_hf.modeling_tkd": "tkd_hf.models.modeling_tkd",
    "tkd_hf.signals": "tkd_hf.models.signals",
    "tkd_hf.soft_labels": "tkd_hf.teachers.soft_labels",
    "tkd_hf.student": "tkd_hf.models.student",
    "tkd_hf.teacher": "tkd_hf.teachers.teacher",
    "tkd_hf.trainer": "tkd_hf.training.trainer",
    "tkd_hf.training_args": "tkd_hf.objectives.arguments",
    "tkd_hf.stages": "tkd_hf.commands",
    "tkd_hf.stages.student": "tkd_hf.commands.distill",
    "tkd_hf.stages.card": "tkd_hf.cards.generate",
    "tkd_hf.stages.run_folder": "tkd_hf.records.run_folder",
    **{f"tkd_hf.stages.{name}": f"tkd_hf.commands.{name}" for name in COMMANDS},
}


class OldPathFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import a moved module under its old name: both names give the same module object."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec for the old names only."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its new name."""
        warnings.warn(f"{spec.name} is now {MOVED[spec.name]}; import from tkd_hf", DeprecationWarning, stacklevel=2)
        return importlib.import_module(MOVED[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Give the module, which has been executed under its new name, its own spec back."""
        module.__spec__ = importlib.util.spec_from_file_location(
            module.__name__, module.__file__, submodule_search_locations=getattr(module, "__path__", None)
        )


def keep_old_paths() -> None:
    """Let the import system find moved modules by their old names."""
    if not any(isinstance(finder, OldPathFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldPathFinder())  # before the finder that looks into `tkd_hf.commands` for `stages`
