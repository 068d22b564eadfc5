"""Checks of models that come from elsewhere: no pickles, no remote code, all of the weights, a padding token.

`tkd_hf.models.loading` calls them, so every command does.
"""

import re
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from ..core.errors import InputError
from ..core.files import read_json
from .arguments import merge_command


# Arguments of `from_pretrained`. Without `trust_remote_code`, transformers asks in a terminal whether to run code.
NO_CODE = {"trust_remote_code": False}
NO_PICKLES = {**NO_CODE, "use_safetensors": True}

_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")
# What wrappers around a model add to the names of its weights, and how to save the model itself.
_WRAPPERS = {
    "_orig_mod.": "torch.compile adds _orig_mod; save the model inside (model._orig_mod.save_pretrained)",
    "module.": "parallel training adds module; save the model inside (model.module.save_pretrained)",
    "model.": "a training framework adds model; save the model inside (model.model.save_pretrained)",
}
_WRAPPER_NAMES = re.compile(r"^(?:module\.|model\.|_orig_mod\.)+|_orig_mod\.")
_LAYER_WEIGHT = re.compile(r"\blayers?\.\d+\.")


def check_weight_files(model: str | Path) -> None:
    """Check that the weights in a model's folder are safetensors, and that they are all inside the folder.

    Does nothing for a Hub id, whose files are not downloaded yet; `NO_PICKLES` keeps transformers from reading pickles.

    Raises:
        InputError: if the only weights are pickles, or if an index names files elsewhere.
    """
    folder = Path(model)
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{pickles[0]} is a pickle, which may run code when it is loaded; if you trust it, load it in Python and "
            "save it as safetensors (save_pretrained)"
        )
    for index in folder.glob("*.safetensors.index.json"):
        content = read_json(index, hint="save the model again")
        weights = content.get("weight_map") if isinstance(content, dict) else None
        for name in sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else ():
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(f"{index} names the weights {name!r}; only safetensors in its own folder are loaded")


def check_attention_kernel(config: PretrainedConfig, model: str) -> None:
    """Check that a configuration does not make transformers download an attention kernel, which is code.

    Args:
        config: the model's configuration.
        model: the model's name for the error message.

    Raises:
        InputError: if the configuration names a repository to take the kernel from.
    """
    # `PreTrainedConfig._attn_implementation` is read from config.json and has no public name:
    # https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/configuration_utils.py
    attention = str(getattr(config, "_attn_implementation", None))
    if "/" in attention:
        raise InputError(
            f"{model!r} requests the attention kernel {attention!r}, which is code from another repository and is not "
            "run; remove attn_implementation from its config.json"
        )


def refuse_adapter(model: str, revision: str | None = None) -> None:
    """Raise an error if a folder or Hub id contains an adapter instead of a model.

    transformers would load its base instead, with the adapter missing or only partly applied.

    Raises:
        InputError: if it contains an adapter. The message names the base and the command to merge the two.
    """
    if find_adapter_config_file(model, revision=revision) is None:
        return
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(model, revision=revision).base_model_name_or_path
    raise InputError(
        f"{model!r} holds an adapter of {base!r}, not a model; merge the two first: {merge_command(model, 'merged')}"
    )


def check_weights(loaded: PreTrainedModel, info: dict[str, Any], model: str) -> list[str]:
    """Check that a model's files held all weights of its encoder, in the shapes that its configuration gives.

    transformers initialises all others at random, and only logs a table.

    Args:
        loaded: the model.
        info: what `from_pretrained` returns with `output_loading_info=True`.
        model: the model's name for the error message.

    Returns:
        The sorted names of the weights after the encoder, its head and its pooler, that were initialised at random.

    Raises:
        InputError: if weights of the encoder are missing, have another shape, or lie in layers that the configuration
            does not have.
    """
    shapes = {name: (tuple(stored), tuple(expected)) for name, stored, expected in info.get("mismatched_keys", ())}
    initialised, unused = sorted({*info["missing_keys"], *shapes}), sorted(info["unexpected_keys"])
    encoder = [name for name in initialised if not _is_of_head(name, loaded)]
    _check_names(loaded, encoder, unused, model)
    if others := [name for name in encoder if name in shapes]:
        stored, expected = shapes[others[0]]
        raise InputError(
            f"the model in {model!r} cannot be loaded: the shapes of its weights differ from those in its config.json "
            f"({others[0]} is {stored} instead of {expected}{_and_more(len(others) - 1)}); correct its config.json"
        )
    layers = [name for name in unused if _LAYER_WEIGHT.search(name)]  # those of another head may be unused
    if encoder:
        left_over = f", and its files hold {_names(layers)}, which do not belong to it" if layers else ""
        raise InputError(
            f"{model!r} lacks weights of its encoder ({_names(encoder)} are missing{left_over}); correct its "
            "config.json, or save the model again"
        )
    if layers:
        raise InputError(
            f"{model!r} holds weights of layers that its configuration does not have ({layers[0]}"
            f"{_and_more(len(layers) - 1)}); correct num_hidden_layers in its config.json"
        )
    return initialised


def _check_names(loaded: PreTrainedModel, missing: list[str], unused: list[str], model: str) -> None:
    """Refuse weights that would fit without the names that wrappers around a model, or a part of it, add to theirs."""
    base = f"{loaded.base_model_prefix}."
    stems = {name.removeprefix(base) for name in missing}
    for name in unused:
        plain = _WRAPPER_NAMES.sub("", name)
        if plain != name and plain.removeprefix(base) in stems:
            reason = next(reason for wrapper, reason in _WRAPPERS.items() if wrapper in name)
            raise InputError(f"the weights of {model!r} are called {name}, for example, instead of {plain}: {reason}")


def _is_of_head(name: str, loaded: PreTrainedModel) -> bool:
    """Return whether a weight belongs to the head or to the pooler, which a new head trains."""
    prefix = f"{loaded.base_model_prefix}."
    has_head = loaded.base_model is not loaded
    in_encoder = name.startswith(prefix) or not has_head
    return not in_encoder or name.removeprefix(prefix).startswith("pooler.")


def _names(names: list[str]) -> str:
    return ", ".join(names[:3]) + _and_more(len(names) - 3)


def _and_more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def add_padding_token(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig | None, model: str) -> None:
    """Give a tokenizer without a padding token one of its tokens, because batches are padded.

    The token is the one that the model's configuration names. Otherwise it is the token that ends texts, if the
    tokenizer does not add it to texts itself: decoders such as GPT-2 classify a text by its last token that is not
    padding.

    Raises:
        InputError: if it has none that is safe.
    """
    if tokenizer.pad_token is not None:
        return
    index = getattr(config, "pad_token_id", None)
    if index is not None and 0 <= index < len(tokenizer):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(index)
    elif tokenizer.eos_token is not None and tokenizer.eos_token_id not in tokenizer("a")["input_ids"]:
        tokenizer.pad_token = tokenizer.eos_token
    else:
        raise InputError(
            f"the tokenizer of {model!r} has no padding token, and its configuration names none (pad_token_id); set "
            "tokenizer.pad_token to a token that does not occur in texts, and save it next to the model"
        )


def drop_unknown_token_types(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig | None) -> None:
    """Keep a tokenizer from giving token types that the model does not have, as with a BERT tokenizer for a RoBERTa.

    The model then uses its first type for every token, as it does for texts without a second part.
    """
    types = getattr(config, "type_vocab_size", None)
    if not types or "token_type_ids" not in tokenizer.model_input_names:  # 0 means that the model ignores them
        return
    if max(tokenizer("a", "a").get("token_type_ids", [0])) >= types:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
