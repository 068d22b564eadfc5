"""Importance: score every unit of a model, so that pruning can remove the least important units.

Each criterion is one function with the signature of `taylor`. To add a criterion, write such a function and register it
in `IMPORTANCE`.

Scores must be additive, because heads, neurons and layers share one ranking and a layer competes with the sum of the
scores left in it. All criteria here are squares: the squares of many small, independent effects add up to the square of
their joint effect. The score of a layer is for the layer as a whole; the scores of its heads and neurons are added to
it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..core.errors import InputError
from ..models.modeling_tkd import TKDPreTrainedModel
from ..models.signals import all_tokens_computed
from .arguments import CRITERIA
from .structured import Gates
from .units import Units, head_dim_of, layers_of


Batch = dict[str, torch.Tensor]
LossFunction = Callable[[Batch], torch.Tensor]


def taylor(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """Score each unit by the squared change of the loss if it were removed, estimated to first order.

    Every unit is multiplied by a gate. The change of the loss when the gate goes from 1 to 0 is about -∂loss/∂gate. The
    score is the mean of the squared derivative over the calibration examples. It is taken per example, because the
    gradients of a trained model cancel out in the mean.

    This is the default, because no other criterion here takes the training goal into account. It needs a backward pass
    per batch, and a loss with a gradient. A student that still equals its teacher has no gradient in the distillation
    loss: add the objective `"hard"` then, or use `activation`.

    Molchanov et al. 2019 (arXiv 1906.10771) score neurons in this way. Michel et al. 2019 (arXiv 1905.10650) score
    heads by the absolute derivative. Kwon et al. 2022 (arXiv 2204.09656) use the same squares as the diagonal of the
    Fisher information.

    Args:
        gates: gates of the model; units that they mask score 0.
        batches: calibration data, as `loss` accepts it.
        loss: runs the model on a batch and returns the mean loss over its examples. For a distilled student, pass the
            distillation loss.
        hidden: whether to score the dimensions of the residual stream; otherwise their scores are 0.

    Returns:
        the scores, on the CPU.

    Raises:
        InputError: if the loss does not depend on any unit.
    """
    totals: list[torch.Tensor] = []
    examples = 0
    with _eval_mode(gates.model):
        for batch in batches:
            batch_size = find_batch_size(batch)
            with gates.for_each_example(batch_size, hidden) as values, torch.enable_grad():
                gradients = torch.autograd.grad(loss(batch) * batch_size, values)
            sums = [gradient.square().sum(dim=(0, 1)) for gradient in gradients]
            totals = [total + part for total, part in zip(totals, sums, strict=True)] if totals else sums
            examples += batch_size
    if not any(scores.any() for scores in totals):
        raise InputError(
            "the loss has no gradient in any head or neuron, so importance=taylor cannot rank them. A student whose "
            "predictions equal its teacher's has no gradient in the objective 'logits': add the objective 'hard', or "
            "choose importance=activation"
        )
    return _scores(gates, [scores / examples for scores in totals])


def magnitude(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """Score each unit by the sum of the squares of all weights that read or write it.

    This needs no data and takes no time, but it ignores the activations: a unit with large weights scores high even if
    its inputs are always small. Han et al. 2015 (arXiv 1506.02626) prune single weights by magnitude, and
    Li et al. 2016 (arXiv 1608.08710) whole filters.

    Args:
        gates: gates of the model; units that they mask score 0.
        batches, loss: not used; all criteria have the same signature.
        hidden: as in `taylor`.
    """
    heads, neurons, layers, model = [], [], [], gates.model
    width = torch.zeros(model.config.hidden_size, device=model.device)
    for layer in layers_of(model):
        attention, feed_forward = layer.attention, layer.feed_forward
        inputs = [_squares(module) for module in (attention.query, attention.key, attention.value)]
        attention_output = _squares(attention.output)
        into_neurons, out_of_neurons = _squares(feed_forward.intermediate), _squares(feed_forward.output)
        head_rows = sum(weight.sum(dim=1) for weight in inputs) + attention_output.sum(dim=0)
        heads.append(head_rows.unflatten(0, (-1, head_dim_of(model.config))).sum(dim=1))
        neurons.append(into_neurons.sum(dim=1) + out_of_neurons.sum(dim=0))
        layers.append(_squares(layer.attention_norm).sum() + _squares(layer.feed_forward_norm).sum())
        read = sum(weight.sum(dim=0) for weight in (*inputs, into_neurons))
        width += read + attention_output.sum(dim=1) + out_of_neurons.sum(dim=1)
    return _scores(gates, [*heads, *neurons, torch.stack(layers), *([width] * hidden)])


def activation(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """Score each unit by the mean square of its output to the residual stream, over all real tokens.

    The score of a layer is the mean square of its output minus its input. The score of a dimension of the residual
    stream is the mean square of what all layers write into it. Units that are rarely active, or whose output weights
    are small, score low (compare Hu et al. 2016, arXiv 1607.03250).

    Use it if the loss has no gradient, such as for a student that is its own teacher and has no labels. It measures how
    much a unit writes, not whether the model's prediction depends on it.

    Args:
        gates: gates of the model; units that they mask score 0.
        batches: calibration data with an `attention_mask`, which is 1 for real tokens.
        loss: called with each batch only to run the model.
        hidden: as in `taylor`.
    """
    recorder = _ActivationRecorder(gates.model)
    try:
        with _eval_mode(gates.model), all_tokens_computed(gates.model), torch.no_grad():
            for batch in batches:
                recorder.start_batch(batch["attention_mask"].bool())
                loss(batch)
    finally:
        recorder.remove_hooks()
    sums = [*recorder.heads(), *recorder.neurons(), recorder.layers, *([recorder.width] * hidden)]
    return _scores(gates, sums, recorder.tokens)


class _ActivationRecorder:
    """Hooks that sum the squares of what each unit writes into the residual stream, over the real tokens.

    A neuron writes its activation times one column w of the output weights, so its square is activation² · |w|².

    A head writes W o, with its output o and its columns W of the output weights. The square |W o|² equals the sum of
    the elementwise product of WᵀW and o oᵀ. Both are small matrices (head_dim × head_dim), so the hooks sum o oᵀ over
    the tokens and `heads` multiplies once.
    """

    def __init__(self, model: TKDPreTrainedModel):
        self._layers, self._head_dim = layers_of(model), head_dim_of(model.config)
        depth = len(self._layers)
        self._head_products: list[torch.Tensor | float] = [0.0] * depth
        self._neuron_squares: list[torch.Tensor | float] = [0.0] * depth
        self.layers = torch.zeros(depth, device=model.device)
        self.width = torch.zeros(model.config.hidden_size, device=model.device)
        self.tokens = 0
        self._handles: list[RemovableHandle] = []
        for index, layer in enumerate(self._layers):
            attention_output, feed_forward_output = layer.attention.output, layer.feed_forward.output
            self._handles += [
                attention_output.register_forward_pre_hook(partial(self._record_heads, index)),
                feed_forward_output.register_forward_pre_hook(partial(self._record_neurons, index)),
                layer.register_forward_hook(partial(self._record_layer, index)),
                attention_output.register_forward_hook(self._record_width),
                feed_forward_output.register_forward_hook(self._record_width),
            ]

    def start_batch(self, real_tokens: torch.Tensor) -> None:
        """Set the mask of real tokens, (batch, length), of the batch that the model runs next."""
        self._real_tokens = real_tokens
        self.tokens += int(real_tokens.sum())

    def remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def heads(self) -> list[torch.Tensor]:
        """Return the sum of squares per head, one tensor of shape (heads,) per layer."""
        weights = [layer.attention.output.weight.detach().float() for layer in self._layers]
        columns = [weight.unflatten(1, (-1, self._head_dim)) for weight in weights]
        weight_products = [torch.einsum("whd,whe->hde", column, column) for column in columns]
        pairs = zip(weight_products, self._head_products, strict=True)
        return [(weight_product * head_product).sum(dim=(1, 2)) for weight_product, head_product in pairs]

    def neurons(self) -> list[torch.Tensor]:
        """Return the sum of squares per neuron, one tensor of shape (neurons,) per layer."""
        weights = [_squares(layer.feed_forward.output).sum(dim=0) for layer in self._layers]
        return [weight * squares for weight, squares in zip(weights, self._neuron_squares, strict=True)]

    def _record_heads(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        states = args[0][self._real_tokens].float().unflatten(-1, (-1, self._head_dim))
        self._head_products[layer] += torch.einsum("thd,the->hde", states, states)

    def _record_neurons(self, layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._neuron_squares[layer] += args[0][self._real_tokens].float().square().sum(dim=0)

    def _record_layer(self, layer: int, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self.layers[layer] += (output - args[0])[self._real_tokens].float().square().sum()

    def _record_width(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self.width += output[self._real_tokens].float().square().sum(dim=0)


Criterion = Callable[[Gates, Sequence[Batch], LossFunction, bool], Units]
IMPORTANCE: dict[str, Criterion] = dict(zip(CRITERIA, (taylor, magnitude, activation), strict=True))


def _squares(module: nn.Linear | nn.LayerNorm) -> torch.Tensor:
    return module.weight.detach().float().square()


def _scores(gates: Gates, tensors: list[torch.Tensor], divisor: float = 1) -> Units:
    """Collect scores into `Units`: heads and neurons per layer, then layers, then hidden width if there are scores.

    Units that the gates mask score 0.
    """
    masks, depth = gates.masks, len(gates.masks.heads)
    heads, neurons, (layers, *hidden) = tensors[:depth], tensors[depth : 2 * depth], tensors[2 * depth :]
    scores = Units(heads, neurons, layers, hidden[0] if hidden else torch.zeros(len(masks.hidden)))
    return scores.map(lambda score, mask: score.detach().float().cpu() / divisor * mask, masks)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch off dropout, and restore the previous mode at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
