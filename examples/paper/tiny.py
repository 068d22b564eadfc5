"""An encoder, a tokenizer and data made in code, for the quick size: nothing learns anything, everything runs."""

import random
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "a the film story plot actor good bad fine dull moving slow not very quite".split()


def make_encoder(folder: Path) -> str:
    """A random BERT of two layers with a word-level tokenizer."""
    if not (folder / "tokenizer.json").exists():
        vocabulary = [*SPECIAL, *WORDS]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")],
        )
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        BertForMaskedLM(config).save_pretrained(folder)
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    return str(folder)


def make_data(folder: Path) -> str:
    """Sentences and pairs of random words with random labels, in the layout of `--data-dir`."""
    draw = random.Random(0)

    def sentences(count: int) -> list[str]:
        return [" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(count)]

    for split, count in (("train", 32), ("validation", 16)):
        single = {"sentence": sentences(count), "label": [i % 2 for i in range(count)]}
        pairs = {
            "sentence1": sentences(count),
            "sentence2": sentences(count),
            "label": [draw.uniform(0, 5) for _ in range(count)],
        }
        for task, rows in (("sst2", single), ("stsb", pairs)):
            path = folder / task / f"{split}.parquet"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                Dataset.from_dict(rows).to_parquet(path)
    return str(folder)
