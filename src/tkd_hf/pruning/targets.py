"""Pruning targets: a number of parameters, a size in megabytes, or a speedup measured on this machine.

A target has a `price`, the cost of a model of a given shape, and a `budget`, the highest price that the pruned model
may have. For parameters and megabytes, the price is counted. For speed, the price is a linear model fitted to measured
latencies, and the budget is found by timing candidate shapes from the ranking in turns with the unpruned model.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ..core.errors import InputError, check_finite
from ..inference.runners import PyTorchRunner
from ..inference.timing import median_latencies
from ..models.configuration_tkd import TKDConfig
from ..models.modeling_tkd import TKDPreTrainedModel
from .arguments import DEFAULT_KINDS, KINDS
from .ranking import Costs, Unit, removal_order, remove_units
from .units import Units, check_kinds, resized_config


# Fewest texts to take a median latency of; shorter lists are repeated.
MIN_TIMED_TEXTS = 50


class Target(Protocol):
    """How much `StructuredPruner` removes of which model; `ParameterTarget` is the simplest.

    Attributes:
        model: model to prune.
        kinds: kinds of units that may be removed.
    """

    model: TKDPreTrainedModel
    kinds: tuple[str, ...]

    def price(self, config: TKDConfig) -> float:
        """Return the cost of a model of this shape."""

    def budget(self, masks: Units, order: Sequence[Unit]) -> float:
        """Return the highest price that the pruned model may have.

        Args:
            masks: units that are still in the model.
            order: units that may be removed, in the order in which to remove them.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue with the same prices, as values that JSON can hold."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the prices of another run."""


