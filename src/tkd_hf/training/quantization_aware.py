"""Quantization-aware distillation: a student that learns from its teacher while its weights are rounded.

Quantization-aware training (Jacob et al. 2018, arXiv 1712.05877) uses *fake quantization*. In the forward pass, a
linear layer rounds its weights to the values that integers could represent, and computes with the rounded values in
floats; inputs and embeddings can be rounded in the same way. In the backward pass, the gradient passes the rounding
unchanged (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), because the true gradient of rounding
is zero almost everywhere. The result is an ordinary float model that loses less when a backend quantizes it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from ..core.errors import InputError
from ..models.quantized import refuse_quantized
from ..quantization.int4 import dequantized_rows
from ..quantization.onnx import MAX_FLOAT_TABLE_ROWS
from .callbacks import CheckpointedCallback
from .trainer import DistillationTrainer


STATE_FILE = "quantization_aware.json"
ACTIVATIONS = (None, "dynamic", "static")
# Weight of the newest batch in the moving average of input ranges, as in torch's MovingAverageMinMaxObserver.
MOMENTUM = 0.01


def fake_quantize_weight(weight: Tensor, top: int = 127) -> Tensor:
    """Round a weight matrix to integers and back to floats, symmetrically and with one scale per row.

    For a row w, `scale = max|w| / top`. Each weight becomes the integer `round(w / scale)`, from -top to top, and this
    function returns that integer times the scale. The gradient passes unchanged.

    Args:
        weight: (out, in).
        top: integer for the largest magnitude of a row. 127 uses 8 bits. Use 64 for the `int8-dynamic` schemes of ONNX,
            where onnxruntime uses 7 bits.

    Example:

    ```python
    >>> import torch
    >>> from tkd_hf.training.quantization_aware import fake_quantize_weight
    >>> fake_quantize_weight(torch.tensor([[0.6, -0.2, 0.25], [3.0, 1.4, -3.0]]), top=3)
    tensor([[ 0.6000, -0.2000,  0.2000],
            [ 3.0000,  1.0000, -3.0000]])

    ```
    """
    # A row of zeros gets the smallest scale that keeps the division finite.
    scales = weight.detach().abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * top) / top
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -top, top)


def fake_quantize_input(states: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Round a tensor to 256 evenly spaced numbers from `low` to `high` (8 bits), and clip numbers outside the range.

    With `scale = (high - low) / 255`, each number x becomes the integer `round(x / scale) + zero`, from 0 to 255, where
    `zero` is the integer that stands for 0. The range is widened to include 0, which therefore stays exactly 0. The
    gradient passes unchanged, except for clipped numbers, whose gradient is 0.

    Args:
        states: tensor of any shape.
        low, high: scalars, the range of the numbers.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    zero = (-low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(states.float(), scale, zero, 0, 255).to(states.dtype)


def fake_quantize_embeddings(rows: Tensor) -> Tensor:
    """Round embeddings, (…, width), to 4 bits and back, as `int4.quantize_rows` does; the gradient passes unchanged."""
    return rows + (dequantized_rows(rows).to(rows.dtype) - rows).detach()


class FakeQuantizedLinear(nn.Linear):
    """A linear layer that computes with rounded weights, while its parameters stay floats.

    Args:
        linear: layer to replace; its parameters are shared, not copied.
        top: integer for the largest weight of a row, see `fake_quantize_weight`.
        activations: how inputs are rounded, see `QuantizationAwareCallback`.
    """

    def __init__(self, linear: nn.Linear, top: int, activations: str | None):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias, self.training = linear.weight, linear.bias, linear.training
        self.top, self.activations = top, activations
        self.range: Tensor | None = None  # lowest and highest input, (2,)

    def forward(self, states: Tensor) -> Tensor:
        if self.activations is not None:
            low, high = self._update_range(states.detach())
            states = fake_quantize_input(states, low, high)
        return nn.functional.linear(states, fake_quantize_weight(self.weight, self.top), self.bias)

    def to_linear(self) -> nn.Linear:
        """Return an ordinary linear layer that shares the parameters."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias, linear.training = self.weight, self.bias, self.training
        return linear

    def _update_range(self, states: Tensor) -> Tensor:
        """Set the range of inputs to that of this batch, or move a static range towards it during training."""
        if self.activations == "dynamic" or self.range is None:
            self.range = torch.stack(states.float().aminmax())
        elif self.training:
            self.range = torch.lerp(self.range, torch.stack(states.float().aminmax()), MOMENTUM)
        return self.range


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding of any class whose output is rounded, while its parameters stay floats.

    Args:
        embedding: embedding to replace; its parameters are shared, and saved and loaded under the same names.
    """

    def __init__(self, embedding: nn.Embedding):
        rows, width = embedding.weight.shape
        super().__init__(rows, width, embedding.padding_idx, _weight=embedding.weight.detach(), _freeze=True)
        self._original = (embedding,)  # in a tuple, so that torch does not register it as a submodule
        for name, parameter in embedding.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.training = embedding.training

    @property
    def original(self) -> nn.Embedding:
        """The embedding that this one replaces."""
        return self._original[0]

    def forward(self, ids: Tensor) -> Tensor:
        return fake_quantize_embeddings(self.original(ids))

    def train(self, mode: bool = True) -> "FakeQuantizedEmbedding":
        self.original.train(mode)
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.original._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.original._load_from_state_dict(*args)


class QuantizationAwareCallback(CheckpointedCallback):
    """Round the weights of the student's linear layers while it trains, and leave it a float model at the end.

    Use it if a quantized student loses too much, which `tkd-hf quantize` reports. Choose the arguments to match the
    backend that will quantize the student, because rounding that differs from the final one helps little:

    | backend and scheme | arguments |
    | --- | --- |
    | `onnx`, `int8-dynamic` | `top=64, activations="dynamic"` |
    | `onnx`, `int8-dynamic-int4-embeddings` | `top=64, activations="dynamic", int4_embeddings=True` |
    | `openvino`, `int8-static` | `activations="static"` |
    | `openvino`, `int8` | the defaults |

    Weights are rounded per row and symmetrically, inputs with one range per tensor, as ONNX and OpenVINO do in int8.
    Evaluation during training measures the rounded student. Checkpoints hold ordinary float models, and a run that is
    killed and resumed ends exactly as it would have without the interruption. Rounding makes each training step slower.

    Args:
        trainer: trainer of the student.
        top: integer for the largest weight of a row, see `fake_quantize_weight`.
        activations: `None` does not round inputs. `"dynamic"` rounds them to 8 bits in the range of each batch.
            `"static"` rounds them in a moving average of the ranges of all batches, as calibration does; each process
            has a range of its own.
        int4_embeddings: whether to round embeddings to 4 bits.

    Raises:
        InputError: if `top` is not between 1 and 127, `activations` is unknown, or the student is already quantized.

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
            raise InputError(f"top={top} does not fit into 8 bits with a sign; choose an integer from 1 to 127")
        if activations not in ACTIVATIONS:
            raise InputError(f"unknown activations={activations!r}; choose None, 'dynamic' or 'static'")
        self.trainer = trainer
        refuse_quantized(trainer.model, "train")
        self.rounding: dict[str, Any] = {"top": top, "activations": activations, "int4_embeddings": int4_embeddings}
        self._ranges: dict[str, list[float]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        layers = fake_quantize_model(self.trainer.model, **self.rounding)
        for name, limits in self._ranges.items():
            layers[name].range = torch.tensor(limits, device=args.device)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        remove_fake_quantization(self.trainer.model)

    def save(self, checkpoint: str) -> None:
        """Write the settings and the ranges of inputs into a checkpoint."""
        ranges = {
            name: module.range.tolist()
            for name, module in self.trainer.model.named_modules()
            if isinstance(module, FakeQuantizedLinear) and module.range is not None
        }
        (Path(checkpoint) / STATE_FILE).write_text(json.dumps(self.rounding | {"ranges": ranges}), encoding="utf-8")

    def load(self, checkpoint: str) -> None:
        """Read the ranges of inputs from a checkpoint.

        Raises:
            InputError: if the checkpoint comes from a run without fake quantization, or with other settings.
        """
        path = Path(checkpoint) / STATE_FILE
        if not path.exists():
            raise InputError(
                f"{checkpoint} has no {STATE_FILE}, so it comes from a run without quantization-aware training; start "
                "a new run instead"
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        self._ranges = state.pop("ranges")
        if state != self.rounding:
            raise InputError(
                f"{checkpoint} comes from a run with {_describe(state)}, but this run has {_describe(self.rounding)}; "
                "resume with the same settings, or start a new run"
            )


def fake_quantize_model(
    model: nn.Module, top: int = 127, activations: str | None = None, int4_embeddings: bool = False
) -> dict[str, FakeQuantizedLinear]:
    """Replace the linear layers of a model, in place, by layers that compute with rounded weights.

    Names and parameters do not change, so the model's state dict stays the same.

    Args:
        model: a float model.
        top, activations: as in `QuantizationAwareCallback`.
        int4_embeddings: whether to round embeddings as well. Small tables, such as token types, are not rounded,
            because the ONNX backend leaves them in floats.

    Returns:
        the new layers by name.
    """
    linears = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    layers = {name: FakeQuantizedLinear(linear, top, activations) for name, linear in linears.items()}
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    if int4_embeddings:
        replaced: dict[nn.Embedding, FakeQuantizedEmbedding] = {}  # one module may have several names
        for name, module in list(model.named_modules(remove_duplicate=False)):
            large = isinstance(module, nn.Embedding) and module.num_embeddings > MAX_FLOAT_TABLE_ROWS
            if large and not isinstance(module, FakeQuantizedEmbedding):
                model.set_submodule(name, replaced.setdefault(module, FakeQuantizedEmbedding(module)))
    return layers


def remove_fake_quantization(model: nn.Module) -> None:
    """Undo `fake_quantize_model` in place; the parameters keep their current values."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, FakeQuantizedLinear):
            model.set_submodule(name, module.to_linear())
        elif isinstance(module, FakeQuantizedEmbedding):
            model.set_submodule(name, module.original)


def train_with_fake_quantization(trainer: DistillationTrainer, **rounding: Any) -> DistillationTrainer:
    """Train a student so that it loses little when it is quantized.

    Start from a trained student. One epoch at a tenth of its learning rate is usual.

    Args:
        trainer: trainer of the student, with its teacher, number of epochs and learning rate.
        rounding: `top`, `activations` and `int4_embeddings`, as in `QuantizationAwareCallback`.

    Returns:
        the trainer. Its model is the trained float model, ready to be saved and quantized by any backend.

    Example (`student`: a trained classifier; `args`, `teacher`, `tokenizer`, `train` and `folder` as elsewhere):

        trainer = DistillationTrainer(student, args, teacher_model=teacher, train_dataset=train)
        quantize(train_with_fake_quantization(trainer, activations="static").model, tokenizer, folder)
    """
    trainer.add_callback(QuantizationAwareCallback(trainer, **rounding))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    return trainer


def _describe(settings: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
