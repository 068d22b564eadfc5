"""All objectives of a run together: their weighted sum, their learned parameters, and the means to log."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from ..core.errors import InputError
from ..data.problem_types import ProblemType
from ..models.signals import ATTENTION_PROJECTIONS, Signals
from ..objectives import OBJECTIVES
from ..objectives.arguments import DistillationTrainingArguments
from ..objectives.base import Objective, ObjectiveSetup
from .callbacks import CheckpointedCallback


PROJECTIONS_FILE = "projections.safetensors"


class CombinedObjective(CheckpointedCallback):
    """The sum of weight x objective; the weights may move linearly over training.

    Some objectives learn projections. The Trainer optimises, zeroes, synchronises and saves the parameters of the
    student alone, so this class does the same for the projections, from the Trainer's hooks.

    Args:
        args: its `objectives` and `final_objectives` give the weight of each objective at the start and at the end.
    """

    def __init__(self, args: DistillationTrainingArguments):
        self.args = args
        self._weights = args.objective_weights
        self._classes = {name: OBJECTIVES[name] for name in self._weights}
        self.names = tuple(self._weights)
        self.modules = nn.ModuleDict()
        self._objectives: dict[str, Objective] = {}
        self._prepared: dict[str, nn.Module] = {}  # the objectives as accelerate wraps them
        self.features = {feature for objective in self._classes.values() for feature in objective.features}

    def needs(self, requirement: str) -> bool:
        """Return whether any of the objectives needs `"teacher"` or `"labels"`."""
        return any(getattr(objective, f"needs_{requirement}") for objective in self._classes.values())

    def names_reading(self, features: set[str]) -> str:
        """Return the names of the objectives that read any of these features, for messages."""
        return ", ".join(name for name, objective in self._classes.items() if features & set(objective.features))

    def check(self, model: nn.Module, problem_type: ProblemType) -> None:
        """Check that the objectives can be computed for a student.

        Raises:
            InputError: if an objective reads logits and the student has no head, or if the student is compiled and an
                objective reads what hooks record.
        """
        reading_logits = ", ".join(name for name, objective in self._classes.items() if not objective.features)
        if not problem_type.has_logits and reading_logits:
            raise InputError(
                f"{type(model).__name__} has no head and gives no logits, which {reading_logits} need; "
                "choose a student with a head, or objectives that read features, such as relations"
            )
        hooked = self.features & set(ATTENTION_PROJECTIONS)
        if self.args.torch_compile and hooked:
            raise InputError(
                f"torch_compile=True does not work with {self.names_reading(hooked)}: compiled models may skip the "
                f"hooks that read {', '.join(sorted(hooked))}; train without torch_compile, or choose objectives that "
                "read logits and hidden states"
            )

    def build(self, setup: ObjectiveSetup, accelerator: Accelerator) -> None:
        """Build the objectives on the device; with several processes, synchronise the gradients of projections."""
        self._objectives = {name: objective.build(setup) for name, objective in self._classes.items()}
        self.modules = nn.ModuleDict(self._objectives).to(accelerator.device)
        self._prepared = dict(self._objectives)
        if accelerator.num_processes > 1:
            for name, module in self.modules.items():
                if list(module.parameters()):
                    self._prepared[name] = accelerator.prepare_model(module)

    def __call__(
        self, student: Signals, teacher: Signals | None, batch: dict[str, torch.Tensor], progress: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the weighted sum, and the unweighted value of each objective by name.

        Args:
            student: the student's signals.
            teacher: the teacher's signals; `None` if no objective needs them.
            batch: the batch that both have read.
            progress: the share of training done, from 0 to 1; it moves the weights and whatever objectives schedule.
        """
        terms, components = [], {}
        for name, objective in self._prepared.items():
            self._objectives[name].set_progress(progress)
            components[name] = objective(student, teacher, batch)
            first, last = self._weights[name]
            terms.append(((1 - progress) * first + progress * last) * components[name])
        return sum(terms[1:], terms[0]), components

    def add_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the parameters of the objectives to an optimizer that does not have them yet."""
        optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = [parameter for parameter in self.modules.parameters() if id(parameter) not in optimized]
        if missing:
            optimizer.add_param_group({"params": missing, "weight_decay": self.args.weight_decay})

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.modules.zero_grad()  # the Trainer zeroes only the gradients of the student

    def save(self, checkpoint: str) -> None:
        """Write the projections into a checkpoint folder, if there are any."""
        if state := self.modules.state_dict():
            save_file(state, Path(checkpoint) / PROJECTIONS_FILE)

    def load(self, checkpoint: str) -> None:
        """Read the projections from a checkpoint folder.

        Raises:
            InputError: if their names or shapes differ, because the checkpoint belongs to a run with other objectives.
        """
        path = Path(checkpoint) / PROJECTIONS_FILE
        saved = load_file(path) if path.exists() else {}
        saved_shapes = _shapes(saved)
        expected_shapes = _shapes(self.modules.state_dict())
        if saved_shapes != expected_shapes:
            raise InputError(
                f"{checkpoint} holds the projections {saved_shapes}, but objectives={self.args.objectives} need "
                f"{expected_shapes}; resume with the objectives that the checkpoint was trained with"
            )
        self.modules.load_state_dict(saved)


class RunningMeans:
    """Means of logged values over all examples since the last `pop`, and over all processes."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def reset(self) -> None:
        """Forget all values."""
        self._sums.clear()
        self._counts.clear()

    def add(self, name: str, value: torch.Tensor, count: int) -> None:
        """Add a mean over `count` examples; it stays on its device, so that no step waits for the accelerator."""
        self._sums[name] = self._sums.get(name, 0.0) + value.detach() * count
        self._counts[name] += count

    def pop(self, accelerator: Accelerator, prefix: str = "") -> dict[str, float]:
        """Return the mean of each value under its prefixed name, and reset."""
        means = {}
        for name, local_sum in self._sums.items():
            count = torch.tensor(float(self._counts[name]), device=local_sum.device)
            pair = torch.stack([local_sum.float(), count])
            total, examples = accelerator.reduce(pair, reduction="sum").tolist()
            means[f"{prefix}{name}"] = total / examples
        self.reset()
        return means


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
