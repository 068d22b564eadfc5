"""The commands that train or prepare training: `pretrain`, `finetune`, `augment`, `label` and `distill`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import InputError
from ..evaluation.columns import Column
from ..evaluation.tables import Table, stage_table
from . import options as o
from .output import announce, store_and_show, suggest


if TYPE_CHECKING:
    from ..data.arguments import DataArguments
    from ..models.arguments import LoraArguments


def pretrain(
    context: typer.Context,
    dataset: Annotated[str, o.option(help="Text: Hub id, or local file or folder of txt, parquet, json or csv.")],
    output_dir: o.OutputDir,
    layers: Annotated[
        str | None,
        o.option(help="Number of layers, or indices of the teacher's, such as 0,2,5 (all of the teacher's, or 12)."),
    ] = None,
    heads: Annotated[
        int | None, o.option(min=1, help="Attention heads per layer (the teacher's, or one per 64 dimensions).")
    ] = None,
    intermediate_size: Annotated[
        int | None,
        o.option(min=1, help="Width of the feed-forward layers (the teacher's, or 4 times the hidden width)."),
    ] = None,
    hidden_size: Annotated[
        int | None, o.option(min=1, help="Hidden width of a randomly initialised encoder (512 without a teacher).")
    ] = None,
    dropout: Annotated[
        float | None, o.option(help="Dropout everywhere in the encoder (the teacher's, or 0.1).")
    ] = None,
    teacher: Annotated[str | None, o.option(help="Encoder to learn from: folder or Hub id (none).")] = None,
    tokenizer: Annotated[str | None, o.option(help="Tokenizer: folder or Hub id (the teacher's).")] = None,
    objectives: Annotated[
        str | None,
        o.option(
            help="Weight of each objective, as JSON ('{\"hard\": 1.0}'; with a teacher "
            '\'{"relations": 1.0, "hard": 1.0}\').'
        ),
    ] = None,
    dataset_config: Annotated[str | None, o.option(help="Configuration of a Hub data set (its default).")] = None,
    text_column: Annotated[str | None, o.option(help="Column of texts (text or sentence).")] = None,
    train_split: Annotated[str | None, o.option(help="Split, or name of the local file, to train on (train).")] = None,
    eval_split: Annotated[
        str | None, o.option(help="Split, or name of the local file, to evaluate on (1 % of the training split).")
    ] = None,
    max_length: Annotated[int, o.option(min=4, help="Tokens per sequence (128).")] = 128,
    max_sequences: Annotated[
        int | None, o.option(min=2, help="Number of sequences after which to stop reading (no limit).")
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Pre-train an encoder on raw text, with or without a teacher encoder.

    Every field of PretrainingArguments is an option as well, such as --max-steps 10000.
    """
    from ..commands.pretrain import pretrain as run
    from ..data.arguments import CorpusArguments
    from ..models.arguments import EncoderArguments
    from ..objectives.arguments import PretrainingArguments

    args = o.training_arguments(
        PretrainingArguments, context, output_dir, seed=seed, teacher=teacher, objectives=objectives
    )
    corpus = CorpusArguments(dataset, dataset_config, text_column, train_split, eval_split, max_length, max_sequences)
    encoder = EncoderArguments(parse_layers(layers), heads, intermediate_size, hidden_size, dropout)
    announce(f"pre-training on {dataset}{f' with the teacher {teacher}' if teacher else ''} into {output_dir}")
    record = run(corpus, args, encoder, tokenizer, overwrite, resume)
    content = store_and_show(json_file, vars(record), stage_table(str(output_dir), record))
    suggest(f"tkd-hf finetune {output_dir} --task sst2 --output-dir …")
    return content


