"""`tkd-hf pretrain`: an encoder from raw text, by masked language modelling, and from a teacher encoder."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..configuration_tkd import TKDConfig
from ..conversion import ARCHITECTURES, to_tkd
from ..data.corpus import CorpusArguments, MaskingCollator, corpus_fingerprint, load_corpus, stack_sequences
from ..data.features import same_tokenizer
from ..errors import InputError
from ..model_loading import load_encoder, load_masked_lm_if_trained, load_tokenizer
from ..modeling_tkd import TKDForMaskedLM, TKDModel, TKDPreTrainedModel
from ..objectives import OBJECTIVES
from ..objectives.combined import CombinedObjective
from ..soft_labels import teacher_revision
from ..student import student_from_teacher
from ..trainer import DistillationTrainer
from ..training_args import DistillationTrainingArguments
from .run_folder import RunFolder, StageRecord
from .student import check_dropout, dropout_fields, shape_arguments
from .training import train_into, training_arguments


@dataclass
class PretrainingArguments(DistillationTrainingArguments):
    """`DistillationTrainingArguments` with the defaults of pre-training.

    Raises:
        ValueError: for objectives that need a teacher where there is none.

    Example:

    ```python
    >>> from tkd_hf.stages.pretrain import PretrainingArguments
    >>> PretrainingArguments("runs/base", report_to="none").objectives
    {'hard': 1.0}
    >>> PretrainingArguments("runs/base", teacher="org/encoder", report_to="none").objectives
    {'relations': 1.0, 'hard': 1.0}

    ```
    """

    teacher: str | None = field(
        default=None, metadata={"help": "Encoder to learn from, with or without a masked-LM head: folder or Hub id."}
    )
    objectives: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": 'Weight of each objective, by name. The default is masked language modelling, {"hard": 1.0}; with '
            'a teacher, {"relations": 1.0, "hard": 1.0}.'
        },
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of tokens to predict."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of AdamW."})
    train_sampling_strategy: str = field(default="random", metadata={"help": "All sequences are of one length."})

    def __post_init__(self):
        if self.objectives is None:
            self.objectives = {"relations": 1.0, "hard": 1.0} if self.teacher else {"hard": 1.0}
        super().__post_init__()
        taught = [name for name in self.objective_names if OBJECTIVES[name].needs_teacher]
        if taught and not self.teacher:
            raise ValueError(f"objectives {', '.join(taught)} need a teacher; name one, or leave them out")
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"mlm_probability={self.mlm_probability} must lie between 0 and 1")

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of the objectives that have a weight, be it only at the end."""
        return CombinedObjective(self).names

    @property
    def predicts_tokens(self) -> bool:
        """Whether tokens are masked and predicted; if not, the student learns from the teacher's features alone."""
        return bool({"hard", "logits"} & set(self.objective_names))


@dataclass(frozen=True)
class EncoderArguments:
    """The encoder's shape; what is left out is the teacher's, or without one the default of `TKDConfig`.

    Args:
        layers: number of layers, taken evenly from the teacher, or the teacher's layers by index (from 0).
        heads: attention heads a layer.
        intermediate_size: width of the feed-forward layers; from scratch, by default four times `hidden_size`.
        hidden_size: width of an encoder from scratch; with a teacher, it then only learns from it.
        dropout: everywhere in it, and in what is distilled into it later; by default the teacher's.
    """

    layers: int | tuple[int, ...] | None = None
    heads: int | None = None
    intermediate_size: int | None = None
    hidden_size: int | None = None
    dropout: float | None = None

    def __post_init__(self):
        check_dropout(self.dropout)


