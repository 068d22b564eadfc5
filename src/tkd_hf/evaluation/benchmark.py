"""How long models take: they take turns, so that a machine that slows down slows all of them."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from transformers import PretrainedConfig

from ..conversion import unused_positions
from ..errors import InputError, first_line
from .intervals import bootstrap, confidence_interval
from .runners import Runner


@dataclass(frozen=True)
class Timing:
    """How long one model takes for batches of one size, without tokenisation.

    Args:
        batch_size: texts in a batch.
        length: tokens in each, none of them padding; `None` for real texts, padded to the longest of a batch.
        rounds: how many passes were timed.
        p50, p95: milliseconds of a pass, median and 95th percentile.
        throughput: texts a second, over all passes.
        speedup: how many times as fast as the reference: the median over the rounds of the ratio within each.
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
    """What the seconds of `time_interleaved` say about each model.

    Args:
        seconds: (rounds, models).
        batch_size, length: as in `Timing`.
        reference: the model that the others are compared with, from 0.

    Example:

    ```python
    >>> import numpy as np
    >>> from tkd_hf.evaluation.benchmark import timings
    >>> slow, fast = timings(np.array([[0.02, 0.01], [0.04, 0.01], [0.09, 0.03]]), batch_size=8)
    >>> slow.p50, fast.p50, fast.speedup
    (40.0, 10.0, 3.0)

    ```
    """
    rounds = len(seconds)
    ratios = seconds[:, [reference]] / seconds
    medians = [lambda draw, column=column: np.median(column[draw]) for column in ratios.T]
    return [
        Timing(
            batch_size,
            length,
            rounds,
            *(float(quantile) for quantile in np.quantile(own, [0.5, 0.95]) * 1e3),
            throughput=float(rounds * batch_size / own.sum()),
            speedup=float(np.median(ratio)),
            interval=confidence_interval(resampled),
        )
        for own, ratio, resampled in zip(seconds.T, ratios.T, bootstrap(medians, rounds).T, strict=True)
    ]


def time_interleaved(
    rounds: Iterable[Sequence[Callable[[], object]]],
    patience: float = inf,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> np.ndarray:
    """Times what each of several models does in each round, in an order that is drawn anew for each.

    A turn is two passes, and the second is timed: the first brings the weights back into the caches that the other
    models took, waits out their threads, and prepares what a model prepares for a new shape.

    Args:
        rounds: for each round what each model is to do, until it is really done.
        patience: seconds after which no further round begins; there is always one.
        seed: of the orders.
        clock: gives seconds.

    Returns:
        (rounds, models) seconds.
    """
    draws, seconds, start = random.Random(seed), [], clock()
    for passes in rounds:
        row = [0.0] * len(passes)
        for place in draws.sample(range(len(passes)), len(passes)):
            passes[place]()
            begin = clock()
            passes[place]()
            row[place] = clock() - begin
        seconds.append(row)
        if clock() - start >= patience:
            break
    return np.array(seconds)


def forward_pass(runner: Runner, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """A pass of a model over a batch, to the end of its work on the device, and with `InputError` if it fails."""

    def run() -> None:
        try:
            runner(batch)
            runner.synchronize()
        except Exception as error:  # each backend has its own
            size, length = batch["input_ids"].shape
            raise InputError(
                f"{runner.name} ({runner.backend}) cannot run a batch of {size} × {length} tokens: {first_line(error)}"
            ) from error

    return run


def max_input_length(config: PretrainedConfig) -> float:
    """How many tokens a model can place; infinitely many where it has no table of positions."""
    if getattr(config, "position_embedding_type", None) == "sinusoidal":
        return inf
    return getattr(config, "max_position_embeddings", inf) - unused_positions(config)


def random_batch(runner: Runner, batch_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random tokens of a model's vocabulary, none of them special, without padding."""
    special = set(runner.tokenizer.all_special_ids)
    words = torch.tensor([token for token in range(runner.config.vocab_size) if token not in special])
    draws = torch.randint(len(words), (batch_size, length), generator=torch.Generator().manual_seed(0))
    ids = words[draws]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    return {name: value.to(runner.device) for name, value in batch.items()}


def text_batch(runner: Runner, texts: Sequence[tuple[str, ...]], max_length: int) -> dict[str, torch.Tensor]:
    """Texts or pairs as a model's tokenizer encodes them, padded to the longest."""
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = runner.tokenizer(
        *columns, truncation=True, max_length=max_length, padding=len(texts) > 1, return_tensors="pt"
    )
    return dict(encoded.to(runner.device))


def median_latencies(runners: Sequence[Runner], texts: Sequence[tuple[str, ...]], max_length: int = 128) -> list[float]:
    """Median time of a forward pass over one example at a time, for each model in turn, without tokenisation.

    Args:
        runners: the models.
        texts: examples, each a text or a pair.
        max_length: tokens at which examples are cut.
    """
    rounds = ([forward_pass(runner, text_batch(runner, [text], max_length)) for runner in runners] for text in texts)
    return (np.median(time_interleaved(rounds), axis=0) * 1e3).tolist()
