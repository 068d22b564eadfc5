"""The memory that a model needs, and how long it takes to load: each model in a new process of its own."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..errors import InputError


@dataclass(frozen=True)
class Footprint:
    """What a process needs to load and run one model.

    Args:
        load_seconds: from the name to a model that is ready, in a process that has imported tkd-hf already and with the
            files in the cache of the system; what the backend's own package takes to import is part of it.
        before_megabytes: the most memory that the process held before it loaded the model, in 10⁶ bytes.
        peak_megabytes: the most that it held in all, after a pass over one batch.
    """

    load_seconds: float
    before_megabytes: float
    peak_megabytes: float


def measure_footprint(model: str, batch_size: int, length: int, threads: int | None = None) -> Footprint:
    """Loads and runs a model in a new process.

    Args:
        model: as in `load_runner`.
        batch_size, length: of the batch that it runs.
        threads: by default as many as torch has here.

    Raises:
        InputError: if the process fails, as when there is not enough memory.
    """
    arguments = [model, batch_size, length, threads or torch.get_num_threads()]
    # the new process is to find the modules that this one has found
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        # what the system kills, as for want of memory, says nothing
        said = f"signal {-done.returncode} ended it" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
        raise InputError(f"{model} cannot be loaded and run in a process of its own: {said}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def peak_megabytes() -> float:
    """The most memory that this process has held; on an accelerator, the most that tensors have held there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss starts at its parent's on Linux, this one at nothing
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # not there on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _measure(model: str, batch_size: int, length: int, threads: int) -> Footprint:
    """What `footprint` says, of this process."""
    from .benchmark import forward_pass, random_batch
    from .runners import load_runner

    torch.set_num_threads(threads)
    before, start = peak_megabytes(), time.perf_counter()
    runner = load_runner(model)
    seconds = time.perf_counter() - start
    forward_pass(runner, random_batch(runner, batch_size, length))()
    return Footprint(seconds, before, peak_megabytes())


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(*json.loads(sys.argv[1])))))
