"""What a run costs: time in all and by phase, arithmetic that is useful, and what the machine could do at most."""

import time
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import PretrainedConfig


PHASES = ("teacher", "forward", "loss", "backward", "optimizer", "data")


def now() -> float:
    """Seconds, when all work on the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Times the first pass over the data, whoever's loop it is, and splits the time by hooks.

    On a GPU asking for the time waits for the device, so there the phases are those of a second pass.

    Args:
        steps: of the optimizer in one pass.

    Attributes:
        total_steps: how many a contender is to make.
        seconds: of the first pass, from its first forward to the end of its last step.
        phases: seconds by phase. "optimizer" is all between the last gradient and the end of the step, clipping
            included; "data" all between a step and the next forward; "loss" what else there is before the backward.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.splits_first = not torch.cuda.is_available()
        self.total_steps = steps if self.splits_first else 2 * steps
        self.phases = defaultdict(float)
        self.seconds = None
        self._done, self._begin, self._phase, self._since = 0, None, None, None

    def watch(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        """Hooks of student, teacher and whatever optimizer steps; for the life of the process."""
        if teacher is not None:
            teacher.register_forward_pre_hook(self._teacher_begins)
            teacher.register_forward_hook(lambda *_: self._switch(self._outer))
        student.register_forward_pre_hook(lambda *_: self._switch("forward"))
        student.register_forward_hook(self._forward_ends)
        for weight in student.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(self._gradient)
        register_optimizer_step_pre_hook(lambda *_: self._switch("optimizer"))
        register_optimizer_step_post_hook(self._stepped)

    def _teacher_begins(self, *_):
        # a teacher that runs within the student's forward interrupts it
        self._outer = "forward" if self._phase == "forward" else "loss"
        self._switch("teacher")

    def _forward_ends(self, module, inputs, outputs):
        self._switch("loss")
        if outputs.logits.requires_grad:
            outputs.logits.register_hook(lambda gradient: self._switch("backward"))

    def _gradient(self, weight):
        if self._splitting:
            self._last_gradient = now()

    @property
    def _splitting(self) -> bool:
        return self.splits_first or self._done >= self.steps

    def _switch(self, phase: str) -> None:
        if self._begin is None:
            self._begin = self._since = now()
        if self._splitting and self._done < self.total_steps:
            end = self._last_gradient if self._phase == "backward" else now()
            if self._phase is not None:
                self.phases[self._phase] += end - self._since
            self._since = end
        self._phase = phase

    def _stepped(self, *_):
        self._switch("data")
        self._done += 1
        if self._done == self.steps:
            self.seconds = now() - self._begin
            self._since = now()


def useful_flops(config: PretrainedConfig, lengths: Iterable[int], passes: int, first_only: bool) -> float:
    """Floating-point operations of matrix products over real tokens only.

    Args:
        config: of a BERT or TKD with equal layers.
        lengths: of the examples, in tokens.
        passes: 1 for a forward; 3 with its backward, which has two products for each of the forward's.
        first_only: the last layer answers for the first token alone, as a TKD's does: what else it might compute is
            useful to nobody.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    pooler = 2 * width * width

    def layer(tokens: int, asking: int) -> int:
        """Keys and values of all tokens; queries, mixed values and feed-forward of those that ask."""
        dense = 2 * width * (2 * width * tokens + 2 * width * asking + 2 * inner * asking)
        return dense + 4 * width * tokens * asking

    def text(tokens: int) -> int:
        return (layers - 1) * layer(tokens, tokens) + layer(tokens, 1 if first_only else tokens) + pooler

    return float(passes * sum(map(text, lengths)))


def matmul_peak(bf16: bool, patience: float = 2.0) -> float:
    """The most operations a second that a product of two large matrices reaches here, now, at a precision."""
    device, best = "cuda" if torch.cuda.is_available() else "cpu", 0.0
    dtype = torch.bfloat16 if bf16 else torch.float32
    for size in (1024, 2048) if device == "cpu" else (4096, 8192):
        one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        start = now()
        for _ in range(50):
            begin = now()
            one @ other
            end = now()
            best = max(best, 2 * size**3 / (end - begin))
            if end - start > patience / 2:
                break
    return best
