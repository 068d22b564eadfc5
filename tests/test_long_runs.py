"""A long run needs no more of the machine at its end than near its beginning."""

import os

import psutil
import pytest
from transformers import TrainerCallback

from .training import arguments


MEGABYTES = 30  # of noise: allocators keep what they had; a leak of a batch a step would be ten times as much


def held() -> tuple[float, int]:
    """Megabytes of memory and open files of this process."""
    process = psutil.Process(os.getpid())
    return process.memory_info().rss / 1e6, process.num_fds()


class AtStep(TrainerCallback):
    """What was held when a step of training had ended."""

    def __init__(self, step: int):
        self.step, self.held = step, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.held = held()


@pytest.mark.slow
def test_a_run_of_2000_steps(build, tmp_path):
    """With a line of the log every ten steps, which are in memory and in each checkpoint: 200 of them."""
    fields = {"max_steps": 2000, "logging_steps": 10, "save_strategy": "steps", "save_steps": 200}
    trainer = build(args=arguments(tmp_path, **fields, save_total_limit=1), cached=True)
    warm = AtStep(500)
    trainer.add_callback(warm)
    trainer.train()
    after = held()
    assert after[0] - warm.held[0] < MEGABYTES
    assert after[1] <= warm.held[1] + 2
    assert [folder.name for folder in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2000"]
    assert (tmp_path / "run" / "checkpoint-2000" / "trainer_state.json").stat().st_size < 200_000


@pytest.mark.slow
def test_200_evaluations(build):
    trainer = build(cached=True)
    for _ in range(20):
        trainer.evaluate()
    before = held()
    for _ in range(180):
        trainer.evaluate()
    after = held()
    assert after[0] - before[0] < MEGABYTES
    assert after[1] <= before[1] + 2