@o.with_data
@o.with_lora
def finetune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Pretrained model, classifier or student: folder or Hub id.")],
    data: "DataArguments",
    lora: "LoraArguments | None",
    output_dir: o.OutputDir,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Fine-tune a model on labelled data: to make a teacher, or to train a student further.

    Every field of TrainingArguments is an option as well, such as --num-train-epochs 2.
    """
    from ..commands.finetune import finetune as run
    from ..objectives.arguments import FineTuningArguments

    args = o.training_arguments(FineTuningArguments, context, output_dir, lora, seed=seed)
    announce(f"fine-tuning {model} on {data.task or data.dataset} into {output_dir}")
    record = run(model, data, args, overwrite=overwrite, resume=resume, lora=lora)
    content = store_and_show(json_file, vars(record), stage_table(str(output_dir), record))
    suggest(
        o.merge_suggestion(lora, output_dir)
        or f"tkd-hf distill {output_dir} {o.data_flags(data)} --layers 3 --output-dir …"
    )
    return content


@o.with_data
def augment(
    data: "DataArguments",
    output_dir: o.OutputDir,
    mlm: Annotated[
        str | None, o.option(help="Masked language model that predicts replacements: folder or Hub id.")
    ] = None,
    neighbours: Annotated[
        str | None, o.option(help="Encoder whose nearest word embeddings are replacements, such as the teacher.")
    ] = None,
    shuffle_pairs: Annotated[
        bool, o.option("--shuffle-pairs", help="Pair texts of different examples instead.")
    ] = False,
    copies: Annotated[int, o.option(min=1, help="Copies per example (4).")] = 4,
    probability: Annotated[float, o.option(min=0, max=1, help="Probability of replacing a word (0.4).")] = 0.4,
    candidates: Annotated[int, o.option(min=1, help="Candidates per replaced word (15).")] = 15,
    words_from: Annotated[
        str | None, o.option(help="Texts whose words are the only candidates: file or Hub id (any word).")
    ] = None,
    seed: Annotated[int, o.option(min=0, help="Random seed (42).")] = 42,
    batch_size: Annotated[int, o.option(min=1, help="Examples per batch (32).")] = 32,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Make more texts like those of a task, without labels, for `tkd-hf distill --unlabelled`.

    Choose one of --mlm, --neighbours and --shuffle-pairs.
    """
    from ..commands.augment import augment as run

    announce(f"augmenting {data.task or data.dataset} into {output_dir}")
    record = run(
        data,
        output_dir,
        mlm,
        neighbours,
        shuffle_pairs,
        copies=copies,
        probability=probability,
        candidates=candidates,
        words_from=words_from,
        seed=seed,
        batch_size=batch_size,
        overwrite=overwrite,
        resume=resume,
    )
    content = store_and_show(json_file, vars(record), stage_table(str(output_dir), record))
    suggest(f"tkd-hf distill TEACHER {o.data_flags(data)} --unlabelled {output_dir} --layers 3 --output-dir …")
    return content


@o.with_data
def label(
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    data: "DataArguments",
    soft_labels: o.SoftLabels = None,
    unlabelled: o.Unlabelled = None,
    batch_size: o.BatchSize = 128,
    config: o.Config = None,
    overwrite: Annotated[bool, o.option("--overwrite", help="Compute all soft labels again.")] = False,
    json_file: o.JsonFile = None,
):
    """Run the teacher once and store its soft labels for later distillation.

    Soft labels are stored by content, so examples that already have some are not computed again.
    """
    from ..commands.label import label as run

    announce(f"labelling {data.task or data.dataset} with {teacher}")
    result = run(
        teacher, data, path=soft_labels, batch_size=batch_size, overwrite=overwrite, unlabelled=unlabelled or ()
    )
    columns = (Column("soft labels", align="left"), Column("examples"), Column("computed"))
    content = store_and_show(
        json_file, vars(result), Table("", columns, [(str(result.path), result.examples, result.computed)])
    )
    suggest(f"tkd-hf distill {teacher} {o.data_flags(data)} --layers 3 --output-dir …")
    return content


