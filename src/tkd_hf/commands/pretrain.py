"""`tkd-hf pretrain`: train an encoder on raw text, by masked language modelling or on a teacher encoder's features."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..core.errors import InputError
from ..core.options import accepts
from ..data.corpus import MaskingCollator, corpus_fingerprint, load_corpus, stack_sequences
from ..data.tokenization import same_tokenizer
from ..models.architectures import ARCHITECTURES
from ..models.arguments import EncoderArguments, dropout_fields, shape_arguments
from ..models.configuration_tkd import TKDConfig
from ..models.conversion import to_tkd
from ..models.loading import load_encoder, load_masked_lm_if_trained, load_tokenizer
from ..models.modeling_tkd import TKDForMaskedLM, TKDModel, TKDPreTrainedModel
from ..models.student import student_from_teacher
from ..objectives.arguments import PretrainingArguments
from ..records.inputs import teacher_revision, training_arguments
from ..records.run_folder import RunFolder, StageRecord
from ..training.stage import train_into
from ..training.trainer import DistillationTrainer
from .options import PretrainOptions


@accepts(PretrainOptions)
def pretrain(options: PretrainOptions) -> StageRecord:
    """Pre-train an encoder on raw text, and save it in `args.output_dir`.

    Use it if one small encoder is to serve several tasks: pre-train it once, then name it as the student in `distill`,
    or fine-tune it. For a single task it is simpler to distil a student that is cut out of the teacher.

    With `args.teacher` the encoder starts from the teacher's layers, unless `encoder.hidden_size` asks for one that is
    initialised randomly. The teacher may lack a masked-LM head (MiniLM, a sentence encoder); the student then gets a
    new one. If no objective predicts tokens, nothing is masked, and the saved encoder has no head.

    Returns:
        the record of the run. Its metrics are measured on held-out sequences: the loss, each objective's part of it,
        and for masked language modelling `masked_accuracy` and `perplexity` over all masked tokens.

    Raises:
        InputError: for a bad corpus, models that cannot be loaded or do not fit, or a folder that holds another run.
        TrainingStopped: after SIGINT, SIGTERM or SIGHUP, once a checkpoint has been written.

    Example:

    ```python
    from tkd_hf import CorpusArguments, EncoderArguments, PretrainingArguments, pretrain

    record = pretrain(
        CorpusArguments("Salesforce/wikitext", config="wikitext-103-raw-v1"),
        PretrainingArguments("runs/base", teacher="google-bert/bert-base-uncased", max_steps=10_000),
        EncoderArguments(layers=4),
    )
    print(record.metrics["perplexity"])
    ```

    References:
        Devlin et al. 2019, BERT, arXiv 1810.04805; Wang et al. 2021, MiniLMv2, arXiv 2012.15828, for the relations.
    """
    corpus, args = options.corpus, options.args
    teacher = _load_teacher(args)
    loaded_tokenizer = _load_matching_tokenizer(args.teacher, options.tokenizer)
    _check_fit(teacher, loaded_tokenizer, corpus.max_length)
    train, evaluation = load_corpus(corpus, loaded_tokenizer)
    folder = RunFolder(
        args.output_dir,
        _record(options, train, evaluation),
        options.overwrite,
        options.resume,
        args,
        reads=[options.corpus.dataset],
    )
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before weights that the teacher does not have are initialised
    model_class: type[TKDPreTrainedModel] = TKDForMaskedLM if args.predicts_tokens else TKDModel
    collator = MaskingCollator(loaded_tokenizer, mlm_probability=args.mlm_probability, seed=args.seed)
    trainer = DistillationTrainer(
        model=_student(teacher, options.encoder, loaded_tokenizer, model_class, corpus.max_length),
        args=args,
        teacher_model=_teacher_part(teacher, args),
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator if args.predicts_tokens else stack_sequences,
        processing_class=loaded_tokenizer,
        compute_metrics=masked_lm_metrics if args.predicts_tokens else None,
        preprocess_logits_for_metrics=score_sequences if args.predicts_tokens else None,
    )
    return train_into(folder, trainer)


def _record(options: PretrainOptions, train: Dataset, evaluation: Dataset) -> StageRecord:
    args, corpus = options.args, options.corpus
    return StageRecord(
        "pretrain",
        inputs={
            "teacher": args.teacher,
            "teacher_revision": teacher_revision(args.teacher) if args.teacher else None,
            "tokenizer": options.tokenizer,
            "dataset": Path(corpus.dataset).name,
            "train": corpus_fingerprint(train),
            "eval": corpus_fingerprint(evaluation),
        },
        arguments={
            "max_length": corpus.max_length,
            **vars(options.encoder),
            **training_arguments(args),
            "mlm_probability": args.mlm_probability,
        },
    )


def score_sequences(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to three sums per sequence, so that evaluation does not keep a vocabulary's logits per token.

    Args:
        logits: (masked tokens, vocabulary), for the masked tokens only.
        labels: (batch, length), -100 for tokens that are not masked.

    Returns:
        (batch, 3): number of masked tokens, number predicted correctly, and sum of negative log-likelihoods.
    """
    mask = labels != -100
    losses = F.cross_entropy(logits.float(), labels[mask], reduction="none")
    correct = (logits.argmax(dim=-1) == labels[mask]).float()
    scores = torch.stack([torch.ones_like(losses), correct, losses], dim=1)
    return scores.new_zeros(len(labels), 3).index_add(0, mask.nonzero()[:, 0], scores)


