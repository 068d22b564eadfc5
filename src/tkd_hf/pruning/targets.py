"""What is wanted of a pruned model: parameters, megabytes, or a speed that is measured on this machine.

Every target has a price, what a shape costs, and a budget that the price of what is left has to keep. For parameters
and megabytes the price is counted. For speed it is fitted to measured times, and the budget is found by timing the
shapes that the ranking leaves, in turns with the unpruned one.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..configuration_tkd import TKDConfig
from ..errors import InputError
from ..evaluation.benchmark import median_latencies
from ..evaluation.runners import PyTorchRunner
from ..modeling_tkd import TKDPreTrainedModel
from .ranking import Costs, Unit, removal_order, remove_units
from .units import DEFAULT_KINDS, KINDS, Units, check_kinds, resized_config


MIN_TIMED_TEXTS = 50  # of which a median is taken; texts are repeated where there are fewer


class ParameterTarget:
    """So many parameters, embeddings included.

    Args:
        model: what is to be pruned.
        share: of its parameters, between 0 and 1.
        megabytes: or the size of its weights as they are saved, in 10⁶ bytes.
        kinds: what may go: `"heads"`, `"neurons"`, `"layers"`, `"hidden"`.
        reference_parameters: the count that `share` refers to (by default that of the model), for a model that has
            lost parameters already, such as tokens.

    Raises:
        InputError: if the target cannot be met by removing these kinds of units; it says what can.
    """

    def __init__(
        self,
        model: TKDPreTrainedModel,
        share: float | None = None,
        megabytes: float | None = None,
        kinds: Sequence[str] = DEFAULT_KINDS,
        reference_parameters: int | None = None,
    ):
        if (share is None) == (megabytes is None):
            raise InputError(f"share={share} and megabytes={megabytes}: give one of the two")
        self.model, self.kinds = model, check_kinds(kinds, model)
        self._whole, self._bytes = reference_parameters or model.num_parameters(), model.dtype.itemsize
        self._limit = share * self._whole if megabytes is None else megabytes * 1e6 / self._bytes
        self._name = f"{share:g} of the parameters" if megabytes is None else f"{megabytes:g} MB"
        self._check()

    def budget(self, masks: Units, order: Sequence[Unit]) -> float:
        """The most parameters that may be left."""
        return self._limit

    def price(self, config: TKDConfig) -> int:
        """The parameters of this shape."""
        with torch.device("meta"):
            return type(self.model)(config).num_parameters()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is none."""

    def _check(self):
        there = self.model.num_parameters()
        if self._limit >= there:
            raise InputError(f"the model has {self._say(there)} already; the target {self} is not below that")
        least = self.price(smallest_config(self.model.config, self.kinds))
        if self._limit < least:
            raise InputError(
                f"the target {self} cannot be met by removing {', '.join(self.kinds)}: at least {self._say(least)} are "
                f"left{_more(self.kinds, ', and so can the vocabulary')}"
            )

    def _say(self, count: int) -> str:
        return f"{count / 1e6:.4g} M parameters ({count / self._whole:.3f}, {count * self._bytes / 1e6:.4g} MB)"

    def __str__(self) -> str:
        return self._name


@dataclass
class LatencyModel:
    """Milliseconds a sentence as a function of the shape, linear in what a layer holds.

    Args:
        rest: outside the layers.
        layers: of a layer, beside its heads and neurons.
        heads, neurons: of one each, in all layers but the last.
        last_heads, last_neurons: in the last one, where a label of the whole text needs less.
        hidden: the width that these are for; what a layer takes is proportional to it.
    """

    rest: float
    layers: float
    heads: float
    neurons: float
    last_heads: float
    last_neurons: float
    hidden: int

    def __call__(self, config: TKDConfig) -> float:
        *others, last = range(config.num_hidden_layers)
        heads = self.heads * sum(map(config.heads_of, others)) + self.last_heads * config.heads_of(last)
        neurons = self.neurons * sum(map(config.intermediate_size_of, others))
        neurons += self.last_neurons * config.intermediate_size_of(last)
        layers = self.layers * config.num_hidden_layers
        return self.rest + (layers + heads + neurons) * config.hidden_size / self.hidden


