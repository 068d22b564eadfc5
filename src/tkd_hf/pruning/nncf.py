"""Pruning element by element as NNCF ranks it (`nncf.prune`, of optimum's family), behind the interface of ours.

NNCF says which elements go; that they stay zero in training, checkpoints and the schedule are those of
`tkd_hf.pruning.unstructured`. So the model never carries NNCF's hooks, and is saved, exported and loaded as any other.
As there, zeros alone make nothing faster on dense hardware.
"""

import copy

import torch
from transformers import PreTrainedModel

from ..errors import InputError
from ..optional_dependencies import import_optional
from .unstructured import Masks, Sparsity, Weights


class NNCFMasks:
    """Which elements stay where `nncf.prune` is to choose: an `ElementPruner`'s `masks`.

    Of `scope="global"`, NNCF compares magnitudes in proportion to the norm of their matrix, where ours compares them as
    they are. Of `scope="layer"` both do the same, but for equal magnitudes, which NNCF prunes together.

    Args:
        model: the one that is pruned. NNCF traces a copy of it.
        example: an input for the model to be traced with, as its tokenizer gives it.

    Raises:
        InputError: if NNCF is not installed; when it is called, for a pattern, which NNCF does not know.

    Example (`model`, `tokenizer`: loaded before):

        masks = NNCFMasks(model, tokenizer("a text", return_tensors="pt"))
        ElementPruner(model, Sparsity(0.5), masks).prune()
    """

    def __init__(self, model: PreTrainedModel, example: dict[str, torch.Tensor]):
        self.nncf = import_optional("nncf", "openvino", "pruning by NNCF")
        self.model, self.example = model, dict(example)

    def __call__(self, weights: Weights, sparsity: Sparsity, share: float = 1.0) -> Masks:
        """Masks for this share of the way to the target, from the weights as they are now."""
        from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules

        if sparsity.pattern is not None:
            raise InputError(f"NNCF knows no pattern={sparsity.pattern!r}; give it a share, or prune without it")
        modes = {
            "global": self.nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
            "layer": self.nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
        }
        others = [name for name, _ in self.model.named_parameters() if name not in weights]
        pruned = self.nncf.prune(
            copy.deepcopy(self.model).eval(),
            modes[sparsity.scope],
            ratio=share * sparsity.share,
            ignored_scope=self.nncf.IgnoredScope(names=others, validate=False),  # embeddings, pooler and head
            examples_inputs=self.example,
        )
        # read here, because nncf.strip of 3.4 imports torchao, which nncf does not install
        masks = {name: hook.binary_mask for name, hook in get_pruned_modules(pruned).items()}
        if masks.keys() != weights.keys():
            raise InputError(
                f"NNCF found {len(masks)} of the {len(weights)} weights to prune in {type(self.model).__name__}; prune "
                "it without NNCF"
            )
        return masks