def masked_lm_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return accuracy and perplexity over all masked tokens, from the sums of `score_sequences`."""
    scores = np.asarray(prediction.predictions)  # (sequences, 3)
    count, correct, loss = scores.sum(axis=0, dtype=np.float64)
    return {"masked_accuracy": correct / count, "perplexity": float(np.exp(loss / count))}


def _load_teacher(args: PretrainingArguments) -> PreTrainedModel | None:
    if not args.teacher:
        return None
    masked_lm = load_masked_lm_if_trained(args.teacher) if args.predicts_tokens else None
    if masked_lm is None and "logits" in args.objective_names:
        raise InputError(
            f"the objective 'logits' needs a teacher that predicts tokens, but {args.teacher!r} has no masked-LM head; "
            "choose a teacher that has one, or an objective on features, such as relations"
        )
    return masked_lm or load_encoder(args.teacher)


def _load_matching_tokenizer(teacher: str | None, tokenizer: str | None) -> PreTrainedTokenizerBase:
    name = tokenizer or teacher
    if not name:
        raise InputError("an encoder without a teacher needs --tokenizer, for example google-bert/bert-base-uncased")
    loaded = load_tokenizer(name)
    if teacher and tokenizer and not same_tokenizer(loaded, load_tokenizer(teacher)):
        raise InputError(
            f"{tokenizer!r} and the teacher {teacher!r} have different tokenizers, so their tokens cannot be compared "
            "one by one; leave out --tokenizer, or the teacher"
        )
    return loaded


def _check_fit(teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    if teacher is None:
        return
    if len(tokenizer) > teacher.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, but the teacher {teacher.config.name_or_path!r} has "
            f"embeddings for {teacher.config.vocab_size}; save the teacher with its own tokenizer"
        )
    longest = getattr(teacher.config, "max_position_embeddings", max_length)
    if max_length > longest:
        raise InputError(f"max_length={max_length}, but the teacher reads at most {longest} tokens; lower --max-length")


def _teacher_part(teacher: PreTrainedModel | None, args: PretrainingArguments) -> PreTrainedModel | None:
    """Return the part of the teacher that is needed: its encoder, with the head only if its logits are learned."""
    if teacher is None:
        return None
    if "logits" not in args.objective_names:
        return cast(PreTrainedModel, teacher.base_model)
    return to_tkd(teacher) if teacher.config.model_type in ARCHITECTURES else teacher


def _student(
    teacher: PreTrainedModel | None,
    encoder: EncoderArguments,
    tokenizer: PreTrainedTokenizerBase,
    model_class: type[TKDPreTrainedModel],
    max_length: int,
) -> TKDPreTrainedModel:
    layers = encoder.layers
    if teacher is not None and encoder.hidden_size is None:
        shape = shape_arguments(layers, encoder.heads, encoder.intermediate_size)
        return student_from_teacher(teacher, model_class=model_class, **shape, **dropout_fields(encoder.dropout))
    if layers is not None and not isinstance(layers, int):
        raise InputError(
            f"layers={list(layers)} select a teacher's layers, but the encoder is initialised randomly; give a number"
        )
    width = encoder.hidden_size or TKDConfig.hidden_size
    return model_class(
        TKDConfig(
            vocab_size=teacher.config.vocab_size if teacher else len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers or TKDConfig.num_hidden_layers,
            num_attention_heads=encoder.heads or max(width // 64, 1),
            intermediate_size=encoder.intermediate_size or 4 * width,
            max_position_embeddings=max(TKDConfig.max_position_embeddings, max_length),
            pad_token_id=tokenizer.pad_token_id,
            **dropout_fields(encoder.dropout),
        )
    )
