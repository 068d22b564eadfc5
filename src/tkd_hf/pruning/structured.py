"""Mask units of a model with hooks while it trains, and build the smaller model without them at the end.

The masked model and the smaller one return the same logits. Masks are hooks, so parameters and optimizer state keep
their shapes while pruning goes on. A masked unit has no output and receives no gradient, so it does not matter if
momentum or weight decay still change its weights.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..models.configuration_tkd import TKDConfig
from ..models.modeling_tkd import TKDForSequenceClassification, TKDPreTrainedModel
from ..models.quantized import refuse_quantized
from .units import Units, encoder_of, head_dim_of, layers_of


class Gates:
    """Hooks that multiply the output of every unit by a gate: 1 leaves it unchanged, 0 switches it off.

    A head is gated at the input of the attention's output projection, and a neuron at the input of the feed-forward
    output projection. A layer with gate 0 returns its input. A dimension of the residual stream with gate 0 is 0
    everywhere, and every LayerNorm leaves it out of mean and variance.

    Gates are how pruning tries a smaller model without building it. They cost time rather than save it; `compact`
    builds the model that is really smaller. Until `remove` is called, the model computes every token of a batch with
    its padding (`TKDModel.compute_all_tokens`), because gates of single examples have to find the rows of the batch.

    Args:
        model: a TKD model, with or without a head. Its parameters do not change.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf import TKDConfig, TKDModel
    >>> from tkd_hf.pruning import Gates, compact

    >>> model = TKDModel(TKDConfig(num_hidden_layers=2)).eval()
    >>> gates = Gates(model)
    >>> gates.masks.heads[0][3:] = gates.masks.neurons[1][5:] = False
    >>> gates.set(gates.masks)
    >>> small = compact(model, gates.masks)
    >>> small.config.heads_per_layer, small.config.intermediate_sizes
    ([3, 8], [2048, 5])
    >>> batch = {"input_ids": torch.tensor([[101, 7592, 102]])}
    >>> torch.allclose(model(**batch).last_hidden_state, small(**batch).last_hidden_state, atol=1e-5)
    True

    ```
    """

    def __init__(self, model: TKDPreTrainedModel):
        self.model = model
        self.masks = Units.full(model.config, True)
        # Gate values on the model's device. None means that all gates are 1, and costs no time.
        self._values = self.masks.map(lambda mask: None)
        self._handles = list(self._install(model))
        self._encoder = encoder_of(model)
        self._computed_all_tokens = self._encoder.compute_all_tokens
        self._encoder.compute_all_tokens = True

    def set(self, masks: Units) -> None:
        """Switch off all units whose mask is `False`."""
        self.masks = masks
        device = self.model.device
        self._values = masks.map(lambda mask: None if mask.all() else mask.to(device, torch.float32))

    def remove(self) -> None:
        """Remove the hooks, which makes the model the unpruned one again."""
        for handle in self._handles:
            handle.remove()
        self._encoder.compute_all_tokens = self._computed_all_tokens

    @contextmanager
    def for_each_example(self, examples: int, hidden: bool = False) -> Iterator[list[torch.Tensor]]:
        """Give every example gates of its own, to compute a gradient per example.

        Args:
            examples: number of examples in the batch that runs inside the context.
            hidden: whether to include gates of the residual stream.

        Yields:
            tensors of shape (examples, 1, units) that require gradients and have the values of the masks: one per layer
            for heads, one per layer for neurons, one for all layers, and one for hidden width if `hidden`.
        """
        previous, device = self._values, self.model.device

        def leaf(mask: torch.Tensor) -> torch.Tensor:
            return mask.to(device, torch.float32).repeat(examples, 1, 1).requires_grad_()

        masks, depth = self.masks, len(self.masks.heads)
        gates = [leaf(mask) for mask in (*masks.heads, *masks.neurons, masks.layers, *([masks.hidden] * hidden))]
        self._values = Units(
            gates[:depth], gates[depth : 2 * depth], gates[2 * depth], gates[-1] if hidden else previous.hidden
        )
        try:
            yield gates
        finally:
            self._values = previous

    def _install(self, model: TKDPreTrainedModel) -> Iterator[RemovableHandle]:
        for index, layer in enumerate(layers_of(model)):
            yield layer.attention.output.register_forward_pre_hook(partial(self._gate_heads, index))
            yield layer.feed_forward.output.register_forward_pre_hook(partial(self._gate_neurons, index))
            # This hook runs before all others of the layer, so that hooks that record hidden states see the gated
            # output, which is the input of the next layer.
            yield layer.register_forward_hook(partial(self._gate_layer, index), prepend=True)
        for norm in _norms_over_hidden(model):
            yield norm.register_forward_hook(self._gate_norm)
        projection = encoder_of(model).embeddings.projection
        if projection is not None:
            yield projection.register_forward_hook(self._gate_projection)
        if isinstance(model, TKDForSequenceClassification):  # its dense layer has the width of the residual stream
            yield model.classifier.register_forward_pre_hook(self._gate_classifier)

    def _gate_heads(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor] | None:
        gate = self._values.heads[layer]
        head_dim = head_dim_of(self.model.config)
        return None if gate is None else (_apply_gate(args[0], gate.repeat_interleave(head_dim, dim=-1)),)

    def _gate_neurons(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor] | None:
        gate = self._values.neurons[layer]
        return None if gate is None else (_apply_gate(args[0], gate),)

    def _gate_layer(
        self, layer: int, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor
    ) -> torch.Tensor | None:
        if self._values.layers is None:
            return None
        gate = self._values.layers[..., layer : layer + 1].to(output.dtype)
        return gate * output + (1 - gate) * args[0]

    def _gate_norm(self, module: nn.LayerNorm, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        gate = self._values.hidden
        return None if gate is None else _gated_layer_norm(args[0].float(), gate, module).to(output.dtype)

    def _gate_projection(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        return None if self._values.hidden is None else _apply_gate(output, self._values.hidden)

    def _gate_classifier(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor] | None:
        return None if self._values.hidden is None else (_apply_gate(args[0], self._values.hidden),)


def _apply_gate(states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Multiply states of shape (batch, length, units) or (batch, units) by a gate."""
    gate = gate.to(states.dtype)
    return states * (gate.squeeze(1) if gate.dim() > states.dim() else gate)


def _gated_layer_norm(states: torch.Tensor, gate: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """Compute LayerNorm over the dimensions whose gate is 1, differentiably in the gate."""
    count = gate.sum(-1, keepdim=True)
    centred = gate * (states - (gate * states).sum(-1, keepdim=True) / count)
    variance = centred.square().sum(-1, keepdim=True) / count
    return centred * (variance + norm.eps).rsqrt() * norm.weight + gate * norm.bias


def _norms_over_hidden(model: TKDPreTrainedModel) -> list[nn.LayerNorm]:
    """Return the norms of the residual stream. Norms of factorised embeddings have another width and are left out."""
    factorised = model.config.embedding_size != model.config.hidden_size
    encoder_modules = [module for layer in layers_of(model) for module in layer.modules()]
    modules = encoder_modules if factorised else list(model.modules())
    return [module for module in modules if isinstance(module, nn.LayerNorm)]


# The kind of units that the rows (of a vector: its only dimension) and the columns of a weight belong to. "embeddings"
# means hidden width, unless the embeddings are factorised, in which case their width is not pruned.
WEIGHT_AXES = {
    "embeddings.word_embeddings": (None, "embeddings"),
    "embeddings.position_embeddings": (None, "embeddings"),
    "embeddings.token_type_embeddings": (None, "embeddings"),
    "embeddings.norm": ("embeddings", None),
    "embeddings.projection": ("hidden", None),
    "layers.#.attention.query": ("heads", "hidden"),
    "layers.#.attention.key": ("heads", "hidden"),
    "layers.#.attention.value": ("heads", "hidden"),
    "layers.#.attention.output": ("hidden", "heads"),
    "layers.#.attention_norm": ("hidden", None),
    "layers.#.feed_forward.intermediate": ("neurons", "hidden"),
    "layers.#.feed_forward.output": ("hidden", "neurons"),
    "layers.#.feed_forward_norm": ("hidden", None),
    "dense": ("hidden", "hidden"),
    "classifier": (None, "hidden"),
    "transform": ("embeddings", "hidden"),
    "norm": ("embeddings", None),
    "decoder": (None, "embeddings"),
}


def compact(model: TKDPreTrainedModel, masks: Units) -> TKDPreTrainedModel:
    """Return a smaller model of the same class without the masked units, with the logits of the masked model.

    The result has no hooks and shares no tensor with `model`. It has the same device, dtype and training mode.

    Args:
        model: a TKD model, with or without a head.
        masks: units that stay.

    Raises:
        InputError: if the weights are quantized, because rows and columns of packed weights cannot be removed.
    """
    refuse_quantized(model, "prune")
    # All initial values are overwritten. The fork keeps their initialisation from advancing the user's random state.
    with torch.random.fork_rng(devices=[]):
        smaller = type(model)(masks.pruned_config(model.config))
    smaller.load_state_dict(_remaining_weights(model, masks))
    smaller.to(device=model.device, dtype=model.dtype)  # type: ignore[call-arg]  # transformers wraps `to` without types
    return smaller.train(model.training)


def _remaining_weights(model: TKDPreTrainedModel, masks: Units) -> dict[str, torch.Tensor]:
    """Return the weights of the units that stay, under their names in the smaller model."""
    weights = {}
    for name, weight in model.state_dict().items():
        match = re.fullmatch(r"((?:tkd\.)?)(?:layers\.(\d+)\.)?(.*)\.(weight|bias)", name)
        assert match is not None  # all weights of TKD have such names
        prefix, layer, module, parameter = match.groups()
        if layer is None:
            index, layer_prefix, axes = 0, "", WEIGHT_AXES[module]
        else:
            index, axes = int(layer), WEIGHT_AXES[f"layers.#.{module}"]
            layer_prefix = f"layers.{int(masks.layers[:index].sum())}."
            if not masks.layers[index]:
                continue
        for dim, units in enumerate(axes[: weight.dim()]):
            weight = _select(weight, units, dim, index, masks, model.config)
        weights[f"{prefix}{layer_prefix}{module}.{parameter}"] = weight
    return weights


def _select(
    weight: torch.Tensor, units: str | None, dim: int, layer: int, masks: Units, config: TKDConfig
) -> torch.Tensor:
    """Return the rows (`dim` 0) or columns (`dim` 1) of a weight that belong to units that stay."""
    factorised = config.embedding_size != config.hidden_size
    if units is None or (units == "embeddings" and factorised):
        return weight
    if units in ("hidden", "embeddings"):
        mask = masks.hidden
    elif units == "heads":
        mask = masks.heads[layer].repeat_interleave(head_dim_of(config))
    else:
        mask = masks.neurons[layer]
    return weight if mask.all() else weight.index_select(dim, mask.nonzero().flatten().to(weight.device))
