"""The objectives of a run together: their weighted sum, and the care for what they learn themselves."""

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from ..callbacks import CheckpointedCallback
from ..errors import InputError
from ..signals import Signals
from ..training_args import DistillationTrainingArguments
from . import OBJECTIVES
from .base import ObjectiveSetup


PROJECTIONS_FILE = "projections.safetensors"


class CombinedObjective(CheckpointedCallback):
    """The sum of weight x objective, where weights may move linearly over training.

    Some objectives learn projections. The Trainer knows the parameters of the student alone, so what it does for them
    (optimise, zero, synchronise, checkpoint) is asked for here, at the Trainer's hooks.

    Args:
        args: `objectives` and `final_objectives` say which and with what weights.
    """

    def __init__(self, args: DistillationTrainingArguments):
        self.args = args
        first, last = args.objectives, args.final_objectives or args.objectives
        names = [name for name in OBJECTIVES if first.get(name) or last.get(name)]
        self._weights = {name: (first.get(name, 0.0), last.get(name, 0.0)) for name in names}
        self._kinds = {name: OBJECTIVES[name] for name in names}
        self.names = tuple(names)
        self.modules = nn.ModuleDict()
        self.features = {feature for kind in self._kinds.values() for feature in kind.features}

    def needs(self, what: str) -> bool:
        """Whether any of the objectives needs `"teacher"` or `"labels"`."""
        return any(getattr(kind, f"needs_{what}") for kind in self._kinds.values())

    def names_reading_logits(self) -> str:
        """Names of the objectives that read the student's answers, for messages."""
        return ", ".join(name for name, kind in self._kinds.items() if not kind.features)

    def names_reading(self, features: set[str]) -> str:
        """Names of the objectives that read any of these features, for messages."""
        return ", ".join(name for name, kind in self._kinds.items() if features & set(kind.features))

    def build(self, setup: ObjectiveSetup, accelerator: Accelerator) -> None:
        """Makes the objectives, on the device, their projections synchronised where there are several processes."""
        self.modules = nn.ModuleDict({name: kind.build(setup) for name, kind in self._kinds.items()})
        self.modules.to(accelerator.device)
        self._called = dict(self.modules)
        if accelerator.num_processes > 1:
            learning = [name for name, module in self.modules.items() if any(True for _ in module.parameters())]
            self._called |= {name: accelerator.prepare_model(self.modules[name]) for name in learning}

    def __call__(
        self, student: Signals, teacher: Signals | None, batch: dict[str, torch.Tensor], progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum and each component by name.

        Args:
            student, teacher: their signals.
            batch: the batch they come from.
            progress: the share of training that is done, for what is scheduled.
        """
        loss, components = 0.0, {}
        for name, objective in self._called.items():
            self.modules[name].set_progress(progress)
            components[name] = objective(student, teacher, batch)
            first, last = self._weights[name]
            loss = loss + ((1 - progress) * first + progress * last) * components[name]
        return loss, components

    def add_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives the projections to an optimizer that does not have them."""
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [parameter for parameter in self.modules.parameters() if id(parameter) not in known]
        if missing:
            optimizer.add_param_group({"params": missing, "weight_decay": self.args.weight_decay})

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.modules.zero_grad()  # the Trainer zeroes the student's gradients alone

    def save(self, checkpoint: str) -> None:
        """Writes the projections into a checkpoint, if there are any."""
        if state := self.modules.state_dict():
            save_file(state, Path(checkpoint) / PROJECTIONS_FILE)

    def load(self, checkpoint: str) -> None:
        """Reads them back.

        Raises:
            InputError: if the checkpoint has none, or others: it is that of a run with other objectives.
        """
        path = Path(checkpoint) / PROJECTIONS_FILE
        wanted = self.modules.state_dict()
        found = load_file(path) if path.exists() else {}
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{checkpoint} holds the projections {shapes[0]}, but objectives={self.args.objectives} learn "
                f"{shapes[1]}; resume with the objectives that it was made with"
            )
        self.modules.load_state_dict(found)
