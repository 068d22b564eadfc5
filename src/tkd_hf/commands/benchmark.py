"""Measure the latency, throughput, memory and size of models next to each other (`tkd-hf benchmark`)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice, product, repeat

import numpy as np
import torch
from tqdm.auto import tqdm

from ..core.errors import InputError
from ..core.names import label_names
from ..core.options import accepts
from ..data.arguments import DataArguments
from ..data.loading import load_split
from ..evaluation.results import Benchmark, ModelCost
from ..inference.memory import Footprint, count_parameters, measure_footprint
from ..inference.runners import Runner, load_runner, runner_config
from ..inference.timing import (
    Timing,
    forward_pass,
    random_batch,
    text_batch,
    time_interleaved,
    timings,
)
from ..models.architectures import max_input_length
from ..quantization import BACKENDS
from ..records.recorded import recorded_evaluation
from .evaluate import first_texts
from .options import BenchmarkOptions


MAX_REAL_TEXTS = 1000  # the rounds cycle through them
# the real texts if no data is given
SENTENCES = (
    "Not worth the wait.",
    "The delivery came two days early and nothing was broken.",
    "How do I change the address on my account?",
    "It rains.",
    "Although the first half drags, the ending is so good that I would gladly sit through all of it again.",
    "My card was charged twice for the same order, and nobody has answered any of the three letters I wrote.",
    "Please cancel my booking for Friday.",
    "The committee met on Tuesday to discuss the budget for the coming year, found that the costs of heating had "
    "doubled since the last winter, and put off its decision until the engineers have said what insulation costs.",
)


@accepts(BenchmarkOptions)
def benchmark(options: BenchmarkOptions) -> Benchmark:
    """Time models alternately in one process, and measure the memory of each model in a separate process.

    Each batch size is timed with real texts and with random tokens of each length. The load and the temperature of a
    machine change over time, so absolute times drift. The models therefore run in turns, in random order, and a
    speed-up is the ratio of times within the same round.

    Returns:
        The measurements.

    Raises:
        InputError: if there are no models, if a model cannot be loaded or run or reads fewer tokens than the longest
            length, if a size is below 1, or if the data is bad.

    Example:

    ```python
    from tkd_hf import benchmark

    result = benchmark(["runs/teacher", "runs/student"], batch_sizes=[1], lengths=[64])
    print(result.models[1].timing(batch_size=1).speedup)
    ```
    """
    data, batch_sizes, lengths = options.data, options.batch_sizes, options.lengths
    reference, threads = options.reference, options.threads
    models = list(options.models)
    if reference and reference not in models:
        models.insert(0, reference)
    reference_index = models.index(reference) if reference else 0
    check_sizes(
        batch_sizes=batch_sizes, lengths=lengths, rounds=[options.rounds], threads=[1 if threads is None else threads]
    )
    longest = _max_common_length(models, max(lengths))
    data, texts, problem_type = _real_texts(data, models)
    max_length = int(min(data.max_length if data else DataArguments.max_length, longest))  # `longest` may be infinite
    time_limit = options.patience * len(models)
    with _torch_threads(threads):
        runners = [load_runner(name, problem_type) for name in tqdm(models, desc="loading", unit="model")]
        # the loading above left all files in the system's cache, so loading times are comparable
        footprints = [
            measure_footprint(runner.name, max(batch_sizes), max(lengths), None, BACKENDS.get(runner.backend))
            for runner in tqdm(runners, desc="memory", unit="model")
        ]
        timings_by_shape = _time_shapes(options, runners, texts, max_length, reference_index)
        tokenizations = ([partial(text_batch, runner, [text], max_length) for runner in runners] for text in texts)
        tokenization_times = np.median(time_interleaved(tokenizations, time_limit, options.seed), axis=0) * 1e6
        lengths_of_texts = [
            text_batch(runners[reference_index], [text], max_length)["input_ids"].shape[1] for text in texts
        ]
        names = _unique_names(models)
        timings_by_model = zip(*timings_by_shape, strict=True)
        rows = zip(names, runners, footprints, tokenization_times.tolist(), timings_by_model, strict=True)
        return Benchmark(
            models=[_model_cost(*row) for row in rows],
            reference=names[reference_index],
            texts=str(data.task or data.dataset) if data else "built-in sentences",
            tokens=float(np.mean(lengths_of_texts)),
            batch_sizes=tuple(batch_sizes),
            lengths=tuple(lengths),
        )


def _time_shapes(
    options: BenchmarkOptions,
    runners: list[Runner],
    texts: list[tuple[str, ...]],
    max_length: int,
    reference_index: int,
) -> list[list[Timing]]:
    """Time all models with every batch size, on real texts and on random tokens of each length."""
    timings_by_shape = []
    shapes = list(product(options.batch_sizes, (None, *options.lengths)))
    for size, length in tqdm(shapes, desc="timing", unit="shape"):
        if length is None:
            batches = _text_batches(runners, texts, size, max_length)
        else:
            batches = _random_batches(runners, size, length)
        passes = (
            [forward_pass(runner, batch) for runner, batch in zip(runners, next(batches), strict=True)]
            for _ in range(options.rounds)
        )
        times = time_interleaved(passes, options.patience * len(runners), options.seed)
        timings_by_shape.append(timings(times, size, length, reference_index))
    return timings_by_shape


def check_sizes(**sizes: Sequence[int]) -> None:
    """Check that lists of sizes are not empty and contain no number below 1.

    Raises:
        InputError: naming the list.
    """
    for name, values in sizes.items():
        if not values or min(values) < 1:
            raise InputError(f"{name}={list(values)}: use numbers of at least 1")


def _max_common_length(models: Sequence[str], length: int) -> float:
    """Return the number of tokens that all models can read; refuse a length beyond it."""
    if not models:
        raise InputError("models=[]: name at least one model to benchmark, by folder or Hub id")
    limits = {name: max_input_length(runner_config(name)) for name in models}
    for name, limit in limits.items():
        if length > limit:
            raise InputError(f"lengths go up to {length} tokens, but {name} reads at most {limit}; lower --lengths")
    return min(limits.values())


def _real_texts(
    data: DataArguments | None, models: list[str]
) -> tuple[DataArguments | None, list[tuple[str, ...]], str | None]:
    """Return the data, or else that of the models' runs; texts, or pairs of texts, from it; and the problem type."""
    names = label_names(runner_config(models[0]))
    if data is None:
        if (recorded := recorded_evaluation(models, names)) is None:
            return None, [(sentence,) for sentence in SENTENCES], None
        data, examples, task = recorded
    else:
        examples, task = load_split(data, "eval", fallback_label_names=names)
    return data, first_texts(examples, MAX_REAL_TEXTS), task.problem_type


