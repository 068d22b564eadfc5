"""Word embeddings of which only the rows are trained that the data has words for.

A vocabulary of 30,522 words is two thirds of a small student, and a data set has words for some of it. The other rows
get a gradient of zero in every step, and where nothing else moves them (no weight decay), Adam leaves them as they are.
So they need no gradients and no moments, and no time to compute them.
"""

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from .signals import without_adapters


# optimizers that leave a weight whose gradient is always zero, and treat each number by itself
EXACT = ("adamw_torch", "adamw_torch_fused")


class RowsInUse(nn.Embedding):
    """Stands in for an embedding in training; saved and loaded as the embedding itself.

    Args:
        whole: the embedding; it shares its weights, which are up to date whenever the model is evaluated or saved.
        rows (`(used,)`, long): those that training data names.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.rows_in_use import RowsInUse
    >>> embedding = RowsInUse(torch.nn.Embedding(30_522, 384), torch.tensor([0, 101, 102, 2143]))
    >>> embedding(torch.tensor([[101, 2143, 102]])).shape
    torch.Size([1, 3, 384])
    >>> {name: tuple(weight.shape) for name, weight in embedding.named_parameters() if weight.requires_grad}
    {'in_use': (4, 384)}
    >>> {name: tuple(weight.shape) for name, weight in embedding.state_dict().items()}
    {'weight': (30522, 384)}

    ```
    """

    def __init__(self, whole: nn.Embedding, rows: torch.Tensor):
        weight, padding = whole.weight, whole.padding_idx
        super().__init__(*weight.shape, padding_idx=padding, _weight=weight.detach(), _freeze=True)
        self.whole = (whole,)  # a tuple, so that it is no module of this one
        rows = rows.to(weight.device)
        places = torch.full((len(weight),), len(rows), device=weight.device)  # a row that is not there fails
        places[rows] = torch.arange(len(rows), device=weight.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.padding_place = places[padding].item() if padding is not None and padding in rows else None
        self.in_use = nn.Parameter(weight.detach()[rows])
        self.train(whole.training)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(ids)
        return functional.embedding(self.places[ids], self.in_use, self.padding_place)

    def reattach(self, model: PreTrainedModel) -> None:
        """Takes the place of the whole again, with its weights of today."""
        if without_adapters(model).get_input_embeddings() is self.whole[0]:
            self.weight.data = self.whole[0].weight.data
            self.in_use.data.copy_(self.weight[self.rows])
            without_adapters(model).set_input_embeddings(self)

    def train(self, mode: bool = True) -> "RowsInUse":
        if not mode and hasattr(self, "in_use"):
            self.write()
        return super().train(mode)

    @torch.no_grad()
    def write(self) -> None:
        """Brings what was learned into the weights of the whole."""
        self.weight[self.rows] = self.in_use

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self.write()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}in_use"]

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        whole = state_dict.get(f"{prefix}weight")
        if whole is not None:
            state_dict = {**state_dict, f"{prefix}in_use": whole[self.rows.to(whole.device)]}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def train_rows_in_use(
    model: PreTrainedModel, data: object, padding: int | None, optimizer: str, weight_decay: float
) -> RowsInUse | None:
    """Puts `RowsInUse` in the place of a model's word embeddings where training comes to the same.

    Args:
        model: the model, before its optimizer is made.
        data: what it is trained on; looked through where it is a `datasets.Dataset` with `input_ids`.
        padding: the token that batches have besides.
        optimizer, weight_decay: of the training arguments.

    Returns:
        what trains in their place; `None` where all of them do: with weight decay or another optimizer, where they are
        frozen, shared with a head or looked into by hooks, or where the data has most of the words.
    """
    if weight_decay or optimizer not in EXACT or (rows := _rows(data, padding)) is None:
        return None
    whole = without_adapters(model).get_input_embeddings()
    plain = type(whole) is nn.Embedding and whole.weight.requires_grad and whole.max_norm is None
    if not plain or whole._forward_hooks or whole._forward_pre_hooks or _shared(model, whole.weight):
        return None
    if len(rows) > 0.9 * len(whole.weight):
        return None
    used = RowsInUse(whole, rows)
    without_adapters(model).set_input_embeddings(used)
    return used


def restore_word_embeddings(model: PreTrainedModel) -> None:
    """Puts the word embeddings back into their place, with what was learned, if they are not there."""
    base = without_adapters(model)
    if isinstance(used := base.get_input_embeddings(), RowsInUse):
        used.write()
        used.whole[0].weight.data = used.weight.data  # if the model was moved meanwhile, the two are no longer one
        base.set_input_embeddings(used.whole[0].train(used.training))


def _rows(data: object, padding: int | None) -> torch.Tensor | None:
    """The tokens that occur in a data set, ascending; of a selection those of all that it was selected from."""
    if not isinstance(data, Dataset) or data.format["type"] == "custom" or "input_ids" not in data.column_names:
        return None
    ids = {*pc.unique(pc.list_flatten(data.data.column("input_ids"))).to_pylist(), padding} - {None}
    return torch.tensor(sorted(ids))


def _shared(model: nn.Module, weight: torch.Tensor) -> bool:
    places = [module for module in model.modules() if any(one is weight for one in module._parameters.values())]
    return len(places) > 1
