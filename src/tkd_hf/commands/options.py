"""The options of the commands: one dataclass per command, in the order in which Python callers give them.

The command line, recipes, help and the reference are made from these classes, see `tkd_hf.core.options`, and each
docstring is the help of its command. The options of `card` are in `tkd_hf.cards.arguments`. Importing this module loads
neither torch nor transformers.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.options import group, option, option_class, parse_names
from ..data.arguments import CorpusArguments, DataArguments
from ..models.arguments import EncoderArguments, LoraArguments, StudentArguments, parse_weights
from ..pruning.arguments import PruningArguments


if TYPE_CHECKING:
    from ..objectives.arguments import DistillationTrainingArguments, FineTuningArguments, PretrainingArguments


BATCH_SIZES, LENGTHS = (1, 8, 32), (16, 64, 128)
DATA_OF_MODEL = "The task or data set (that of the model's run)."
DATA_OF_TEACHER = "The task or data set (that of the teacher's run)."
ARGS_HELP = "The training arguments; `args.output_dir` is the run folder."
MAX_DROP_HELP = "Largest drop of the main metric that passes, such as 0.005."

# Options and groups that several commands share.
_NAMED = ("task", "dataset")
_optional_data = partial(group, "Data", default=None, named_by=_NAMED)
_lora = partial(
    group,
    "LoRA",
    default=None,
    switch="Train LoRA adapters on the frozen model, then merge them.",
    help="LoRA adapters to train on the frozen model instead of all weights, and to merge afterwards.",
)
_overwrite = partial(option, default=False, help="Delete the run in the output folder and start again.")
_resume = partial(
    option,
    default=False,
    help="Continue from the latest checkpoint in the output folder. If that run has finished, its record is returned.",
)
_soft_labels = partial(
    option,
    default=None,
    shown_default="one for the teacher's revision, in the Hugging Face cache",
    help="File of soft labels, in safetensors. Missing soft labels are computed first, so the teacher runs only once "
    "per example.",
)
_live = partial(
    option,
    default=False,
    help="Run the teacher on each batch instead of storing soft labels. Objectives on features always do.",
)
_unlabelled = partial(
    option,
    default=(),
    multiple=True,
    help="More texts, without labels: file, Hub id (org/name:split) or task. Evaluation texts are dropped.",
)
_batch_size = partial(option, default=128, minimum=1, help="Examples per batch. Latency is measured with single texts.")
_batch_sizes = partial(option, default=BATCH_SIZES, minimum=1, help="Batch sizes to time.")
_lengths = partial(
    option, default=LENGTHS, minimum=1, help="Lengths of random texts to time in addition to real texts, in tokens."
)
_threads = partial(
    option, default=None, minimum=1, shown_default="as many as torch uses", help="Processor threads for every backend."
)
_rounds = partial(option, default=50, minimum=1, help="Timings per model, batch size and length.")
_patience = partial(
    option, default=10.0, minimum=0, help="Seconds per model, batch size and length after which no round starts."
)
_timing_seed = partial(option, default=0, console=False, help="Random seed for the order of turns.")


@option_class
class PretrainOptions:
    """Pre-train an encoder on raw text, with or without a teacher encoder."""

    corpus: CorpusArguments = group("Text", help="The text.")
    args: "PretrainingArguments" = group("Training", help=ARGS_HELP)
    encoder: EncoderArguments = group("Encoder", default=EncoderArguments(), help="The shape of the encoder.")
    tokenizer: str | None = option(
        default=None, shown_default="the teacher's", help="Tokenizer: folder or Hub id. Required without a teacher."
    )
    overwrite: bool = _overwrite()
    resume: bool = _resume()


@option_class
class FinetuneOptions:
    """Fine-tune a model on labelled data: to make a teacher, or to train a student further."""

    model: str = option(positional=True, help="Pretrained model, classifier or student: folder or Hub id.")
    data: DataArguments | None = group("Data", named_by=_NAMED, help=DATA_OF_MODEL)
    args: "FineTuningArguments" = group("Training", help=ARGS_HELP)
    overwrite: bool = _overwrite()
    resume: bool = _resume()
    lora: LoraArguments | None = _lora()


@option_class
class AugmentOptions:
    """Make more texts like those of a task, without labels, for `tkd-hf distill --unlabelled`.

    Choose one of --mlm, --neighbours and --shuffle-pairs.
    """

    data: DataArguments = group("Data", help="The task or data set.")
    output_dir: str | Path = option(help="Folder for the new texts.")
    mlm: str | None = option(
        default=None,
        help="Masked language model: folder or Hub id. Words are replaced by words that it predicts in context.",
    )
    neighbours: str | None = option(
        default=None,
        help="Encoder, such as the teacher: folder or Hub id. Words are replaced by words with the nearest embeddings.",
    )
    shuffle: bool = option(
        default=False, flag="--shuffle-pairs", help="Pair texts of different examples instead of replacing words."
    )
    copies: int = option(default=4, minimum=1, help="Number of copies per example.")
    probability: float = option(default=0.4, minimum=0, maximum=1, help="Probability of replacing a word in a copy.")
    candidates: int = option(default=15, minimum=1, help="Number of words to draw a replacement from.")
    words_from: str | None = option(
        default=None, shown_default="any word", help="Texts whose words are the only candidates: file or Hub id."
    )
    seed: int = option(default=42, minimum=0, help="Random seed of all draws.")
    batch_size: int = option(default=32, minimum=1, help="Texts per batch for the masked language model.")
    overwrite: bool = _overwrite()
    resume: bool = option(
        default=False, help="If the folder holds the finished result of the same call, return its record."
    )


@option_class
class LabelOptions:
    """Run the teacher once and store its soft labels for later distillation.

    Soft labels are stored by content, so examples that already have some are not computed again.
    """

    teacher: str = option(positional=True, help="Teacher, a classifier of texts or of tokens: folder or Hub id.")
    data: DataArguments | None = group("Data", named_by=_NAMED, help=DATA_OF_TEACHER)
    splits: tuple[str, ...] = option(
        default=("train", "eval"), console=False, help='Which of "train" and "eval" to label.'
    )
    path: str | Path | None = _soft_labels(flag="--soft-labels", help="File of soft labels, in safetensors.")
    batch_size: int = option(
        default=128, minimum=1, help="Examples per batch. Batches of short texts hold more, as in `SoftLabels.compute`."
    )
    overwrite: bool = option(default=False, help="Compute all soft labels again.")
    unlabelled: Sequence[str] = _unlabelled(
        help="More texts to label: file, Hub id (org/name:split) or task; see `tkd_hf.data.unlabelled`."
    )


@option_class
class DistillOptions:
    """Distil a teacher into a smaller student."""

    teacher: str | Sequence[str] = option(
        positional=True,
        parse=parse_names,
        metavar="TEACHER",
        help="Teacher, a classifier: folder or Hub id. The logits of several teachers are averaged, and the student is "
        "cut out of the first.",
    )
    data: DataArguments | None = group("Data", named_by=_NAMED, help=DATA_OF_TEACHER)
    args: "DistillationTrainingArguments" = group("Training", help=ARGS_HELP)
    student: StudentArguments = group(
        "Student", default=StudentArguments(), help="The student's shape, or an existing student to start from."
    )
    soft_labels: str | Path | None = _soft_labels()
    live: bool = _live()
    overwrite: bool = _overwrite()
    resume: bool = _resume()
    unlabelled: Sequence[str] = _unlabelled()
    lora: LoraArguments | None = _lora()
    teacher_weights: Sequence[float] | None = option(
        default=None, parse=parse_weights, shown_default="equal", help="Weights of several teachers, such as 0.7,0.3."
    )
    quantization_aware: str | None = option(
        default=None,
        metavar="SCHEME",
        shown_default="off",
        help="Round the student to int8 while it trains, so that it loses less when it is quantized later. The scheme "
        "weights rounds only weights, dynamic also activations as ONNX's int8 does, dynamic-int4-embeddings as ONNX's "
        "scheme of that name does, and static as OpenVINO's int8-static does. The saved model is in floats.",
    )


@option_class
class PruneOptions:
    """Prune a model to a target size or speed while distilling it; or prune its vocabulary, or single weights.

    Give one target: --target-params, --target-size, --target-speedup, --sparsity or --pattern; --vocabulary can stand
    alone or go with any of them. With --max-drop, the exit code is 1 if the pruned model's main metric is further below
    its teacher's.
    """

    model: str = option(
        positional=True,
        help="Classifier to prune: folder or Hub id. It is a student, or a teacher, which is converted to TKD first.",
    )
    data: DataArguments | None = group("Data", named_by=_NAMED, help=DATA_OF_MODEL)
    args: "DistillationTrainingArguments" = group("Training", help=ARGS_HELP)
    pruning: PruningArguments = group("Pruning", help="The target, and how to get there.")
    teacher: str | None = option(
        default=None, shown_default="the model before pruning", help="Teacher to learn from: folder or Hub id."
    )
    train: bool = option(
        default=True,
        off="--no-train",
        help="Train during and after pruning; --no-train prunes at once. There is also no training if only the "
        "vocabulary is pruned.",
    )
    soft_labels: str | Path | None = _soft_labels()
    live: bool = _live()
    overwrite: bool = _overwrite()
    resume: bool = _resume()
    unlabelled: Sequence[str] = _unlabelled()


@option_class
class QuantizeOptions:
    """Quantize a model, and compare it with the float model in size and latency.

    If data are named, the metrics of both are compared on the evaluation split. OpenVINO's int8-static needs data for
    calibration. With --max-drop, the exit code is 1 if the main metric is further below the float model's.
    """

    model: str = option(positional=True, help="Float classifier: folder or Hub id.")
    output_dir: str | Path = option(help="Folder for the quantized model.")
    backend: str = option(help="Backend: openvino, onnx, bitsandbytes or quanto. `tkd_hf.quantization` compares them.")
    weights: str | None = option(
        default=None,
        shown_default="the backend's first",
        help="Scheme of the backend, such as int8, int8-static or nf4.",
    )
    data: DataArguments | None = _optional_data(
        help="The task or data set. Its evaluation split measures how much the model lost, and some schemes need its "
        "training split for calibration. By default the data of the run. Without data, only size and speed are "
        "measured."
    )
    calibration: int = option(
        default=300, minimum=1, help="Number of training examples to calibrate on, for schemes that need them."
    )
    overwrite: bool = _overwrite()
    resume: bool = option(default=False, help="If the output folder holds a finished run, return its record.")


@option_class
class EvaluateOptions:
    """Measure a model's metrics with 95 % intervals, calibration, size and latency, and its agreement with a teacher.

    With --max-drop, the exit code is 1 if the main metric is further below the teacher's.
    """

    model: str | Sequence[str] = option(
        positional=True,
        parse=parse_names,
        help="Model: folder or Hub id, or an export in one; see `tkd_hf.inference.runners`.",
    )
    data: DataArguments | None = _optional_data(help=DATA_OF_MODEL)
    teacher: str | None = option(default=None, help="Teacher to compare with: folder or Hub id.")
    batch_size: int = _batch_size()
    disagreements_file: str | Path | None = option(
        default=None,
        flag="--disagreements",
        help="File (JSON lines) for examples that model and teacher predict differently. Those of which the model is "
        "most confident come first. For several models, the name must contain {model}.",
    )


@option_class
class BenchmarkOptions:
    """Measure latency, throughput, memory, size and loading time of models, compared with a reference.

    The models take turns within one run, so that load and temperature of the machine affect all of them alike. Real
    texts come from the evaluation split of the data; if no data are named, a few built-in sentences are used. The table
    shows real texts only; --json holds all batch sizes and lengths.
    """

    models: Sequence[str] = option(
        positional=True,
        multiple=True,
        help="Models: folders or Hub ids, or exports in them. A model that is named twice shows the noise.",
    )
    data: DataArguments | None = _optional_data(
        help="The data whose evaluation split provides the real texts. By default the data of the runs. Without data, "
        "a few built-in sentences are used."
    )
    batch_sizes: Sequence[int] = _batch_sizes()
    lengths: Sequence[int] = _lengths()
    reference: str | None = option(
        default=None, shown_default="the first one", help="Model to compare with. It is added if it is not in the list."
    )
    threads: int | None = _threads()
    rounds: int = _rounds()
    patience: float = _patience()
    seed: int = _timing_seed()


@option_class
class ReportOptions:
    """Write a report that compares models with their teacher in quality, speed, memory and size, with figures.

    The task is that of the runs unless --task or --dataset is given.
    """

    runs: Sequence[str] = option(
        flag="--models",
        positional=True,
        multiple=True,
        metavar="RUNS",
        help="Models: folders or Hub ids, or exports in them. Folders without a model are skipped, so runs/* works.",
    )
    output_dir: str | Path = option(default=Path("report"), help="Folder for the report. An earlier one is replaced.")
    data: DataArguments | None = _optional_data(help="The task or data set (the data that the runs' records name).")
    teacher: str | None = option(
        default=None, shown_default="the one that the runs name", help="Teacher: folder or Hub id."
    )
    batch_size: int = _batch_size()
    disagreements: bool = option(
        default=True,
        help="Write the examples that model and teacher predict differently, one file per model. Switch it off if the "
        "texts must not be copied.",
    )
    batch_sizes: Sequence[int] = _batch_sizes(kw_only=True)
    lengths: Sequence[int] = _lengths(kw_only=True)
    reference: str | None = option(
        default=None, kw_only=True, console=False, shown_default="the teacher", help="Model to compare timings with."
    )
    threads: int | None = _threads(kw_only=True)
    rounds: int = _rounds(kw_only=True)
    patience: float = _patience(kw_only=True)
    seed: int = _timing_seed(kw_only=True)


@option_class
class PushOptions:
    """Push a run folder to the Hub as one commit: model, tokenizer, source files, card, pictures and record.

    A new repository is private unless --public is given. With --max-drop, model and teacher are evaluated first, and
    nothing is pushed if the main metric is further below the teacher's.
    """

    folder: str | Path = option(positional=True, metavar="RUN", help="Run folder.")
    repo_id: str = option(metavar="ORG/NAME", help="Repository on the Hub.")
    include: Sequence[str] = option(default=(), help="Exports to push as well, such as onnx,openvino.")
    max_drop: float | None = option(
        default=None,
        minimum=0,
        shown_default="no limit",
        help=f"{MAX_DROP_HELP} Model and teacher are evaluated first.",
    )
    data: DataArguments | None = _optional_data(help="The data to evaluate on with `max_drop` (that of the run).")
    teacher: str | None = option(
        default=None, shown_default="the one that the run names", help="Teacher for --max-drop: folder or Hub id."
    )
    private: bool = option(
        default=True,
        kw_only=True,
        off="--public",
        help="Keep a new repository private; --public makes it public. The visibility of an existing repository does "
        "not change.",
    )
    revision: str = option(default="main", kw_only=True, help="Branch. It is created if it does not exist.")
    tag: str | None = option(default=None, kw_only=True, help="Tag of this version, such as v1.")
    create_pr: bool = option(
        default=False, kw_only=True, help="Open a pull request to main instead of committing to the branch."
    )
    message: str = option(default="Upload with tkd-hf", kw_only=True, help="Commit message.")


@option_class
class VerifyOptions:
    """Check a model on the Hub: the hashes of its files, whether it loads, and the metrics on its card.

    The model is downloaded into a fresh cache and evaluated again. The task is that of the card unless --task or
    --dataset is given. The exit code is 1 if the card is wrong.
    """

    model: str = option(positional=True, help="Model on the Hub: org/name or org/name@v1.")
    data: DataArguments | None = _optional_data(
        help="The data on which the card's metrics were measured (the GLUE task that the card names)."
    )
    tolerance: float = option(
        default=0.002,
        minimum=0,
        help="Largest difference from the card's metrics that passes. Results differ slightly between processors.",
    )
    batch_size: int = _batch_size(help="Examples per batch.")
    trust_remote_code: bool = option(
        default=False, help="Run source files of the repository that differ from this package's. Read them first."
    )
