"""What files of strangers are not allowed: to be pickles, to bring code, and to name files outside their folder."""

from pathlib import Path

from transformers import PretrainedConfig

from .errors import InputError
from .files import read_json


# arguments of `from_pretrained`: without the first, transformers would ask whoever sits at a terminal
NO_CODE = {"trust_remote_code": False}
NO_PICKLES = {**NO_CODE, "use_safetensors": True}

_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


def check_weight_files(model: str | Path) -> None:
    """Refuses the folder of a model whose weights are pickles, or not in it; of a Hub id there is nothing to see yet.

    Raises:
        InputError: it names the file.
    """
    folder = Path(model)
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{pickles[0]} is a pickle, which may run code when it is loaded; where you trust it, load it in Python "
            "and save it as safetensors (save_pretrained)"
        )
    for index in folder.glob("*.safetensors.index.json"):
        content = read_json(index, hint="save the model anew")
        weights = content.get("weight_map") if isinstance(content, dict) else None
        for name in sorted(set(map(str, weights.values()))) if isinstance(weights, dict) else ():
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(f"{index} names the weights {name!r}; only safetensors of its own folder are loaded")


def check_attention_kernel(config: PretrainedConfig, model: str) -> None:
    """Refuses a configuration that has transformers fetch a kernel, which is code, from a repository that it names.

    Raises:
        InputError: it names the repository.
    """
    attention = str(getattr(config, "_attn_implementation", None))
    if "/" in attention:
        raise InputError(
            f"{model!r} asks for the attention of {attention!r}, which is code of another repository, and is not run; "
            "take attn_implementation out of its config.json"
        )
