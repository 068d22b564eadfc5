"""How many weights a model has."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from ..model_loading import classifier_class


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


def count_parameters(config: PretrainedConfig) -> Parameters:
    """The weights of the model that a configuration describes, in whatever form they are saved."""
    with torch.device("meta"):
        model = classifier_class(config).from_config(config)
    sizes = {"embeddings": 0, "encoder": 0}
    for name, weight in model.named_parameters():
        sizes["embeddings" if "embeddings." in name else "encoder"] += weight.numel()
    return Parameters(**sizes)
