"""Measure the latency of models in interleaved passes, so that a machine that slows down slows all of them alike."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch

from ..core.errors import InputError, first_line
from ..core.statistics import bootstrap, confidence_interval
from ..data.tokenization import check_max_length
from .runners import Runner


@dataclass(frozen=True)
class Timing:
    """The speed of one model for batches of one shape, without tokenization.

    Args:
        batch_size: the number of texts per batch.
        length: the number of tokens per text, none of them padding; `None` for real texts, which are padded to the
            longest of their batch.
        rounds: the number of timed passes.
        p50, p95: the median and the 95th percentile of the milliseconds per pass.
        throughput: texts per second, over all passes.
        speedup: how many times as fast as the reference the model is: the median over rounds of the ratio within each
            round.
        interval: the bootstrap's 95 % interval of `speedup`.
    """

    batch_size: int
    length: int | None
    rounds: int
    p50: float
    p95: float
    throughput: float
    speedup: float
    interval: tuple[float, float]


def timings(seconds: np.ndarray, batch_size: int, length: int | None = None, reference: int = 0) -> list[Timing]:
    """Summarize the measurements of `time_interleaved`, one `Timing` per model.

    The speed-up is computed within each round, whose passes ran within moments of each other. A machine that slows down
    over the rounds therefore does not change it.

    Args:
        seconds: (rounds, models), as `time_interleaved` returns them.
        batch_size, length: as in `Timing`.
        reference: the index of the model to compare with.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.inference.timing import timings
    >>> slow, fast = timings(np.array([[0.02, 0.01], [0.04, 0.01], [0.09, 0.03]]), batch_size=8)
    >>> slow.p50, fast.p50, fast.speedup
    (40.0, 10.0, 3.0)

    ```
    """
    rounds = len(seconds)
    ratios = seconds[:, [reference]] / seconds
    medians = [lambda draw, column=column: np.median(column[draw]) for column in ratios.T]
    resampled_medians = bootstrap(medians, rounds)
    results = []
    for model_seconds, model_ratios, model_medians in zip(seconds.T, ratios.T, resampled_medians.T, strict=True):
        p50, p95 = np.quantile(model_seconds, [0.5, 0.95]) * 1e3
        timing = Timing(
            batch_size=batch_size,
            length=length,
            rounds=rounds,
            p50=float(p50),
            p95=float(p95),
            throughput=float(rounds * batch_size / model_seconds.sum()),
            speedup=float(np.median(model_ratios)),
            interval=confidence_interval(model_medians),
        )
        results.append(timing)
    return results


def time_interleaved(
    rounds: Iterable[Sequence[Callable[[], object]]],
    patience: float = inf,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Time several models in rounds: each round runs every model once, in random order.

    A model runs twice in a row, and the second pass is timed. The first pass brings its weights back into the caches,
    outlasts the threads of the model before, and lets the backend prepare for a new shape.

    Args:
        rounds: for each round, one function per model. It must return only when the work is done.
        patience: start no further round after this many seconds; the first round always runs.
        seed: random seed of the orders.
        clock: returns the time in seconds.

    Returns:
        (rounds, models) seconds.
    """
    rng, seconds, start = random.Random(seed), [], clock()
    for passes in rounds:
        row = [0.0] * len(passes)
        for index in rng.sample(range(len(passes)), len(passes)):
            passes[index]()
            begin = clock()
            passes[index]()
            row[index] = clock() - begin
        seconds.append(row)
        if clock() - start >= patience:
            break
    return np.array(seconds)


def forward_pass(runner: Runner, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Return a function that runs a model on a batch and waits until the device is done.

    If the backend raises any error, the function raises an `InputError` that names the model and the batch.
    """

    def run() -> None:
        try:
            runner(batch)
            runner.synchronize()
        except Exception as error:  # each backend raises its own errors
            size, length = batch["input_ids"].shape
            raise InputError(
                f"{runner.name} ({runner.backend}) cannot run a batch of {size} × {length} tokens: {first_line(error)}"
            ) from error

    return run


def random_batch(runner: Runner, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Return a batch of random tokens of the model's vocabulary, without special tokens and padding."""
    special = set(runner.tokenizer.all_special_ids)
    candidates = torch.tensor([token for token in range(runner.config.vocab_size) if token not in special])
    draws = torch.randint(len(candidates), (batch_size, length), generator=torch.Generator().manual_seed(0))
    ids = candidates[draws]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: value.to(runner.device) for name, value in batch.items()}


def text_batch(runner: Runner, texts: Sequence[tuple[str, ...]], max_length: int) -> dict[str, torch.Tensor]:
    """Encode texts or pairs with the model's tokenizer, padded to the longest of them."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    limit = check_max_length(runner.tokenizer, max_length)
    encoded = runner.tokenizer(*columns, truncation=True, max_length=limit, padding=len(texts) > 1, return_tensors="pt")
    return dict(encoded.to(runner.device))


def median_latencies(runners: Sequence[Runner], texts: Sequence[tuple[str, ...]], max_length: int = 128) -> list[float]:
    """Return the median latency of each model in milliseconds per text, for one text at a time without tokenization.

    Args:
        runners: the models.
        texts: the examples, each a text or a pair.
        max_length: the number of tokens at which an example is truncated.
    """
    rounds = ([forward_pass(runner, text_batch(runner, [text], max_length)) for runner in runners] for text in texts)
    return (np.median(time_interleaved(rounds), axis=0) * 1e3).tolist()
