"""The number of weights of a model."""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from ..models.loading import classifier_class


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
