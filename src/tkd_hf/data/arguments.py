"""The options of data: the examples of a task, and the text of pre-training."""

from ..core.errors import InputError
from ..core.options import option, option_class


@option_class
class DataArguments:
    """The source of the examples: exactly one of `task` and `dataset`.

    Use `dataset` for any data of your own: columns and splits with usual names are recognised, and the other options
    name everything else. Class names that are missing or in another order than the teacher's make labels useless, so
    they are compared by name and refused if they differ.

    Raises:
        InputError: if both or neither of `task` and `dataset` are given.

    Example:

    ```python
    >>> from tkd_hf import DataArguments
    >>> data = DataArguments(dataset="org/reviews", text_columns=("title", "body"), eval_split="test")
    >>> data.max_length
    128

    ```
    """

    task: str | None = option(
        default=None,
        help="Built-in GLUE task, such as sst2, cola, mrpc, stsb, qqp or mnli. `tkd_hf.data.tasks.TASKS` lists "
        "them all.",
    )
    dataset: str | None = option(
        default=None,
        help="Data set instead of a task: Hub id, or local file or folder. Files may be parquet, csv, tsv, json, "
        "jsonl, or txt with one text per line; a folder holds one file per split, such as train.csv and test.csv.",
    )
    data_dir: str | None = option(
        default=None,
        shown_default="fetched from the Hub",
        help="Folder with copies of the built-in tasks, DIR/TASK/SPLIT.parquet. Nothing is fetched then.",
    )
    config: str | None = option(
        default=None, flag="--dataset-config", shown_default="its default", help="Configuration of a Hub data set."
    )
    text_columns: tuple[str, ...] = option(
        default=(),
        flag="--text-column",
        multiple=True,
        shown_default="the first of text, sentence, tokens and words",
        help="Column of texts; two for pairs, in the order in which the model reads them; or one of lists of words.",
    )
    label_column: str | None = option(
        default=None,
        shown_default="label; for lists of words the first of ner_tags, tags, labels and label",
        help="Column of labels.",
    )
    label_names: tuple[str, ...] = option(
        default=(),
        shown_default="those of the data",
        help="Class names in the order of the label codes, such as no,yes. Needed if the data has codes without names.",
    )
    train_split: str | None = option(
        default=None, shown_default="the task's, or train", help="Split to train on, or a slice such as train[:90%]."
    )
    eval_split: str | None = option(
        default=None,
        shown_default="the task's, or validation",
        help="Split to evaluate on, or a slice such as train[90%:].",
    )
    max_length: int = option(
        default=128, minimum=4, help="Number of tokens at which the tokenizer truncates an example."
    )

    def __post_init__(self) -> None:
        if bool(self.task) == bool(self.dataset):
            raise InputError(
                f"name the data by either --task or --dataset (got task={self.task!r} and dataset={self.dataset!r})"
            )


@option_class
class CorpusArguments:
    """The source of the text for pre-training, and how to pack it.

    Use any raw text of the language and domain of the later tasks. Texts are joined and cut into sequences of exactly
    `max_length` tokens, so a corpus that is shorter than one sequence is refused.

    Raises:
        InputError: if `max_length` is less than 4.
    """

    dataset: str = option(
        help="Text: Hub id, or local file or folder. A folder holds files of one kind (txt, parquet, json, csv)."
    )
    config: str | None = option(
        default=None, flag="--dataset-config", shown_default="its default", help="Configuration of a Hub data set."
    )
    text_column: str | None = option(
        default=None, shown_default="text or sentence", help="Column of texts. In txt files every line is a row."
    )
    train_split: str | None = option(
        default=None,
        shown_default="train; for local files all but that of --eval-split",
        help="Split to train on. A split of a local folder is the file of that name, such as train.txt.",
    )
    eval_split: str | None = option(
        default=None,
        shown_default="1 % of the training sequences",
        help="Split, or name of the local file, to evaluate on.",
    )
    max_length: int = option(default=128, minimum=4, help="Number of tokens per sequence, [CLS] and [SEP] included.")
    max_sequences: int | None = option(
        default=None, minimum=2, shown_default="no limit", help="Number of sequences after which to stop reading."
    )

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise InputError(f"max_length={self.max_length} leaves no room for text; give at least 4 tokens")