class SpeedTarget:
    """So many times as fast as the unpruned model, one sentence at a time, measured here and now.

    Args:
        model: what is to be pruned, on the device where it is to be fast.
        speedup: more than 1.
        tokenizer: the model's.
        texts: sentences to measure with, each a text or a pair.
        max_length: tokens at which they are cut.
        kinds: as in `ParameterTarget`.

    Raises:
        InputError: if the target cannot be met by removing these kinds of units; it says what can.
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
        if not speedup > 1:
            raise InputError(f"a speedup of {speedup:g} is none; it must be more than 1")
        self.model, self.kinds = model, check_kinds(kinds, model)
        self._speedup, self._tokenizer, self._texts, self._max_length = speedup, tokenizer, texts, max_length
        whole, least = self.milliseconds(model.config, smallest_config(model.config, self.kinds))
        if whole / least < speedup:
            raise InputError(
                f"the target {self} cannot be met by removing {', '.join(self.kinds)}: what is left at least is "
                f"{whole / least:.2f} times as fast{_more(self.kinds)}"
            )
        self.price = self._fit()

    def budget(self, masks: Units, order: Sequence[Unit]) -> float:
        """The estimated time of the first shape of the ranking that is measured to be fast enough."""
        config = self.model.config

        def fast_enough(count: int) -> bool:
            whole, pruned = self.milliseconds(config, remove_units(masks, order[:count]).pruned_config(config))
            return whole / pruned >= self._speedup

        counts = range(0, len(order), max(1, len(order) // 256))  # finer than a clock can tell
        found = bisect_left(counts, True, key=fast_enough)
        while found < len(counts) and not fast_enough(counts[found]):  # once may have been luck
            found = bisect_left(counts, True, lo=found + 1, key=fast_enough)
        gone = order[: counts[found]] if found < len(counts) else order
        return self.price(remove_units(masks, gone).pruned_config(config))

    def milliseconds(self, *shapes: TKDConfig) -> list[float]:
        """Median time of a sentence for models of these shapes, which take turns."""
        return shape_latencies(self.model, shapes, self._tokenizer, self._texts, self._max_length)

    def state_dict(self) -> dict[str, Any]:
        """What was measured: a resumed run is to go on with the same prices."""
        return vars(self.price)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.price = LatencyModel(**state)

    def _fit(self) -> LatencyModel:
        """What heads, neurons and layers cost, by the time of models with half of them."""
        config = self.model.config
        width, depth = config.hidden_size, config.num_hidden_layers
        heads, neurons = [*map(config.heads_of, range(depth))], [*map(config.intermediate_size_of, range(depth))]
        few = (depth + 1) // 2
        whole, *halved_unit_times, without_layers = self.milliseconds(
            config,
            resized_config(config, [*halve_counts(heads[:-1]), heads[-1]], neurons, width),
            resized_config(config, heads, [*halve_counts(neurons[:-1]), neurons[-1]], width),
            resized_config(config, [*heads[:-1], *halve_counts(heads[-1:])], neurons, width),
            resized_config(config, heads, [*neurons[:-1], *halve_counts(neurons[-1:])], width),
            resized_config(config, heads[-few:], neurons[-few:], width),
        )

        def each(saved: float, removed: int, of: int) -> float:
            """Of one, by the time saved; where that drowns in noise, together a thousandth of all."""
            return max(saved / max(removed, 1), whole / 1000 / max(of, 1))

        counts = (heads[:-1], neurons[:-1], heads[-1:], neurons[-1:])
        head, neuron, last_head, last_neuron = (
            each(whole - time, sum(count) - sum(halve_counts(count)), sum(count))
            for time, count in zip(halved_unit_times, counts, strict=True)
        )
        units = head * sum(heads[:-few]) + neuron * sum(neurons[:-few])
        layer = each(whole - without_layers - units, depth - few, depth)
        inside = LatencyModel(0.0, layer, head, neuron, last_head, last_neuron, width)
        return replace(inside, rest=whole - inside(config))

    def __str__(self) -> str:
        return f"{self._speedup:g} times as fast"


def halve_counts(counts: Sequence[int]) -> list[int]:
    return [(count + 1) // 2 for count in counts]


def shape_latencies(
    model: TKDPreTrainedModel,
    shapes: Sequence[TKDConfig],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
) -> list[float]:
    """Median time of a sentence for models like this one in these shapes, in float32; they take turns.

    They are made for it: time does not depend on weights, and a model in training may be slowed down by hooks, or sped
    up by mixed precision.
    """
    with torch.random.fork_rng(devices=[]):
        models = [type(model)(shape).to(model.device) for shape in shapes]
    runners = [PyTorchRunner(one.eval(), tokenizer, bf16=False) for one in models]
    enough = [*islice(cycle(texts), max(len(texts), MIN_TIMED_TEXTS))]
    return median_latencies(runners, enough, max_length)


Target = ParameterTarget | SpeedTarget


def smallest_config(config: TKDConfig, kinds: Sequence[str]) -> TKDConfig:
    """What is left of a shape when everything of these kinds goes that may."""
    scores, masks = Units.full(config, 0.0), Units.full(config, True)
    equal = Costs([1] * config.num_hidden_layers, [1] * config.num_hidden_layers, 1, 1)
    return remove_units(masks, removal_order(scores, masks, equal, kinds)).pruned_config(config)


def _more(kinds: Sequence[str], further: str = "") -> str:
    """What else may go, for messages."""
    others = [kind for kind in KINDS if kind not in kinds]
    return f"; {' and '.join(others)} can go, too (units){further}" if others else ""
