"""The options of models: the shape of a student or an encoder, and LoRA."""

from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.options import option, option_class


# Adapters start at zero and hold few weights, so they need a larger learning rate than full training. Hu et al. (2021,
# table 9) used 5e-4 for most of GLUE.
LORA_LEARNING_RATE = 5e-4


def check_dropout(dropout: float | None) -> None:
    """Refuse a dropout outside [0, 1); `None` is allowed."""
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout} must be at least 0 and below 1; 0 turns it off")


def dropout_fields(dropout: float | None) -> dict[str, Any]:
    """Return the fields of `TKDConfig` that set the dropout everywhere; none for `None`."""
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    return {} if dropout is None else dict.fromkeys(fields, dropout)


def shape_arguments(
    layers: int | tuple[int, ...] | None, heads: int | None, intermediate_size: int | None
) -> dict[str, Any]:
    """Return a shape as arguments of `student_from_teacher`; `layers` is a number or indices."""
    shape: dict[str, Any] = {"num_attention_heads": heads, "intermediate_size": intermediate_size}
    if layers is None or isinstance(layers, int):
        return {"num_hidden_layers": layers, **shape}
    return {"layers": list(layers), **shape}


def parse_layers(value: Any) -> int | tuple[int, ...]:
    """Parse a number of layers (`3`) or a list of their indices (`0,2,5`, or a list in a recipe)."""
    words = value.strip("[] ").split(",") if isinstance(value, str) else value
    numbers = words if isinstance(words, list | tuple) else [words]
    try:
        if any(isinstance(number, bool) or not isinstance(number, int | str) for number in numbers):
            raise ValueError
        indices = tuple(int(number) for number in numbers)
    except ValueError:
        raise ValueError("is neither a number of layers, such as 3, nor a list of layers, such as 0,2,5") from None
    is_count = len(indices) == 1 and not isinstance(value, list | tuple) and "[" not in str(value)
    return indices[0] if is_count else indices


def parse_weights(value: Any) -> tuple[float, ...]:
    """Parse the weights of several teachers, such as `0.7,0.3`."""
    words = value.strip("[] ").split(",") if isinstance(value, str) else value
    try:
        return tuple(float(word) for word in words)
    except (TypeError, ValueError):
        raise ValueError("must be a list of numbers, one per teacher, such as 0.7,0.3") from None


@option_class
class StudentArguments:
    """Shape of a student that is cut out of the teacher, or an existing student to start from.

    Raises:
        InputError: for a shape or a dropout together with an existing student, or a dropout outside [0, 1).

    Example:

    ```python
    >>> from tkd_hf import StudentArguments
    >>> StudentArguments(layers=3, heads=6).layers
    3

    ```
    """

    layers: int | tuple[int, ...] | None = option(
        default=None,
        parse=parse_layers,
        metavar="N or N,N,…",
        shown_default="all",
        help="Number of layers, taken evenly from the teacher, or indices of the teacher's layers, such as 0,2,5. "
        "Indices count from 0.",
    )
    heads: int | None = option(
        default=None, minimum=1, shown_default="the teacher's", help="Number of attention heads per layer."
    )
    intermediate_size: int | None = option(
        default=None, minimum=1, shown_default="the teacher's", help="Width of the feed-forward layers."
    )
    student: str | None = option(
        default=None,
        shown_default="cut out of the teacher",
        help="Existing student to start from, instead of a shape: folder or Hub id. It is a classifier, or a "
        "pre-trained encoder, which then gets a classifier. It may have another tokenizer than the teacher.",
    )
    dropout: float | None = option(
        default=None,
        shown_default="0",
        help="Dropout everywhere in a student that is cut out. The teacher's logits already keep the student from "
        "memorising the data, and without dropout it learns more per step and runs faster (docs/results.md, parts of "
        "the recipe).",
    )

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if name != "student" and value is not None}
        check_dropout(self.dropout)
        if self.student and given:
            raise InputError(
                f"the student {self.student!r} already has a shape, but {given} is for a student that is cut out of "
                "the teacher; give only one of the two"
            )


