"""Train only those rows of the word embeddings whose tokens occur in the training data.

The word embeddings can be most of a small student's weights, and a data set uses a part of the vocabulary. The gradient
of all other rows is zero in every step. Without weight decay, Adam does not move such rows, so they need no gradients,
no optimizer state, and no time.
"""

from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ..models.signals import without_adapters


# optimizers that update every weight by itself and leave a weight alone whose gradient is always zero
ELEMENTWISE_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
MAX_SHARE_OF_ROWS = 0.9  # above this share of the vocabulary there is little to save


class PartlyTrainedEmbedding(nn.Embedding):
    """An embedding of which only some rows are trained. It is saved and loaded like the embedding that it replaces.

    The trained rows are a parameter of their own. They are copied into the full weight before the model is evaluated or
    saved, so both always see current weights.

    Args:
        original: the embedding to replace; the two share their full weight.
        rows: (trained rows,) long, the token ids that occur in the training data. Another id fails in training.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.training.rows_in_use import PartlyTrainedEmbedding
    >>> embedding = PartlyTrainedEmbedding(torch.nn.Embedding(30_522, 384), torch.tensor([0, 101, 102, 2143]))
    >>> embedding(torch.tensor([[101, 2143, 102]])).shape
    torch.Size([1, 3, 384])
    >>> {name: tuple(weight.shape) for name, weight in embedding.named_parameters() if weight.requires_grad}
    {'trained_rows': (4, 384)}
    >>> {name: tuple(weight.shape) for name, weight in embedding.state_dict().items()}
    {'weight': (30522, 384)}

    ```
    """

    rows: torch.Tensor
    index_of_id: torch.Tensor

    def __init__(self, original: nn.Embedding, rows: torch.Tensor):
        weight, padding = original.weight, original.padding_idx
        vocabulary, width = weight.shape
        super().__init__(vocabulary, width, padding_idx=padding, _weight=weight.detach(), _freeze=True)
        self._original = (original,)  # in a tuple, so that torch does not register it as a submodule
        rows = rows.to(weight.device)
        # index of each token id among the trained rows; out of range for all others, so that looking them up fails
        index_of_id = torch.full((len(weight),), len(rows), device=weight.device)
        index_of_id[rows] = torch.arange(len(rows), device=weight.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("index_of_id", index_of_id, persistent=False)
        self.padding_index = int(index_of_id[padding]) if padding is not None and padding in rows else None
        self.trained_rows = nn.Parameter(weight.detach()[rows])
        self.train(original.training)

    @property
    def original(self) -> nn.Embedding:
        """The embedding that this one replaces."""
        return self._original[0]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(ids)
        return functional.embedding(self.index_of_id[ids], self.trained_rows, self.padding_index)

    def reattach(self, model: PreTrainedModel) -> None:
        """Replace the original embedding again, with the weights that it has now."""
        if without_adapters(model).get_input_embeddings() is self.original:
            self.weight.data = self.original.weight.data
            self.trained_rows.data.copy_(self.weight[self.rows])
            without_adapters(model).set_input_embeddings(self)

    def train(self, mode: bool = True) -> "PartlyTrainedEmbedding":
        if not mode and hasattr(self, "trained_rows"):
            self.update_weight()
        return super().train(mode)

    @torch.no_grad()
    def update_weight(self) -> None:
        """Copy the trained rows into the full weight."""
        self.weight[self.rows] = self.trained_rows

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.update_weight()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}trained_rows"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None:
            state_dict = {**state_dict, f"{prefix}trained_rows": weight[self.rows.to(weight.device)]}
        super()._load_from_state_dict(state_dict, prefix, *args)


def train_rows_in_use(
    model: PreTrainedModel, data: object, padding: int | None, optimizer: str, weight_decay: float
) -> PartlyTrainedEmbedding | None:
    """Replace a model's word embeddings by a `PartlyTrainedEmbedding`, if training gives the same result with it.

    Args:
        model: the model, before its optimizer is created.
        data: the training data; only the token ids of a `datasets.Dataset` with `input_ids` can be looked up.
        padding: id of the padding token, which batches contain in addition.
        optimizer: name of the optimizer (`optim` of the training arguments).
        weight_decay: weight decay of the training arguments.

    Returns:
        the embedding; `None` if nothing was replaced, because all rows are needed: with weight decay or another
        optimizer, if the embeddings are frozen, shared with a head or hooked, if the token ids are unknown, or if the
        data uses most of the vocabulary.
    """
    if weight_decay or optimizer not in ELEMENTWISE_OPTIMIZERS:
        return None
    rows = _token_ids_in(data, padding)
    if rows is None:
        return None
    original = without_adapters(model).get_input_embeddings()
    if type(original) is not nn.Embedding or not _is_plain(original) or _is_shared(model, original.weight):
        return None
    if len(rows) > MAX_SHARE_OF_ROWS * len(original.weight):
        return None
    embedding = PartlyTrainedEmbedding(original, rows)
    without_adapters(model).set_input_embeddings(embedding)
    return embedding


def restore_word_embeddings(model: PreTrainedModel) -> None:
    """Put the original word embeddings back, with the trained rows, if they were replaced."""
    base = without_adapters(model)
    embedding = base.get_input_embeddings()
    if isinstance(embedding, PartlyTrainedEmbedding):
        embedding.update_weight()
        embedding.original.weight.data = embedding.weight.data  # moving the model to a device or dtype separates them
        base.set_input_embeddings(embedding.original.train(embedding.training))


def _token_ids_in(data: object, padding: int | None) -> torch.Tensor | None:
    """Return the token ids of a data set in ascending order; for a selection of rows, those of the full table."""
    if not isinstance(data, Dataset) or data.format["type"] == "custom" or "input_ids" not in data.column_names:
        return None
    ids = {*pc.unique(pc.list_flatten(data.data.column("input_ids"))).to_pylist(), padding} - {None}
    return torch.tensor(sorted(ids))


def _is_plain(embedding: nn.Embedding) -> bool:
    """Return whether an embedding is trained, has no hooks, and changes its weights in no forward pass."""
    hooked = embedding._forward_hooks or embedding._forward_pre_hooks
    return embedding.weight.requires_grad and embedding.max_norm is None and not hooked


def _is_shared(model: nn.Module, weight: torch.Tensor) -> bool:
    """Return whether more than one module of the model holds this weight, as a tied head does."""
    owners = [module for module in model.modules() if any(own is weight for own in module.parameters(recurse=False))]
    return len(owners) > 1