class ParameterTarget:
    """Prune until a share of the parameters is left, or until the weights have a given size.

    Parameters include the embeddings, which are most of a small model and are not removed by structured pruning. If
    this target cannot be met, prune the vocabulary first (`prune_vocabulary`) or allow `"hidden"` to be pruned.

    Args:
        model: model to prune.
        share: share of the parameters to keep, between 0 and 1.
        megabytes: size of the saved weights, in 10⁶ bytes, at the model's dtype; give either this or `share`.
        kinds: kinds of units that may be removed, from `"heads"`, `"neurons"`, `"layers"` and `"hidden"`.
        reference_parameters: number of parameters that `share` refers to. By default it is the number that the model
            has now; pass another one if the model has already lost parameters, such as embeddings of tokens.

    Raises:
        InputError: if removing these kinds of units cannot meet the target, or the model meets it already. The message
            says how many parameters are left at least.
    """

    def __init__(
        self,
        model: TKDPreTrainedModel,
        share: float | None = None,
        megabytes: float | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
        reference_parameters: int | None = None,
    ):
        check_finite(share=share, megabytes=megabytes)
        self.model, self.kinds = model, check_kinds(kinds, model)
        self._reference = reference_parameters or model.num_parameters()
        self._bytes_per_parameter = model.dtype.itemsize
        if share is not None and megabytes is None:
            self._limit, self._name = share * self._reference, f"{share:g} of the parameters"
        elif megabytes is not None and share is None:
            self._limit, self._name = megabytes * 1e6 / self._bytes_per_parameter, f"{megabytes:g} MB"
        else:
            raise InputError(f"share={share} and megabytes={megabytes}: give one of the two")
        self._check()

    def budget(self, masks: Units, order: Sequence[Unit]) -> float:
        """Return the largest number of parameters that the pruned model may have."""
        return self._limit

    def price(self, config: TKDConfig) -> int:
        """Return the number of parameters of a model with this configuration."""
        with torch.device("meta"):
            return type(self.model)(config).num_parameters()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: counting parameters needs no state."""

    def _check(self) -> None:
        parameters = self.model.num_parameters()
        if self._limit >= parameters:
            raise InputError(
                f"the model already has only {self._describe(parameters)}; choose a target below that instead of {self}"
            )
        minimum = self.price(smallest_config(self.model.config, self.kinds))
        if self._limit < minimum:
            raise InputError(
                f"the target {self} cannot be met by removing {', '.join(self.kinds)}, which leaves at least "
                f"{self._describe(minimum)}{_more_kinds_hint(self.kinds, ', or prune the vocabulary')}"
            )

    def _describe(self, parameters: int) -> str:
        share, megabytes = parameters / self._reference, parameters * self._bytes_per_parameter / 1e6
        return f"{parameters / 1e6:.4g} M parameters ({share:.3f}, {megabytes:.4g} MB)"

    def __str__(self) -> str:
        return self._name


@dataclass
class LatencyModel:
    """Predict the latency of a model from its shape, in milliseconds per text.

    The prediction is linear in the number of layers, heads and neurons. It guides which units to remove; whether a
    target is met is always measured.

    Args:
        rest: milliseconds outside the layers.
        layers: milliseconds per layer, without its heads and neurons.
        heads, neurons: milliseconds per head and per neuron in all layers except the last.
        last_heads, last_neurons: the same in the last layer, where a label for the whole text takes less computation.
        hidden: hidden width at which these values were measured; the time of a layer is proportional to the width.
    """

    rest: float
    layers: float
    heads: float
    neurons: float
    last_heads: float
    last_neurons: float
    hidden: int

    def __call__(self, config: TKDConfig) -> float:
        *inner_layers, last = range(config.num_hidden_layers)
        heads = self.heads * sum(map(config.heads_of, inner_layers)) + self.last_heads * config.heads_of(last)
        neurons = self.neurons * sum(map(config.intermediate_size_of, inner_layers))
        neurons += self.last_neurons * config.intermediate_size_of(last)
        layers = self.layers * config.num_hidden_layers
        return self.rest + (layers + heads + neurons) * config.hidden_size / self.hidden


class SpeedTarget:
    """Prune until the model is a given number of times as fast as before, measured on this machine.

    Latency is measured for one text at a time, in float32. The result holds for the machine and the number of threads
    that it was measured with, so prune where the student will run. On a busy machine the measurements are noisy; a
    shape has to be fast enough twice before it is chosen.

    Args:
        model: model to prune, on the device to measure on.
        speedup: how many times as fast the pruned model should be, more than 1.
        tokenizer: tokenizer of the model.
        texts: texts to measure with, as tuples of one text or two.
        max_length: length in tokens at which the tokenizer truncates texts.
        kinds: as in `ParameterTarget`.

    Raises:
        InputError: if removing these kinds of units cannot meet the target. The message says which speedup is possible.
    """

    def __init__(
        self,
        model: TKDPreTrainedModel,
        speedup: float,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[tuple[str, ...]],
        max_length: int = 128,
        kinds: Sequence[str] = DEFAULT_KINDS,
    ):
        check_finite(speedup=speedup)
        if not speedup > 1:
            raise InputError(f"a speedup of {speedup:g} makes nothing faster; choose one above 1")
        self.model, self.kinds = model, check_kinds(kinds, model)
        self._speedup, self._tokenizer, self._texts, self._max_length = speedup, tokenizer, texts, max_length
        unpruned, smallest = self.measure_latencies(model.config, smallest_config(model.config, self.kinds))
        if unpruned / smallest < speedup:
            raise InputError(
                f"the target {self} cannot be met by removing {', '.join(self.kinds)}: the smallest model that is left "
                f"is {unpruned / smallest:.2f} times as fast{_more_kinds_hint(self.kinds)}"
            )
        self.price = self._fit()

    def budget(self, masks: Units, order: Sequence[Unit]) -> float:
        """Return the predicted latency of the first shape in the ranking that is measured to be fast enough."""
        config = self.model.config

        def fast_enough(count: int) -> bool:
            shape = remove_units(masks, order[:count]).pruned_config(config)
            unpruned, pruned = self.measure_latencies(config, shape)
            return unpruned / pruned >= self._speedup

        # At most about 256 candidates, because a clock cannot tell finer steps apart.
        counts = range(0, len(order), max(1, len(order) // 256))
        index = bisect_left(counts, True, key=fast_enough)
        # Measure the chosen shape again, because a single fast measurement may be chance.
        while index < len(counts) and not fast_enough(counts[index]):
            index = bisect_left(counts, True, lo=index + 1, key=fast_enough)
        removed = order[: counts[index]] if index < len(counts) else order
        return self.price(remove_units(masks, removed).pruned_config(config))

    def measure_latencies(self, *shapes: TKDConfig) -> list[float]:
        """Measure the median milliseconds per text of models with these shapes, which take turns."""
        return shape_latencies(self.model, shapes, self._tokenizer, self._texts, self._max_length)

    def state_dict(self) -> dict[str, Any]:
        """Return the fitted latencies, so that a resumed run ranks by the same prices."""
        return vars(self.price)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.price = LatencyModel(**state)

    def _fit(self) -> LatencyModel:
        """Fit the time per unit: measure models with half of the units of one kind, and divide the time saved."""
        config = self.model.config
        width, depth = config.hidden_size, config.num_hidden_layers
        heads, neurons = [*map(config.heads_of, range(depth))], [*map(config.intermediate_size_of, range(depth))]
        half_depth = (depth + 1) // 2
        unpruned, *fewer_units, fewer_layers = self.measure_latencies(
            config,
            resized_config(config, [*halve_counts(heads[:-1]), heads[-1]], neurons, width),
            resized_config(config, heads, [*halve_counts(neurons[:-1]), neurons[-1]], width),
            resized_config(config, [*heads[:-1], *halve_counts(heads[-1:])], neurons, width),
            resized_config(config, heads, [*neurons[:-1], *halve_counts(neurons[-1:])], width),
            resized_config(config, heads[-half_depth:], neurons[-half_depth:], width),
        )

        def time_per_unit(saved: float, removed: int, total: int) -> float:
            """Divide the time saved by the units removed; noise must not make it less than 1/1000 of all time."""
            return max(saved / max(removed, 1), unpruned / 1000 / max(total, 1))

        counts = (heads[:-1], neurons[:-1], heads[-1:], neurons[-1:])
        head, neuron, last_head, last_neuron = (
            time_per_unit(unpruned - latency, sum(count) - sum(halve_counts(count)), sum(count))
            for latency, count in zip(fewer_units, counts, strict=True)
        )
        removed_units = head * sum(heads[:-half_depth]) + neuron * sum(neurons[:-half_depth])
        layer = time_per_unit(unpruned - fewer_layers - removed_units, depth - half_depth, depth)
        in_layers = LatencyModel(0.0, layer, head, neuron, last_head, last_neuron, width)
        return replace(in_layers, rest=unpruned - in_layers(config))

    def __str__(self) -> str:
        return f"{self._speedup:g} times as fast"


def halve_counts(counts: Sequence[int]) -> list[int]:
    """Halve each count, rounding up."""
    return [(count + 1) // 2 for count in counts]


def shape_latencies(
    model: TKDPreTrainedModel,
    shapes: Sequence[TKDConfig],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
) -> list[float]:
    """Measure the median milliseconds per text, in float32, of models of this class with these shapes.

    The models take turns, so that a machine that slows down slows down all of them. They are new models with random
    weights: latency does not depend on the weights, and the model in training may be slower because of hooks, or
    faster because of mixed precision.
    """
    with torch.random.fork_rng(devices=[]):
        models = [type(model)(shape) for shape in shapes]
    for timed_model in models:
        timed_model.to(model.device).eval()  # type: ignore[arg-type]  # transformers wraps `to` without types
    runners = [PyTorchRunner(timed_model, tokenizer, bf16=False) for timed_model in models]
    timed_texts = [*islice(cycle(texts), max(len(texts), MIN_TIMED_TEXTS))]
    return median_latencies(runners, timed_texts, max_length)


def smallest_config(config: TKDConfig, kinds: Sequence[str]) -> TKDConfig:
    """Return the shape of a model after removing all units of these kinds that may be removed."""
    scores, masks = Units.full(config, 0.0), Units.full(config, True)
    equal_costs = Costs([1] * config.num_hidden_layers, [1] * config.num_hidden_layers, 1, 1)
    return remove_units(masks, removal_order(scores, masks, equal_costs, kinds)).pruned_config(config)


def _more_kinds_hint(kinds: Sequence[str], alternative: str = "") -> str:
    """Return the end of an error message that names the kinds of units that could be removed as well."""
    more_kinds = [kind for kind in KINDS if kind not in kinds]
    return f"; allow {' and '.join(more_kinds)} to be removed (units){alternative}" if more_kinds else ""