@option_class
class EncoderArguments:
    """Shape of the encoder. Omitted values are the teacher's, or without a teacher the defaults of `TKDConfig`.

    Raises:
        InputError: if the dropout is not in [0, 1).

    Example:

    ```python
    >>> from tkd_hf import EncoderArguments
    >>> EncoderArguments(layers=4).layers
    4

    ```
    """

    layers: int | tuple[int, ...] | None = option(
        default=None,
        parse=parse_layers,
        metavar="N or N,N,…",
        shown_default="all of the teacher's, or 12",
        help="Number of layers, taken evenly from the teacher, or indices of the teacher's layers, such as 0,2,5. "
        "Indices count from 0.",
    )
    heads: int | None = option(
        default=None,
        minimum=1,
        shown_default="the teacher's, or one per 64 dimensions",
        help="Number of attention heads per layer.",
    )
    intermediate_size: int | None = option(
        default=None,
        minimum=1,
        shown_default="the teacher's, or 4 times the hidden width",
        help="Width of the feed-forward layers.",
    )
    hidden_size: int | None = option(
        default=None,
        minimum=1,
        shown_default="the teacher's, or 512",
        help="Hidden width of an encoder that is initialised randomly. With a teacher, the encoder then learns from it "
        "without starting from its weights.",
    )
    dropout: float | None = option(
        default=None,
        shown_default="the teacher's, or 0.1",
        help="Dropout everywhere in the encoder. It also applies when the encoder is distilled into later.",
    )

    def __post_init__(self) -> None:
        check_dropout(self.dropout)


@option_class
class LoraArguments:
    """Options for LoRA, which trains adapters on the frozen weights of an encoder, and its head in full.

    Use it when a model is too large to train in full: gradients and optimizer states are needed only for the adapters
    and the head. Small students are cheap enough to train in full. Adapters need a higher learning rate than full
    training, such as `tkd_hf.models.lora.LORA_LEARNING_RATE`; the command line uses it by default.

    Raises:
        InputError: if the rank is below 1, if the targets are unknown, or if both 8 and 4 bits are set.

    Example:

    ```python
    >>> from tkd_hf import LoraArguments
    >>> LoraArguments(rank=4)
    LoraArguments(rank=4, targets='linear', load_in_8bit=False, load_in_4bit=False, adapter_only=False)

    ```
    """

    rank: int = option(
        default=8,
        flag="--lora-rank",
        help="Rank of the adapter matrices, usually 4 to 64. The output is scaled by 2 (lora_alpha).",
    )
    targets: str = option(
        default="linear",
        flag="--lora-targets",
        metavar="linear|attention",
        help="Layers of the encoder's blocks that get adapters: linear, that is every linear layer, or attention, that "
        "is queries, keys and values only. QLoRA found linear necessary to match full fine-tuning (arXiv 2305.14314).",
    )
    load_in_8bit: bool = option(
        default=False, help="Freeze the base in 8 bits, with bitsandbytes. Adapters and head stay in floats."
    )
    load_in_4bit: bool = option(
        default=False, help="Freeze the base in 4 bits (nf4), with bitsandbytes, as QLoRA does."
    )
    adapter_only: bool = option(
        default=False, help="Save the adapter alone, for a base that several tasks share, instead of a merged model."
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"LoRA of rank {self.rank} has nothing to train; use at least 1, usually 4 to 64")
        if self.targets not in ("linear", "attention"):
            raise InputError(f"LoRA targets {self.targets!r} are unknown; choose linear or attention")
        if self.load_in_8bit and self.load_in_4bit:
            raise InputError("load_in_8bit and load_in_4bit are both set; choose one of them")

    @property
    def base_weights(self) -> str | None:
        """The bitsandbytes scheme of the frozen base, `"int8"` or `"nf4"`; `None` if its weights stay floats."""
        if self.load_in_8bit:
            return "int8"
        return "nf4" if self.load_in_4bit else None


def merge_command(adapter: str | Path, output_dir: str | Path) -> str:
    """Return the shell command that merges an adapter with its base."""
    arguments = f"{str(adapter)!r}, {str(output_dir)!r}"
    return f'python -c "from tkd_hf.models.lora import merge_adapter; merge_adapter({arguments})"'
