"""Structured pruning: masks that silence units while a model trains, and compaction that takes them out at its end.

A masked model and the compacted one give the same logits. Masks are hooks, so that the parameters, and the optimizer's
state of them, keep their shapes while pruning goes on; a masked unit writes nothing and gets no gradient, so what
momentum or weight decay do to its weights has no effect.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ..configuration_tkd import TKDConfig
from ..model_loading import refuse_quantized
from ..modeling_tkd import TKDForSequenceClassification, TKDPreTrainedModel
from .units import Units


class Gates:
    """Hooks on a model that multiply what each unit gives: 1 as it is, 0 not at all.

    Heads are gated where they enter the attention's output projection and neurons where they enter that of the
    feed-forward block; a gated layer hands on its input; a gated dimension of the residual stream is 0 and left out
    of the statistics of every LayerNorm.

    Args:
        model: a TKD, with a head or without.

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
        self._values = self.masks.map(lambda mask: None)
        self._head_dim = model.config.head_dim
        self._handles = list(self._install(model))

    def set(self, masks: Units) -> None:
        """Silences what the masks leave out."""
        self.masks = masks
        device = self.model.device
        self._values = masks.map(lambda mask: None if mask.all() else mask.to(device, torch.float32))

    def remove(self) -> None:
        """Takes the hooks away: the model is as it was."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def for_each_example(self, examples: int, hidden: bool = False) -> Iterator[list[torch.Tensor]]:
        """Gates of each example's own, at the values of the masks, for gradients with respect to them.

        Gives tensors of (examples, 1, units) that require gradients: of the heads of each layer, then of the neurons,
        of the layers, and of the hidden width if that is asked for.
        """
        before, device = self._values, self.model.device

        def leaf(mask: torch.Tensor) -> torch.Tensor:
            return mask.to(device, torch.float32).repeat(examples, 1, 1).requires_grad_()

        masks, depth = self.masks, len(self.masks.heads)
        gates = [leaf(mask) for mask in (*masks.heads, *masks.neurons, masks.layers, *([masks.hidden] * hidden))]
        self._values = Units(
            gates[:depth], gates[depth : 2 * depth], gates[2 * depth], gates[-1] if hidden else before.hidden
        )
        try:
            yield gates
        finally:
            self._values = before

    def _install(self, model: TKDPreTrainedModel):
        encoder = model.base_model
        for index, layer in enumerate(encoder.layers):
            yield layer.attention.output.register_forward_pre_hook(partial(self._gate_heads, index))
            yield layer.feed_forward.output.register_forward_pre_hook(partial(self._gate_neurons, index))
            # first of the layer's hooks: those that record hidden states are to see what the next layer gets
            yield layer.register_forward_hook(partial(self._gate_layer, index), prepend=True)
        for norm in _norms_over_hidden(model):
            yield norm.register_forward_hook(self._gate_norm)
        if encoder.embeddings.projection is not None:
            yield encoder.embeddings.projection.register_forward_hook(self._gate_projection)
        if isinstance(model, TKDForSequenceClassification):  # its dense layer is as wide as the residual stream
            yield model.classifier.register_forward_pre_hook(self._gate_classifier)

    def _gate_heads(self, layer: int, module: nn.Module, args: tuple):
        gate = self._values.heads[layer]
        return None if gate is None else (_times(args[0], gate.repeat_interleave(self._head_dim, dim=-1)),)

    def _gate_neurons(self, layer: int, module: nn.Module, args: tuple):
        gate = self._values.neurons[layer]
        return None if gate is None else (_times(args[0], gate),)

    def _gate_layer(self, layer: int, module: nn.Module, args: tuple, output: torch.Tensor):
        if self._values.layers is None:
            return None
        gate = self._values.layers[..., layer : layer + 1].to(output.dtype)
        return gate * output + (1 - gate) * args[0]

    def _gate_norm(self, module: nn.LayerNorm, args: tuple, output: torch.Tensor):
        gate = self._values.hidden
        return None if gate is None else _layer_norm(args[0].float(), gate, module).to(output.dtype)

    def _gate_projection(self, module: nn.Module, args: tuple, output: torch.Tensor):
        return None if self._values.hidden is None else _times(output, self._values.hidden)

    def _gate_classifier(self, module: nn.Module, args: tuple):
        return None if self._values.hidden is None else (_times(args[0], self._values.hidden),)


def _times(states: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """States of (batch, length, units) or (batch, units), gated."""
    gate = gate.to(states.dtype)
    return states * (gate.squeeze(1) if gate.dim() > states.dim() else gate)


def _layer_norm(states: torch.Tensor, gate: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """LayerNorm over the dimensions that the gate leaves."""
    count = gate.sum(-1, keepdim=True)
    centred = gate * (states - (gate * states).sum(-1, keepdim=True) / count)
    variance = centred.square().sum(-1, keepdim=True) / count
    return centred * (variance + norm.eps).rsqrt() * norm.weight + gate * norm.bias


def _norms_over_hidden(model: TKDPreTrainedModel) -> list[nn.LayerNorm]:
    """All but those of factorised embeddings, which have a width of their own."""
    factorised = model.config.embedding_size != model.config.hidden_size
    kept = [module for layer in model.base_model.layers for module in layer.modules()]
    modules = kept if factorised else model.modules()
    return [module for module in modules if isinstance(module, nn.LayerNorm)]


# Which units the rows (or the only dimension) and the columns of a module's weights belong to; `embeddings` are those
# of hidden, unless they are factorised.
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
    """The model without the units that the masks leave out: a smaller one of the same class, and nothing to hook.

    It shares no tensor with `model`, and has its device, dtype and mode.

    Args:
        model: a TKD, with a head or without; hooks on it are not copied.
        masks: what stays.

    Raises:
        InputError: if the weights are quantized.
    """
    refuse_quantized(model, "prune")
    config = masks.pruned_config(model.config)
    weights = {}
    for name, weight in model.state_dict().items():
        found = re.fullmatch(r"((?:tkd\.)?)(?:layers\.(\d+)\.)?(.*)\.(weight|bias)", name)
        prefix, layer, module, parameter = found.groups()
        if layer is not None and not masks.layers[int(layer)]:
            continue
        rows, columns = WEIGHT_AXES[module if layer is None else f"layers.#.{module}"]
        weight = _select(weight, rows, 0, layer, masks, model.config)
        if parameter == "weight":
            weight = _select(weight, columns, 1, layer, masks, model.config)
        place = "" if layer is None else f"layers.{int(masks.layers[: int(layer)].sum())}."
        weights[f"{prefix}{place}{module}.{parameter}"] = weight
    with torch.random.fork_rng(devices=[]):  # what is initialised is overwritten, and draws nothing of the user's
        smaller = type(model)(config)
    smaller.load_state_dict(weights)
    return smaller.to(device=model.device, dtype=model.dtype).train(model.training)


def _select(
    weight: torch.Tensor, units: str | None, dim: int, layer: str | None, masks: Units, config: TKDConfig
) -> torch.Tensor:
    """The rows or columns of the units that stay."""
    factorised = config.embedding_size != config.hidden_size
    if units is None or (units == "embeddings" and factorised):
        return weight
    if units in ("hidden", "embeddings"):
        mask = masks.hidden
    elif units == "heads":
        mask = masks.heads[int(layer)].repeat_interleave(config.head_dim)
    else:
        mask = masks.neurons[int(layer)]
    return weight if mask.all() else weight.index_select(dim, mask.nonzero().flatten().to(weight.device))
