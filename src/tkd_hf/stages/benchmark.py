"""`tkd-hf benchmark`: how fast models are beside one another, and what they take of memory and disk."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle, islice, product, repeat

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.loading import DataArguments, load_split
from ..errors import InputError
from ..evaluation.benchmark import (
    Timing,
    forward_pass,
    max_input_length,
    random_batch,
    text_batch,
    time_interleaved,
    timings,
)
from ..evaluation.cost import Parameters, count_parameters
from ..evaluation.memory import Footprint, measure_footprint
from ..evaluation.runners import Runner, load_runner, runner_config
from ..hardware import describe_hardware, describe_software
from ..labels import label_names
from .evaluate import first_texts


BATCH_SIZES = (1, 8, 32)
LENGTHS = (16, 64, 128)
ROUNDS = 50
PATIENCE = 10.0
REAL_TEXTS = 1000  # at most; the rounds take them in turn
# what is timed as real texts where no data is named
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


@dataclass
class ModelCost:
    """What one model takes.

    Args:
        name: folder or Hub id; a model that was named before gets a number, `runs/x (2)`.
        backend: what runs it: `"pytorch"`, `"bitsandbytes"`, `"onnx"` or `"openvino"`.
        device: where it runs, as torch names it.
        dtype: the types that its weights have; see `Runner.dtype`.
        parameters: numbers of weights.
        megabytes: size of the weights on disk, in 10⁶ bytes.
        footprint: memory and seconds of loading, in a process of its own.
        tokenization: median microseconds that its tokenizer takes for a text.
        timings: of each batch size the real texts, then each length.
    """

    name: str
    backend: str
    device: str
    dtype: str
    parameters: Parameters
    megabytes: float
    footprint: Footprint
    tokenization: float
    timings: list[Timing]

    def timing(self, batch_size: int, length: int | None = None) -> Timing:
        """The figures of a batch size and a length, or of the real texts."""
        return next(found for found in self.timings if (found.batch_size, found.length) == (batch_size, length))


@dataclass
class Benchmark:
    """What was measured, on which texts, on what machine.

    Args:
        models: in the order in which they were named.
        reference: the name of the one that the others are compared with.
        texts: where the real texts are from.
        tokens: their mean length, as the reference's tokenizer cuts them.
        batch_sizes, lengths: of the batches.
        hardware: with the number of threads that all models ran with.
    """

    models: list[ModelCost]
    reference: str
    texts: str
    tokens: float
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    software: dict = field(default_factory=describe_software)
    hardware: dict = field(default_factory=describe_hardware)

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def benchmark(
    models: Sequence[str],
    data: DataArguments | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] = LENGTHS,
    reference: str | None = None,
    threads: int | None = None,
    rounds: int = ROUNDS,
    patience: float = PATIENCE,
    seed: int = 0,
) -> Benchmark:
    """Times models in one run, in which they take turns, and measures the memory of each in a process of its own.

    Each batch size is timed with real texts and with random tokens of each length. Times drift with the load and the
    temperature of the machine; the ratios to the reference are those within a round, and drift far less.

    Args:
        models: folders or Hub ids, in PyTorch or exported; see `tkd_hf.evaluation.runners`. The same one may be named
            several times: what lies between its rows is noise.
        data: gives the real texts, those of its evaluation split; by default a few sentences of our own.
        batch_sizes: texts in a batch.
        lengths: tokens in each text of random tokens.
        reference: the model to compare with, one of `models` or one more; by default the first.
        threads: of the processor, for every backend; by default as many as torch uses by itself.
        rounds: how often each model is timed with each batch size and length.
        patience: seconds a model, after which no further round begins with a batch size and length.
        seed: of the order of turns.

    Raises:
        InputError: for no models, models that cannot be loaded or run, lengths beyond what one of them reads, sizes
            below 1, or bad data.
    """
    models = list(models if reference is None or reference in models else (reference, *models))
    place = models.index(reference) if reference else 0
    check_sizes(batch_sizes=batch_sizes, lengths=lengths, rounds=[rounds], threads=[1 if threads is None else threads])
    longest = _longest_input(models, max(lengths))
    texts, problem_type = _real_texts(data, models[0])
    max_length = min(data.max_length if data else DataArguments.max_length, longest)
    with _threads(threads):
        runners = [load_runner(name, problem_type) for name in tqdm(models, desc="loading", unit="model")]
        # after the loading above, which left all files in the system's cache
        needed = [
            measure_footprint(name, max(batch_sizes), max(lengths))
            for name in tqdm(models, desc="memory", unit="model")
        ]
        timed = []
        for size, length in tqdm(list(product(batch_sizes, (None, *lengths))), desc="timing", unit="shape"):
            batches = _texts(runners, texts, size, max_length) if length is None else _tokens(runners, size, length)
            passes = ([forward_pass(*one) for one in zip(runners, next(batches), strict=True)] for _ in range(rounds))
            timed.append(timings(time_interleaved(passes, patience * len(models), seed), size, length, place))
        words = ([partial(text_batch, runner, [text], max_length) for runner in runners] for text in texts)
        tokenization = np.median(time_interleaved(words, patience * len(models), seed), axis=0) * 1e6
        tokens = [text_batch(runners[place], [text], max_length)["input_ids"].shape[1] for text in texts]
        names = _numbered(models)
        found = zip(names, runners, needed, tokenization.tolist(), zip(*timed, strict=True), strict=True)
        return Benchmark(
            models=[_cost(*one) for one in found],
            reference=names[place],
            texts=(data.task or data.dataset) if data else "built-in sentences",
            tokens=float(np.mean(tokens)),
            batch_sizes=tuple(batch_sizes),
            lengths=tuple(lengths),
        )


def check_sizes(**sizes: Sequence[int]) -> None:
    """Refuses lists that are empty or hold a number below 1, by their names."""
    for name, values in sizes.items():
        if not values or min(values) < 1:
            raise InputError(f"{name}={list(values)}: numbers from 1 up are wanted")


def _longest_input(models: Sequence[str], length: int) -> float:
    """How many tokens all models read; an error if one reads less than are wanted."""
    if not models:
        raise InputError("no models to benchmark; name one or more, by folder or Hub id")
    longest = {name: max_input_length(runner_config(name)) for name in models}
    for name, limit in longest.items():
        if length > limit:
            raise InputError(f"lengths go up to {length} tokens, but {name} reads at most {limit}; lower --lengths")
    return min(longest.values())


def _real_texts(data: DataArguments | None, model: str) -> tuple[list[tuple[str, ...]], str | None]:
    """Texts or pairs, and what the models are to answer for them."""
    if data is None:
        return [(sentence,) for sentence in SENTENCES], None
    examples, task = load_split(data, "eval", fallback_label_names=label_names(runner_config(model)))
    return first_texts(examples, REAL_TEXTS), task.problem_type


def _texts(runners: list[Runner], texts: list[tuple[str, ...]], size: int, max_length: int) -> Iterator[list[dict]]:
    """For each round the next texts, the first ones again after the last, as each model's tokenizer encodes them."""
    endless = cycle(texts)
    while True:
        chosen = list(islice(endless, size))
        yield [text_batch(runner, chosen, max_length) for runner in runners]


def _tokens(runners: list[Runner], size: int, length: int) -> Iterator[list[dict]]:
    """For each round the same random tokens of each model."""
    return repeat([random_batch(runner, size, length) for runner in runners])


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """All backends take as many threads as torch has when they load."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _numbered(models: Sequence[str]) -> list[str]:
    """Names that differ: a model named a second time is `runs/x (2)`."""
    seen, names = Counter(), []
    for model in models:
        seen[model] += 1
        names.append(model if seen[model] == 1 else f"{model} ({seen[model]})")
    return names


def _cost(name: str, runner: Runner, needed: Footprint, tokenization: float, timed: tuple[Timing, ...]) -> ModelCost:
    return ModelCost(
        name=name,
        backend=runner.backend,
        device=str(runner.device),
        dtype=runner.dtype,
        parameters=count_parameters(runner.config),
        megabytes=runner.megabytes,
        footprint=needed,
        tokenization=tokenization,
        timings=list(timed),
    )
