"""What a model costs to run: parameters, megabytes, milliseconds a sentence."""

import time
from collections.abc import Sequence
from statistics import median

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..teacher import LiveTeacher


def parameters(model: PreTrainedModel) -> int:
    """Number of weights, embeddings included; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def megabytes(model: PreTrainedModel) -> float:
    """Size of the weights as they are saved, in 10⁶ bytes."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6


def milliseconds_per_sentence(
    models: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]],
    texts: Sequence[tuple[str, ...]],
    max_length: int = 128,
) -> list[float]:
    """Median time of a forward pass over one example at a time, for each model, without tokenisation.

    The models take turns on each example, so that a machine that slows down slows all of them.

    Args:
        models: models with their tokenizers.
        texts: examples, each a text or a pair.
        max_length: tokens at which examples are cut.
    """
    times = [[] for _ in models]
    for text in texts:
        for (model, tokenizer), measured in zip(models, times, strict=True):
            encoded = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
            run = LiveTeacher(model)
            run(encoded)  # warm-up for this shape
            _synchronize(model)
            start = time.perf_counter()
            run(encoded)
            _synchronize(model)
            measured.append((time.perf_counter() - start) * 1e3)
    return [median(measured) for measured in times]


def _synchronize(model: PreTrainedModel):
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
