"""`tkd-hf finetune`: train a classifier on labelled data, to become a teacher or as a student."""

from dataclasses import asdict
from functools import partial

from transformers import set_seed

from ..core.hardware import padding_multiple
from ..data.arguments import DataArguments
from ..data.collation import DistillationCollator
from ..data.loading import load_splits
from ..data.tokenization import tokenize
from ..evaluation.metrics import compute_metrics_for
from ..models.arguments import LoraArguments
from ..models.loading import load_for_training, load_tokenizer
from ..models.lora import add_adapters, finish_adapters
from ..objectives.arguments import FineTuningArguments
from ..records.run_folder import RunFolder, StageRecord, data_inputs, training_arguments
from ..teachers.soft_labels import teacher_revision
from ..training.base_trainer import BaseTrainer
from ..training.stage import train_into


def finetune(
    model: str,
    data: DataArguments,
    args: FineTuningArguments,
    overwrite: bool = False,
    resume: bool = False,
    lora: LoraArguments | None = None,
) -> StageRecord:
    """Fine-tune a model on labelled data, and save a classifier in `args.output_dir`.

    Use it to make the teacher that `distill` needs, or to train a distilled student further on the labels. A pretrained
    encoder gets a new classifier head. A classifier keeps its head if its labels are those of the task, and gets a new
    one otherwise. The saved folder loads with `AutoModelForSequenceClassification` or
    `AutoModelForTokenClassification`, and holds the tokenizer, the record (`tkd_run.json`) and a model card.

    A learning rate that is too high makes the gradient infinite or NaN; training stops before it damages the weights,
    and the message names the step.

    Args:
        model: folder or Hub id of a pretrained encoder or of a classifier.
        data: the task or data set. Both splits need labels.
        args: training arguments; `args.output_dir` is the run folder.
        overwrite: delete the run in the folder first.
        resume: continue from the latest checkpoint in the folder. If that run has finished, return its record.
        lora: train LoRA adapters instead of all weights, and merge them afterwards. Adapters need a higher learning
            rate, such as `tkd_hf.models.lora.LORA_LEARNING_RATE`.

    Returns:
        the record of the run, with the metrics on the evaluation split.

    Raises:
        InputError: for bad data, a model that cannot be loaded or trained, or a folder that holds another run.
        TrainingStopped: after SIGTERM, once a checkpoint has been written.

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
