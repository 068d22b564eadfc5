"""Checks for untrusted model folders: no pickles, no remote code, no paths outside the folder."""

from pathlib import Path

from transformers import PretrainedConfig

from .errors import InputError
from .files import read_json


# Arguments of `from_pretrained`. Without `trust_remote_code`, transformers asks in a terminal whether to run code.
NO_CODE = {"trust_remote_code": False}
NO_PICKLES = {**NO_CODE, "use_safetensors": True}

_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


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
    attention = str(getattr(config, "_attn_implementation", None))
    if "/" in attention:
        raise InputError(
            f"{model!r} requests the attention kernel {attention!r}, which is code from another repository and is not "
            "run; remove attn_implementation from its config.json"
        )
