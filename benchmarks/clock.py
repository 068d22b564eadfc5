"""Time of a training by phase, its rate of useful arithmetic, and the highest rate that the machine reaches."""

import time
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from transformers import PretrainedConfig


PHASES = ("teacher", "forward", "loss", "backward", "optimizer", "data")


def now() -> float:
    """Return the time in seconds, after all work on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Time the first pass over the data, in whoever's training loop, and split it into phases with hooks.

    On a GPU, asking for the time waits for the device. There the phases are measured in a second pass.

    Args:
        steps: optimizer steps in one pass.

    Attributes:
        total_steps: how many steps the training should make.
        seconds: time of the first pass, from its first forward to the end of its last step.
        phases: seconds per phase. "optimizer" includes everything from the last gradient to the end of the step, such
            as clipping; "data" is the time between a step and the next forward; "loss" is the rest before the backward.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.split_first_pass = not torch.cuda.is_available()
        self.total_steps = steps if self.split_first_pass else 2 * steps
        self.phases = defaultdict(float)
        self.seconds = None
        self._steps_done, self._start, self._phase, self._phase_start = 0, None, None, None

    def watch(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        """Attach hooks to the student, the teacher and every optimizer; they stay until the process ends."""
        if teacher is not None:
            teacher.register_forward_pre_hook(self._teacher_starts)
            teacher.register_forward_hook(lambda *_: self._switch(self._interrupted))
        student.register_forward_pre_hook(lambda *_: self._switch("forward"))
        student.register_forward_hook(self._forward_ends)
        for weight in student.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(self._gradient_arrives)
        register_optimizer_step_pre_hook(lambda *_: self._switch("optimizer"))
        register_optimizer_step_post_hook(self._step_ends)

    def _teacher_starts(self, *_):
        # some trainers run the teacher inside the student's forward
        self._interrupted = "forward" if self._phase == "forward" else "loss"
        self._switch("teacher")

    def _forward_ends(self, module, inputs, outputs):
        self._switch("loss")
        if outputs.logits.requires_grad:
            outputs.logits.register_hook(lambda gradient: self._switch("backward"))

    def _gradient_arrives(self, weight):
        if self._splitting:
            self._last_gradient = now()

    @property
    def _splitting(self) -> bool:
        return self.split_first_pass or self._steps_done >= self.steps

    def _switch(self, phase: str) -> None:
        if self._start is None:
            self._start = self._phase_start = now()
        if self._splitting and self._steps_done < self.total_steps:
            end = self._last_gradient if self._phase == "backward" else now()
            if self._phase is not None:
                self.phases[self._phase] += end - self._phase_start
            self._phase_start = end
        self._phase = phase

    def _step_ends(self, *_):
        self._switch("data")
        self._steps_done += 1
        if self._steps_done == self.steps:
            self.seconds = now() - self._start
            self._phase_start = now()


def useful_flops(config: PretrainedConfig, lengths: Iterable[int], passes: int, first_token_only: bool) -> float:
    """Return the floating-point operations of matrix products over real tokens, without padding.

    Args:
        config: configuration of a BERT or TKD whose layers are equal.
        lengths: tokens of each example.
        passes: 1 for a forward; 3 for forward and backward, which has two products for each one of the forward.
        first_token_only: whether the last layer is computed for the first token alone, as TKD does in classification.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    pooler = 2 * width * width

    def layer(tokens: int, queries: int) -> int:
        """Count keys and values of all tokens; queries, attention output and feed-forward only for `queries` tokens."""
        dense = 2 * width * (2 * width * tokens + 2 * width * queries + 2 * inner * queries)
        return dense + 4 * width * tokens * queries

    def example(tokens: int) -> int:
        return (layers - 1) * layer(tokens, tokens) + layer(tokens, 1 if first_token_only else tokens) + pooler

    return float(passes * sum(map(example, lengths)))


def matmul_peak(bf16: bool, patience: float = 2.0) -> float:
    """Return the highest rate, in operations per second, that a product of two large matrices reaches here and now."""
    device, peak = "cuda" if torch.cuda.is_available() else "cpu", 0.0
    dtype = torch.bfloat16 if bf16 else torch.float32
    for size in (1024, 2048) if device == "cpu" else (4096, 8192):
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        start = now()
        for _ in range(50):
            begin = now()
            left @ right
            end = now()
            peak = max(peak, 2 * size**3 / (end - begin))
            if end - start > patience / 2:
                break
    return peak