@o.with_data
@o.with_lora
def distill(
    context: typer.Context,
    teacher: Annotated[str, typer.Argument(help="Teacher: folder or Hub id.")],
    data: "DataArguments",
    lora: "LoraArguments | None",
    output_dir: o.OutputDir,
    layers: Annotated[
        str | None, o.option(help="Number of teacher layers to keep, or their indices, such as 0,2,5 (all).")
    ] = None,
    heads: Annotated[int | None, o.option(min=1, help="Attention heads per layer (the teacher's).")] = None,
    intermediate_size: Annotated[
        int | None, o.option(min=1, help="Width of the feed-forward layers (the teacher's).")
    ] = None,
    student: Annotated[
        str | None, o.option(help="Existing student to start from: folder or Hub id (cut out of the teacher).")
    ] = None,
    dropout: Annotated[float | None, o.option(help="Dropout of a student cut out of the teacher (0).")] = None,
    temperature: o.Temperature = None,
    objectives: o.Objectives = None,
    soft_labels: o.SoftLabels = None,
    live: o.Live = False,
    unlabelled: o.Unlabelled = None,
    extra_teacher: Annotated[
        list[str] | None, o.option("--extra-teacher", help="Further teacher to average logits with; repeatable (none).")
    ] = None,
    teacher_weights: Annotated[
        str | None, o.option(help="Weights of several teachers in order, such as 0.7,0.3 (equal).")
    ] = None,
    quantization_aware: Annotated[
        str | None,
        o.option(
            help="Train for int8: weights, dynamic or dynamic-int4-embeddings for onnx, or static for openvino (off)."
        ),
    ] = None,
    seed: o.Seed = None,
    config: o.Config = None,
    overwrite: o.Overwrite = False,
    resume: o.Resume = False,
    json_file: o.JsonFile = None,
):
    """Distil a teacher into a smaller student.

    Every field of DistillationTrainingArguments is an option as well, such as --learning-rate 2e-4.
    """
    from ..commands.distill import distill as run
    from ..models.arguments import StudentArguments
    from ..objectives.arguments import DistillationTrainingArguments

    shape = StudentArguments(parse_layers(layers), heads, intermediate_size, student, dropout)
    args = o.training_arguments(
        DistillationTrainingArguments,
        context,
        output_dir,
        lora,
        seed=seed,
        temperature=temperature,
        objectives=objectives,
    )
    teachers, weights = [teacher, *(extra_teacher or [])], parse_weights(teacher_weights)
    announce(f"distilling {', '.join(teachers)} on {data.task or data.dataset} into {output_dir}")
    record = run(
        teachers,
        data,
        args,
        shape,
        soft_labels,
        live,
        overwrite=overwrite,
        resume=resume,
        unlabelled=unlabelled or (),
        lora=lora,
        teacher_weights=weights,
        quantization_aware=quantization_aware,
    )
    content = store_and_show(json_file, vars(record), stage_table(str(output_dir), record))
    suggest(
        o.merge_suggestion(lora, output_dir) or f"tkd-hf evaluate {output_dir} --teacher {teacher} {o.data_flags(data)}"
    )
    return content


def parse_layers(text: str | None) -> int | tuple[int, ...] | None:
    """Parse a number of layers (`3`) or a list of their indices (`0,2,5`)."""
    if text is None:
        return None
    try:
        numbers = tuple(int(number) for number in text.strip("[]").split(","))
    except ValueError:
        raise InputError(
            f"--layers {text!r} is neither a number of layers, such as 3, nor a list of layers, such as 0,2,5"
        ) from None
    return numbers if "," in text else numbers[0]


def parse_weights(text: str | None) -> tuple[float, ...] | None:
    """Parse a list of weights such as `0.7,0.3`."""
    try:
        return None if text is None else tuple(float(weight) for weight in text.strip("[]").split(","))
    except ValueError:
        raise InputError(
            f"--teacher-weights {text!r} must be a list of numbers, one per teacher, such as 0.7,0.3"
        ) from None
