"""`tkd-hf finetune`: make a teacher, or fine-tune a student."""

from dataclasses import asdict
from functools import partial

from transformers import set_seed

from ..adapters import LoraArguments, add_adapters, finish_adapters
from ..data.features import DistillationCollator, tokenize
from ..data.loading import DataArguments, load_splits
from ..evaluation.metrics import compute_metrics_for
from ..hardware import padding_multiple
from ..model_loading import load_for_training, load_tokenizer
from ..sampling import BaseTrainer
from ..soft_labels import teacher_revision
from ..training_args import FineTuningArguments
from .run_folder import RunFolder, StageRecord, data_inputs
from .training import train_into, training_arguments


def finetune(
    model: str,
    data: DataArguments,
    args: FineTuningArguments,
    overwrite: bool = False,
    resume: bool = False,
    lora: LoraArguments | None = None,
) -> StageRecord:
    """Fine-tunes a classifier of texts, or of tokens, on a task and leaves it in `args.output_dir`.

    Args:
        model: folder or Hub id of a pretrained encoder or a classifier.
        data: the task, or the data set.
        args: training arguments; the run is saved in their `output_dir`.
        overwrite: delete the run that the folder holds.
        resume: go on from the last checkpoint of the run that the folder holds; a finished run is returned as it is.
        lora: train LoRA adapters instead of all weights, and merge them; `LORA_LEARNING_RATE` suits them.

    Returns:
        the record of the run, with its metrics on the evaluation split.

    Raises:
        InputError: for bad data, a model that cannot be loaded, or a folder that holds another run.
    """
    train, evaluation, task = load_splits(data)
    tokenizer = load_tokenizer(model)
    record = StageRecord(
        "finetune",
        inputs={
            "model": model,
            "model_revision": teacher_revision(model),
            **data_inputs(train, evaluation, task),
        },
        arguments={
            "max_length": data.max_length,
            **training_arguments(args),
            **({"lora": asdict(lora)} if lora else {}),
        },
    )
    folder = RunFolder(args.output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before the classifier is initialised
    classifier = load_for_training(model, task)
    trainer = BaseTrainer(
        model=add_adapters(classifier, lora) if lora else classifier,
        args=args,
        train_dataset=tokenize(train, tokenizer, data.max_length),
        eval_dataset=tokenize(evaluation, tokenizer, data.max_length),
        data_collator=DistillationCollator(tokenizer, pad_to_multiple_of=padding_multiple(args.device, tokenizer)),
        processing_class=tokenizer,
        compute_metrics=compute_metrics_for(task.metrics, task.problem_type, task.label_names),
    )
    return train_into(folder, trainer, partial(finish_adapters, base=classifier, lora=lora) if lora else None)
