"""The parameters of a model, and the memory and loading time that it needs, measured in a new process per model."""

import base64
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from ..core.errors import InputError
from ..models.loading import classifier_class
from ..quantization import Backend, register_backend
from .runners import load_runner
from .timing import forward_pass, random_batch


@dataclass(frozen=True)
class Footprint:
    """The resources of a process that loads and runs one model.

    Args:
        load_seconds: the time to load the model. The process has already imported tkd-hf, and the files are in the
            system's file cache; the import of the backend's own package is included.
        before_megabytes: the peak memory of the process before it loads the model, in 10⁶ bytes.
        peak_megabytes: the peak memory after one batch, in 10⁶ bytes.
    """

    load_seconds: float
    before_megabytes: float
    peak_megabytes: float


def measure_footprint(
    model: str, batch_size: int, length: int, threads: int | None = None, backend: Backend | None = None
) -> Footprint:
    """Load and run a model in a new process, and measure its time and memory.

    A new process is needed because a peak never falls: in this process, an earlier and larger model would hide it.

    Args:
        model: as in `load_runner`.
        batch_size, length: the number of texts in the batch to run, and the tokens of each.
        threads: the number of threads; by default that of torch in this process.
        backend: the backend of the model. The new process registers it, and so imports the module of its class.

    Raises:
        InputError: if the process fails, for example because memory runs out.
    """
    pickled_backend = base64.b64encode(pickle.dumps(backend)).decode()
    arguments = [model, batch_size, length, threads or torch.get_num_threads(), pickled_backend]
    # Pass on the import path, so that the new process finds the same modules.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        # A negative code is a signal. The system kills a process that runs out of memory, which then prints nothing.
        killed = process.returncode < 0
        reason = f"signal {-process.returncode} ended it" if killed else process.stderr.strip().splitlines()[-1]
        raise InputError(f"{model} cannot be loaded and run in a separate process: {reason}")
    return Footprint(**json.loads(process.stdout.splitlines()[-1]))


def peak_megabytes() -> float:
    """Return the peak memory of this process in 10⁶ bytes; with a GPU, the peak of the tensors on it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss of a child process starts at its parent's value, VmHWM at zero
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # not available on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _measure(model: str, batch_size: int, length: int, threads: int, pickled_backend: str) -> Footprint:
    """Measure the footprint of a model in this process."""
    if backend := pickle.loads(base64.b64decode(pickled_backend)):  # written by `measure_footprint`
        register_backend(backend)
    torch.set_num_threads(threads)
    before, start = peak_megabytes(), time.perf_counter()
    runner = load_runner(model)
    seconds = time.perf_counter() - start
    forward_pass(runner, random_batch(runner, batch_size, length))()
    return Footprint(seconds, before, peak_megabytes())


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(*json.loads(sys.argv[1])))))


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights; shared weights count once.

    Args:
        embeddings: weights of the word, position and segment embeddings.
        encoder: all other weights: the layers and the head.
    """

    embeddings: int
    encoder: int

    @property
    def total(self) -> int:
        return self.embeddings + self.encoder


def count_parameters(config: PretrainedConfig) -> Parameters:
    """Count the weights of the classifier that a configuration describes, without loading it.

    The count does not depend on how the weights are stored, so it also works for quantized and exported models.
    """
    with torch.device("meta"):
        model = classifier_class(config).from_config(config)
    sizes = {"embeddings": 0, "encoder": 0}
    for name, weight in model.named_parameters():
        sizes["embeddings" if "embeddings." in name else "encoder"] += weight.numel()
    return Parameters(**sizes)
