"""Unstructured pruning with the ranking of NNCF (`nncf.prune`) instead of our own.

NNCF only chooses which weights become zero. `tkd_hf.pruning.unstructured` keeps them at zero in training, writes the
masks into checkpoints, and follows the schedule. The model therefore never carries NNCF's hooks, and is saved, exported
and loaded like any other. Zeros alone make nothing faster on dense hardware, whoever chooses them.
"""

import copy

import torch
from transformers import PreTrainedModel

from ..core.errors import InputError
from ..core.optional_dependencies import import_optional
from .unstructured import Masks, Sparsity, Weights


class NNCFMasks:
    """Choose the weights that stay with `nncf.prune`; pass an instance as the `masks` of an `ElementPruner`.

    With `scope="global"`, NNCF divides each magnitude by the norm of its matrix before it compares them, and
    `magnitude_masks` does not. NNCF therefore spares matrices whose weights are all small. With `scope="layer"` both
    choose the same weights, except that NNCF prunes equal magnitudes together.

    Args:
        model: model to prune; NNCF traces a copy of it.
        example: one tokenized input to trace the model with.

    Raises:
        InputError: if NNCF is not installed. Calling the instance raises it for a `pattern`, which NNCF does not
            support, and if NNCF does not recognize all weights of the model.

    Example (`model`, `tokenizer`: loaded before):

        masks = NNCFMasks(model, tokenizer("a text", return_tensors="pt"))
        ElementPruner(model, Sparsity(0.5), masks).prune()
    """

    def __init__(self, model: PreTrainedModel, example: dict[str, torch.Tensor]):
        self.nncf = import_optional("nncf", "tkd-hf[openvino]", "pruning by NNCF")
        self.model, self.example = model, dict(example)

    def __call__(self, weights: Weights, sparsity: Sparsity, share: float = 1.0) -> Masks:
        """Return the masks for this share of the way to the target, from the current weights."""
        from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules

        if sparsity.pattern is not None:
            raise InputError(
                f"NNCF does not support pattern={sparsity.pattern!r}; give a share instead, or prune without NNCF"
            )
        modes = {
            "global": self.nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
            "layer": self.nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
        }
        # embeddings, pooler and head
        ignored = [name for name, _ in self.model.named_parameters() if name not in weights]
        pruned = self.nncf.prune(
            copy.deepcopy(self.model).eval(),
            modes[sparsity.scope],
            ratio=share * sparsity.target,
            ignored_scope=self.nncf.IgnoredScope(names=ignored, validate=False),
            examples_inputs=self.example,
        )
        # `nncf.strip` would apply the masks, but in version 3.4 it imports torchao, which nncf does not install.
        masks = {name: hook.binary_mask for name, hook in get_pruned_modules(pruned).items()}
        if masks.keys() != weights.keys():
            raise InputError(
                f"NNCF recognized {len(masks)} of the {len(weights)} weights to prune in {type(self.model).__name__}; "
                "prune this model without NNCF"
            )
        return masks
