"""What a model costs to run: parameters, and milliseconds a sentence."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from transformers import PretrainedConfig

from ..model_loading import classifier_class
from .runners import Runner


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights; tied ones count once.

    Args:
        embeddings: of words, positions and segments.
        encoder: all others: the layers and the head.
    """

    embeddings: int
    encoder: int

    @property
    def total(self) -> int:
        return self.embeddings + self.encoder


def parameters(config: PretrainedConfig) -> Parameters:
    """The weights of the model that a configuration describes, in whatever form they are saved."""
    with torch.device("meta"):
        model = classifier_class(config).from_config(config)
    sizes = {"embeddings": 0, "encoder": 0}
    for name, weight in model.named_parameters():
        sizes["embeddings" if "embeddings." in name else "encoder"] += weight.numel()
    return Parameters(**sizes)


def milliseconds_per_sentence(
    runners: Sequence[Runner], texts: Sequence[tuple[str, ...]], max_length: int = 128
) -> list[float]:
    """Median time of a forward pass over one example at a time, for each model, without tokenisation.

    The models take turns on each example, so that a machine that slows down slows all of them.

    Args:
        runners: the models.
        texts: examples, each a text or a pair.
        max_length: tokens at which examples are cut.
    """
    times = [[] for _ in runners]
    for text in texts:
        for run, measured in zip(runners, times, strict=True):
            encoded = run.tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
            encoded = encoded.to(run.device)
            run(encoded)  # warm-up for this shape
            run.synchronize()
            start = time.perf_counter()
            run(encoded)
            run.synchronize()
            measured.append((time.perf_counter() - start) * 1e3)
    return [median(measured) for measured in times]