def pretrain(
    corpus: CorpusArguments,
    args: PretrainingArguments,
    encoder: EncoderArguments = EncoderArguments(),
    tokenizer: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> StageRecord:
    """Pre-trains a TKD encoder and leaves it in `args.output_dir`, ready to be fine-tuned or to be distilled into.

    With `args.teacher` it starts from the teacher's layers, unless `encoder.hidden_size` asks for one from scratch.
    A teacher without a masked-LM head (MiniLM, a sentence encoder) will do: the student's is then made new. Where
    no objective predicts tokens, nothing is masked, and the student is an encoder without a head.

    Args:
        corpus: the text.
        args: what to learn from and how.
        encoder: the student's shape.
        tokenizer: folder or Hub id of the tokenizer; by default the teacher's.
        overwrite: delete the run that the folder holds.
        resume: go on from the last checkpoint of the run that the folder holds; a finished run is returned as it is.

    Returns:
        the record of the run. On the sequences held out it has the loss, each objective's, and for masked language
        modelling `masked_accuracy` and `perplexity`, over all masked tokens.

    Raises:
        InputError: for a bad corpus, models that cannot be loaded or do not fit, or a folder that holds another run.
    """
    teacher, words = _load_teacher(args), _load_tokenizer(args.teacher, tokenizer)
    _check_fit(teacher, words, corpus.max_length)
    train, evaluation = load_corpus(corpus, words)
    record = StageRecord(
        "pretrain",
        inputs={
            "teacher": args.teacher,
            "teacher_revision": teacher_revision(args.teacher) if args.teacher else None,
            "tokenizer": tokenizer,
            "dataset": Path(corpus.dataset).name,
            "train": corpus_fingerprint(train),
            "eval": corpus_fingerprint(evaluation),
        },
        arguments={
            "max_length": corpus.max_length,
            "mlm_probability": args.mlm_probability,
            **vars(encoder),
            **training_arguments(args),
        },
    )
    folder = RunFolder(args.output_dir, record, overwrite, resume)
    if folder.done:
        return folder.record

    set_seed(args.seed)  # before what the teacher cannot give is initialised
    model_class = TKDForMaskedLM if args.predicts_tokens else TKDModel
    collator = MaskingCollator(words, mlm_probability=args.mlm_probability, seed=args.seed)
    trainer = DistillationTrainer(
        model=_student(teacher, encoder, words, model_class, corpus.max_length),
        args=args,
        teacher_model=_teaching(teacher, args),
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=collator if args.predicts_tokens else stack_sequences,
        processing_class=words,
        compute_metrics=masked_lm_metrics if args.predicts_tokens else None,
        preprocess_logits_for_metrics=score_sequences if args.predicts_tokens else None,
    )
    return train_into(folder, trainer)


def score_sequences(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each sequence: how many tokens were to be predicted, how many were, and the sum of their negative log
    likelihoods; so that evaluation need not keep the logits.

    Args:
        logits: (selected, vocabulary), of the tokens that are to be predicted.
        labels: (batch, length), -100 where nothing is.

    Returns:
        (batch, 3).
    """
    mask = labels != -100
    losses = F.cross_entropy(logits.float(), labels[mask], reduction="none")
    found = (logits.argmax(dim=-1) == labels[mask]).float()
    scores = torch.stack([torch.ones_like(losses), found, losses], dim=1)
    return scores.new_zeros(len(labels), 3).index_add(0, mask.nonzero()[:, 0], scores)


def masked_lm_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and perplexity over all tokens that were to be predicted."""
    count, found, loss = prediction.predictions.sum(axis=0, dtype=np.float64)
    return {"masked_accuracy": found / count, "perplexity": float(np.exp(loss / count))}


def _load_teacher(args: PretrainingArguments) -> PreTrainedModel | None:
    if not args.teacher:
        return None
    found = load_masked_lm_if_trained(args.teacher) if args.predicts_tokens else None
    if found is None and "logits" in args.objective_names:
        raise InputError(
            f"the objective 'logits' needs a teacher that predicts tokens, and {args.teacher!r} has no masked-LM head; "
            "choose a teacher that has one, or learn from its features, such as relations"
        )
    return found or load_encoder(args.teacher)


def _load_tokenizer(teacher: str | None, tokenizer: str | None) -> PreTrainedTokenizerBase:
    if not (teacher or tokenizer):
        raise InputError("an encoder from scratch needs --tokenizer, such as that of google-bert/bert-base-uncased")
    found = load_tokenizer(tokenizer or teacher)
    if teacher and tokenizer and not same_tokenizer(found, load_tokenizer(teacher)):
        raise InputError(
            f"{tokenizer!r} and the teacher {teacher!r} have different tokenizers, so that their tokens cannot be "
            "compared one by one; leave out --tokenizer, or the teacher"
        )
    return found


def _check_fit(teacher: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, max_length: int):
    if teacher is None:
        return
    if len(tokenizer) > teacher.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, the teacher {teacher.config.name_or_path!r} embeddings for "
            f"{teacher.config.vocab_size}; save the teacher with its own tokenizer"
        )
    longest = getattr(teacher.config, "max_position_embeddings", max_length)
    if max_length > longest:
        raise InputError(f"max_length={max_length}, but the teacher reads at most {longest} tokens; lower --max-length")


def _teaching(teacher: PreTrainedModel | None, args: PretrainingArguments) -> PreTrainedModel | None:
    """The part of the teacher that is needed: a head only for its logits, and these only where tokens are masked."""
    if teacher is None or "logits" not in args.objective_names:
        return teacher and teacher.base_model
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
        raise InputError(f"layers={list(layers)} are a teacher's, but the encoder starts from scratch; give a number")
    width = encoder.hidden_size or TKDConfig.hidden_size
    shape = {
        "num_hidden_layers": layers or TKDConfig.num_hidden_layers,
        "num_attention_heads": encoder.heads or max(width // 64, 1),
        "intermediate_size": encoder.intermediate_size or 4 * width,
    }
    return model_class(
        TKDConfig(
            vocab_size=teacher.config.vocab_size if teacher else len(tokenizer),
            hidden_size=width,
            max_position_embeddings=max(TKDConfig.max_position_embeddings, max_length),
            pad_token_id=tokenizer.pad_token_id,
            **shape,
            **dropout_fields(encoder.dropout),
        )
    )
