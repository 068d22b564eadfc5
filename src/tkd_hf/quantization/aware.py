"""Quantization-aware distillation: a student that learns from its teacher while its weights are rounded.

Quantization-aware training (Jacob et al. 2018, arXiv 1712.05877): forward, linear layers compute with rounded weights,
and rounded inputs and embeddings if wanted; backward, the gradient passes the rounding as if it were not there. What is
left is an ordinary float model that loses less when a backend rounds it for good.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..callbacks import CheckpointedCallback
from ..errors import InputError
from ..model_loading import refuse_quantized
from ..trainer import DistillationTrainer
from .int4 import dequantized_rows
from .onnx import MAX_FLOAT_TABLE_ROWS


STATE_FILE = "quantization_aware.json"
ACTIVATIONS = (None, "dynamic", "static")
MOMENTUM = 0.01  # of the range of inputs, as torch's observers have it


def fake_quantize_weight(weight: Tensor, top: int = 127) -> Tensor:
    """Rounds a matrix to integers, symmetric and with one scale a row, and gives what they stand for.

    Args:
        weight: (out, in).
        top: what the largest magnitude of a row becomes. 127 is that of 8 bits; onnxruntime's 7 bits go to 64.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.quantization.aware import fake_quantize_weight
    >>> fake_quantize_weight(torch.tensor([[0.6, -0.2, 0.25], [3.0, 1.4, -3.0]]), top=3)
    tensor([[ 0.6000, -0.2000,  0.2000],
            [ 3.0000,  1.0000, -3.0000]])

    ```
    """
    scales = weight.detach().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * top) / top
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -top, top)


def fake_quantize_input(states: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Rounds a tensor to the 256 steps from `low` to `high`, 0 being one of them, and cuts off what lies beyond."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(states.float(), scale, zero, 0, 255).to(states.dtype)


def fake_quantize_embeddings(rows: Tensor) -> Tensor:
    """Rounds what was looked up to 4 bits, as `int4.round_rows` does: rows (…, width) of a table, each by itself."""
    return rows + (dequantized_rows(rows).to(rows.dtype) - rows).detach()


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that computes with rounded weights; the parameters themselves stay floats.

    Args:
        linear: whose parameters it shares.
        top: of the weights, see `fake_quantize_weight`.
        activations: whether and how inputs are rounded, see `QuantizationAwareCallback`.
    """

    def __init__(self, linear: nn.Linear, top: int, activations: str | None):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.training = linear.weight, linear.bias, linear.training
        self.top, self.activations = top, activations
        self.range: Tensor | None = None  # of inputs: lowest and highest

    def forward(self, states: Tensor) -> Tensor:
        if self.activations is not None:
            self._observe(states.detach())
            states = fake_quantize_input(states, *self.range)
        return nn.functional.linear(states, fake_quantize_weight(self.weight, self.top), self.bias)

    def as_float(self) -> nn.Linear:
        """The ordinary layer."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias, linear.training = self.weight, self.bias, self.training
        return linear

    def _observe(self, states: Tensor) -> None:
        if self.activations == "dynamic" or self.range is None:
            self.range = torch.stack(states.float().aminmax())
        elif self.training:
            self.range = torch.lerp(self.range, torch.stack(states.float().aminmax()), MOMENTUM)


class FakeQuantizedEmbeddingMixin:
    """Goes before the class of an embedding, whichever it is in training, and rounds what is looked up in it.

    No hook: while hooks look inside, a TKD computes padding, too.
    """

    def forward(self, ids: Tensor) -> Tensor:
        return fake_quantize_embeddings(super().forward(ids))


class QuantizationAwareCallback(CheckpointedCallback):
    """Rounds the weights of every linear layer of the student while it trains, and leaves it in floats at the end.

    Rounded are weights row by row and symmetric, inputs as a whole: as ONNX and OpenVINO do in their int8. Evaluation
    during training is that of the rounded student. Checkpoints hold ordinary float models, and a run that is killed
    and resumed ends as it would have.

    Args:
        trainer: whose student is trained.
        top: of the weights, see `fake_quantize_weight`.
        activations: `"dynamic"` rounds inputs to 8 bits in the range of each batch, as ONNX's dynamic int8; `"static"`
            in a moving average of ranges, as int8 with calibration (each process has its own); `None` leaves them
            floats.
        int4_embeddings: round what is looked up in embeddings to 4 bits, too, as ONNX's
            `int8-dynamic-int4-embeddings`.

    Raises:
        InputError: for `top` out of 1 to 127, unknown `activations`, or a student that is quantized already.

    Example (`trainer`: a `DistillationTrainer`):

        trainer.add_callback(QuantizationAwareCallback(trainer, activations="dynamic"))
        trainer.train()
        trainer.save_model()
    """

    def __init__(
        self,
        trainer: DistillationTrainer,
        top: int = 127,
        activations: str | None = None,
        int4_embeddings: bool = False,
    ):
        if not 1 <= top <= 127:
            raise InputError(f"top={top}; weights are rounded to integers of 8 bits or fewer, up to 1 to 127")
        if activations not in ACTIVATIONS:
            raise InputError(f"activations={activations!r} are unknown; there are None, 'dynamic' and 'static'")
        refuse_quantized(trainer.model, "train")
        self.trainer = trainer
        self.rounding = {"top": top, "activations": activations, "int4_embeddings": int4_embeddings}
        self._ranges: dict[str, list[float]] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        layers = fake_quantize_model(self.trainer.model, **self.rounding)
        for name, limits in self._ranges.items():
            layers[name].range = torch.tensor(limits, device=args.device)

    def on_train_end(self, args, state, control, **kwargs):
        remove_fake_quantization(self.trainer.model)

    def save(self, checkpoint: str) -> None:
        """Writes the ranges of inputs into a checkpoint."""
        ranges = {
            name: module.range.tolist()
            for name, module in self.trainer.model.named_modules()
            if isinstance(module, FakeQuantizedLinear) and module.range is not None
        }
        (Path(checkpoint) / STATE_FILE).write_text(json.dumps(self.rounding | {"ranges": ranges}), encoding="utf-8")

    def load(self, checkpoint: str) -> None:
        """Reads them back.

        Raises:
            InputError: if the checkpoint is of a run without rounding, or with another.
        """
        path = Path(checkpoint) / STATE_FILE
        if not path.exists():
            raise InputError(f"{checkpoint} holds no {STATE_FILE}: it is of a run without rounding; start anew")
        state = json.loads(path.read_text(encoding="utf-8"))
        self._ranges = state.pop("ranges")
        if state != self.rounding:
            theirs, ours = (
                ", ".join(f"{name}={value}" for name, value in one.items()) for one in (state, self.rounding)
            )
            raise InputError(
                f"{checkpoint} is of a run with {theirs}, this one has {ours}; resume with the same, or start anew"
            )


def fake_quantize_model(
    model: PreTrainedModel, top: int = 127, activations: str | None = None, int4_embeddings: bool = False
) -> dict[str, FakeQuantizedLinear]:
    """Replaces the linear layers of a model, in place, by such that compute with rounded weights.

    With `int4_embeddings` its embeddings are rounded as well, but for the few token types, which ONNX leaves in floats.

    Returns:
        the new layers by name.
    """
    found = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    layers = {name: FakeQuantizedLinear(model.get_submodule(name), top, activations) for name in found}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    for module in model.modules() if int4_embeddings else ():
        if isinstance(module, nn.Embedding) and module.num_embeddings > MAX_FLOAT_TABLE_ROWS:
            kind = type(module)
            module.__class__ = type(f"FakeQuantized{kind.__name__}", (FakeQuantizedEmbeddingMixin, kind), {})
    return layers


def remove_fake_quantization(model: PreTrainedModel) -> None:
    """Undoes `rounded`, in place; the parameters are what they were, or what they have become in training."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FakeQuantizedLinear):
            model.set_submodule(name, module.as_float())
        elif isinstance(module, FakeQuantizedEmbeddingMixin):
            module.__class__ = type(module).__bases__[1]


def train_with_fake_quantization(trainer: DistillationTrainer, **rounding) -> DistillationTrainer:
    """Trains a student so that it loses little when it is quantized.

    Args:
        trainer: with the student, its teacher, and for how long; from a trained student, an epoch at a tenth of its
            learning rate is usual.
        rounding: `top`, `activations` and `int4_embeddings`, as in `QuantizationAwareCallback`.

    Returns:
        the trainer; its model is the trained one, in floats, to be saved and quantized by any backend.

    Example (`student`: a trained classifier; `tokenizer`, `train` and `folder` as elsewhere):

        trainer = DistillationTrainer(student, args, teacher_model=teacher, train_dataset=train)
        quantize(train_aware(trainer, activations="static").model, tokenizer, folder)
    """
    trainer.add_callback(QuantizationAwareCallback(trainer, **rounding))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    return trainer
