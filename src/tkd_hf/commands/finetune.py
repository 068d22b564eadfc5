"""`tkd-hf finetune`: train a classifier on labelled data, to become a teacher or as a student."""

from dataclasses import asdict
from functools import partial

from transformers import set_seed

from ..core.hardware import padding_multiple
from ..core.options import accepts
from ..data.collation import DistillationCollator
from ..data.loading import load_splits
from ..data.tokenization import check_max_length, tokenize
from ..evaluation.metrics import compute_metrics_for
from ..models.loading import load_for_training, load_tokenizer
from ..models.lora import add_adapters, finish_adapters
from ..records.inputs import data_inputs, teacher_revision, training_arguments
from ..records.recorded import recorded_data
from ..records.run_folder import RunFolder, StageRecord
from ..training.base_trainer import BaseTrainer
from ..training.stage import train_into
from .options import FinetuneOptions


@accepts(FinetuneOptions)
def finetune(options: FinetuneOptions) -> StageRecord:
    """Fine-tune a model on labelled data, and save a classifier in `args.output_dir`.

    Use it to make the teacher that `distill` needs, or to train a distilled student further on the labels. A pretrained
    encoder gets a new classifier head. A classifier keeps its head if its labels are those of the task, and gets a new
    one otherwise. The saved folder loads with `AutoModelForSequenceClassification` or
    `AutoModelForTokenClassification`, and holds the tokenizer, the record (`tkd_run.json`) and a model card.

    A learning rate that is too high makes the gradient infinite or NaN; training stops before it damages the weights,
    and the message names the step.

    Returns:
        the record of the run, with the metrics on the evaluation split.

    Raises:
        InputError: for bad data, a model that cannot be loaded or trained, or a folder that holds another run.
        TrainingStopped: after SIGINT, SIGTERM or SIGHUP, once a checkpoint has been written.

    Example:

    ```python
    from tkd_hf import DataArguments, FineTuningArguments, finetune

    record = finetune(
        "google-bert/bert-base-uncased",
        DataArguments(task="sst2"),
        FineTuningArguments("runs/teacher", num_train_epochs=2),
    )
    print(record.metrics["accuracy"])
    ```
    """
    model, args, lora = options.model, options.args, options.lora
    data = options.data or recorded_data(model)
    train, evaluation, task = load_splits(data)
    tokenizer = load_tokenizer(model)
    check_max_length(tokenizer, data.max_length)
    record = StageRecord(
        "finetune",
        inputs={
            "model": model,
            "model_revision": teacher_revision(model),
            **data_inputs(data, train, evaluation, task),
        },
        arguments={
            "max_length": data.max_length,
            **training_arguments(args),
            **({"lora": asdict(lora)} if lora else {}),
        },
    )
    folder = RunFolder(args.output_dir, record, options.overwrite, options.resume, args)
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before a new classifier head is initialised
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