def _text_batches(
    runners: list[Runner], texts: list[tuple[str, ...]], size: int, max_length: int
) -> Iterator[list[dict]]:
    """Yield the next texts for each round, tokenized per model; start over after the last text."""
    endless = cycle(texts)
    while True:
        batch = list(islice(endless, size))
        yield [text_batch(runner, batch, max_length) for runner in runners]


def _random_batches(runners: list[Runner], size: int, length: int) -> Iterator[list[dict]]:
    """Yield a batch of random tokens per model, the same in each round."""
    return repeat([random_batch(runner, size, length) for runner in runners])


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Set torch's number of threads; all runtimes use it when they load a model."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count or previous)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _unique_names(models: Sequence[str]) -> list[str]:
    """Number the repetitions of a name: the second `runs/x` becomes `runs/x (2)`."""
    counts: Counter[str] = Counter()
    names = []
    for model in models:
        counts[model] += 1
        names.append(model if counts[model] == 1 else f"{model} ({counts[model]})")
    return names


def _model_cost(
    name: str, runner: Runner, footprint: Footprint, tokenization: float, timings: tuple[Timing, ...]
) -> ModelCost:
    return ModelCost(
        name=name,
        backend=runner.backend,
        device=str(runner.device),
        dtype=runner.dtype,
        parameters=count_parameters(runner.config),
        megabytes=runner.megabytes,
        footprint=footprint,
        tokenization=tokenization,
        timings=list(timings),
    )
