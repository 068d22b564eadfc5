"""How much each unit matters: by the loss that its removal would cost, by its weights, or by what it writes.

Each criterion gives scores that add up, so that heads, neurons and layers stand in one ranking: they are squares, and
the squares of many small independent effects sum to that of all. A layer's score is for what it does as a whole; those
of its heads and neurons come on top.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from accelerate.utils import find_batch_size
from torch import nn

from ..errors import InputError
from ..modeling_tkd import TKDPreTrainedModel
from .structured import Gates
from .units import Units


Batch = dict[str, torch.Tensor]
LossFunction = Callable[[Batch], torch.Tensor]


def taylor(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """The squared change of the loss, to first order: the mean over examples of (∂ loss / ∂ gate)², with gates as set.

    Molchanov et al. 2019 (arXiv 1906.10771) rank neurons so, Michel et al. 2019 (arXiv 1905.10650) heads by |∂ loss|;
    Kwon et al. 2022 (arXiv 2204.09656) take the same squares, as Fisher information. The gradient is that of each
    example, since those of a trained model cancel out over many.

    Args:
        gates: those of the model.
        batches: calibration data, as the loss takes it.
        loss: of a batch, a mean over its examples. Of a distilled student, the distillation loss.
        hidden: whether hidden width is to be scored; otherwise its scores are 0.

    Raises:
        InputError: if the loss does not depend on any unit.
    """
    total, examples = None, 0
    with _evaluating(gates.model):
        for batch in batches:
            count = find_batch_size(batch)
            with gates.for_each_example(count, hidden) as values, torch.enable_grad():
                gradients = torch.autograd.grad(loss(batch) * count, values)
            sums = [gradient.square().sum(dim=(0, 1)) for gradient in gradients]
            total = sums if total is None else [one + other for one, other in zip(total, sums, strict=True)]
            examples += count
    if not any(scores.any() for scores in total):
        raise InputError(
            "the loss has no gradient in any head or neuron, so importance=taylor says nothing; a student that answers "
            "exactly as its teacher has none in the objective 'logits': add 'hard', or choose importance=activation"
        )
    return _scores(gates, [scores / examples for scores in total])


def magnitude(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """The sum of the squares of all weights that read or write a unit (arXiv 1506.02626; whole units: 1608.08710).

    Args:
        gates: those of the model.
        batches, loss: not needed; here so that all criteria are called alike.
        hidden: as in `taylor`.
    """
    heads, neurons, layers, model = [], [], [], gates.model
    width = torch.zeros(model.config.hidden_size, device=model.device)
    for layer in model.base_model.layers:
        reading = [_squares(module) for module in (layer.attention.query, layer.attention.key, layer.attention.value)]
        mixing = _squares(layer.attention.output)
        into, out_of = _squares(layer.feed_forward.intermediate), _squares(layer.feed_forward.output)
        rows = sum(weight.sum(dim=1) for weight in reading) + mixing.sum(dim=0)
        heads.append(rows.unflatten(0, (-1, model.config.head_dim)).sum(dim=1))
        neurons.append(into.sum(dim=1) + out_of.sum(dim=0))
        layers.append(_squares(layer.attention_norm).sum() + _squares(layer.feed_forward_norm).sum())
        width += sum(weight.sum(dim=0) for weight in (*reading, into)) + mixing.sum(dim=1) + out_of.sum(dim=1)
    return _scores(gates, [*heads, *neurons, torch.stack(layers), *([width] * hidden)])


def activation(gates: Gates, batches: Sequence[Batch], loss: LossFunction, hidden: bool = False) -> Units:
    """The mean square of what a unit writes into the residual stream, over the real tokens of the calibration data.

    Of a layer, it is what it changes there as a whole; of a dimension of the residual stream, what all layers write
    into it. A unit that is seldom active (Hu et al. 2016, arXiv 1607.03250), or little of which is passed on, can go.

    Args:
        gates: those of the model.
        batches: calibration data, with an `attention_mask` where there is padding.
        loss: of a batch; it is called to run the model.
        hidden: as in `taylor`.
    """
    watch = _Watch(gates.model)
    try:
        with _evaluating(gates.model), torch.no_grad():
            for batch in batches:
                watch.start(batch["attention_mask"].bool())
                loss(batch)
    finally:
        watch.stop()
    return _scores(gates, [*watch.heads(), *watch.neurons(), watch.layers, *([watch.width] * hidden)], watch.tokens)


class _Watch:
    """Hooks that sum the squares of what passes through a model, over the real tokens.

    A neuron writes its activation times a column of weights. A head writes W o, whose square is the product of WᵀW and
    o oᵀ: these are small, so it is o oᵀ that is summed.
    """

    def __init__(self, model: TKDPreTrainedModel):
        self._encoder, self._head_dim, depth = model.base_model, model.config.head_dim, model.config.num_hidden_layers
        self._overlaps, self._activations = [0.0] * depth, [0.0] * depth
        self.layers = torch.zeros(depth, device=model.device)
        self.width = torch.zeros(model.config.hidden_size, device=model.device)
        self.tokens = 0
        self._handles = []
        for index, layer in enumerate(self._encoder.layers):
            mixing, out_of = layer.attention.output, layer.feed_forward.output
            self._handles += [
                mixing.register_forward_pre_hook(partial(self._see_heads, index)),
                out_of.register_forward_pre_hook(partial(self._see_neurons, index)),
                layer.register_forward_hook(partial(self._see_layer, index)),
                mixing.register_forward_hook(self._see_written),
                out_of.register_forward_hook(self._see_written),
            ]

    def start(self, real: torch.Tensor) -> None:
        """A batch comes, with these real tokens, (batch, length)."""
        self._real = real
        self.tokens += int(real.sum())

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()

    def heads(self) -> list[torch.Tensor]:
        """For each layer, (heads,)."""
        weights = [layer.attention.output.weight.detach().float() for layer in self._encoder.layers]
        columns = [weight.unflatten(1, (-1, self._head_dim)) for weight in weights]
        grams = [torch.einsum("whd,whe->hde", column, column) for column in columns]
        return [(gram * overlap).sum(dim=(1, 2)) for gram, overlap in zip(grams, self._overlaps, strict=True)]

    def neurons(self) -> list[torch.Tensor]:
        """For each layer, (neurons,)."""
        weights = [_squares(layer.feed_forward.output).sum(dim=0) for layer in self._encoder.layers]
        return [weight * squares for weight, squares in zip(weights, self._activations, strict=True)]

    def _see_heads(self, layer: int, module, args):
        states = args[0][self._real].float().unflatten(-1, (-1, self._head_dim))
        self._overlaps[layer] += torch.einsum("thd,the->hde", states, states)

    def _see_neurons(self, layer: int, module, args):
        self._activations[layer] += args[0][self._real].float().square().sum(dim=0)

    def _see_layer(self, layer: int, module, args, output):
        self.layers[layer] += (output - args[0])[self._real].float().square().sum()

    def _see_written(self, module, args, output):
        self.width += output[self._real].float().square().sum(dim=0)


IMPORTANCE = {"taylor": taylor, "magnitude": magnitude, "activation": activation}


def _squares(module: nn.Module) -> torch.Tensor:
    return module.weight.detach().float().square()


def _scores(gates: Gates, tensors: list[torch.Tensor], divisor: float = 1) -> Units:
    """Scores of heads, of neurons, of layers and perhaps of hidden width; what the masks leave out is worth nothing."""
    masks, depth = gates.masks, len(gates.masks.heads)
    heads, neurons, (layers, *hidden) = tensors[:depth], tensors[depth : 2 * depth], tensors[2 * depth :]
    scores = Units(heads, neurons, layers, hidden[0] if hidden else torch.zeros(len(masks.hidden)))
    return scores.map(lambda score, mask: score.detach().float().cpu() / divisor * mask, masks)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and in the mode it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
