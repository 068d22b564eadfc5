"""Register TKD with transformers, and give its classes the method that needs the whole package.

The source files of TKD travel with every saved model and must not import tkd_hf. This module therefore assigns that
method to their classes when tkd_hf is imported.
"""

import os
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from .architectures import AUTO_CLASSES, TKD_CLASSES
from .configuration_tkd import TKDConfig
from .modeling_tkd import TKDPreTrainedModel
from .student import student_from_teacher


def register_auto_classes() -> None:
    """Register TKD with the Auto classes of transformers, and add `from_teacher` to its classes.

    Calling this again changes nothing.

    `register` lets `AutoModel.from_pretrained` and `pipeline` find this package's classes, which take precedence over
    remote code. `register_for_auto_class` makes `save_pretrained` copy the source files into the folder, for users
    without this package who load the model with `trust_remote_code=True`.
    """
    AutoConfig.register(TKDConfig.model_type, TKDConfig, exist_ok=True)
    TKDConfig.register_for_auto_class()
    for head, auto_class in AUTO_CLASSES.items():
        auto_class.register(TKDConfig, TKD_CLASSES[head], exist_ok=True)
        TKD_CLASSES[head].register_for_auto_class(auto_class)
    TKDPreTrainedModel.from_teacher = classmethod(from_teacher)  # type: ignore[assignment]


def from_teacher(
    cls: type[TKDPreTrainedModel], teacher: PreTrainedModel | str | os.PathLike[str], **kwargs: Any
) -> TKDPreTrainedModel:
    """Build a student of this class that starts from the teacher's weights wherever they fit.

    See `tkd_hf.student_from_teacher` for the arguments and an example.
    """
    return student_from_teacher(teacher, model_class=cls, **kwargs)
