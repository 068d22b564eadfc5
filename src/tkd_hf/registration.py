"""Register TKD with transformers: the Auto classes load it, and saved students include its source files."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_tkd import TKDConfig
from .modeling_tkd import TKDForMaskedLM, TKDForSequenceClassification, TKDForTokenClassification, TKDModel


MODEL_CLASSES = {
    AutoModel: TKDModel,
    AutoModelForSequenceClassification: TKDForSequenceClassification,
    AutoModelForTokenClassification: TKDForTokenClassification,
    AutoModelForMaskedLM: TKDForMaskedLM,
}


def register_auto_classes() -> None:
    """Register TKD with the Auto classes of transformers. Calling this again changes nothing.

    `register` lets `AutoModel.from_pretrained` and `pipeline` find this package's classes, which take precedence over
    remote code. `register_for_auto_class` makes `save_pretrained` copy the source files into the folder, for users
    without this package who load the model with `trust_remote_code=True`.
    """
    AutoConfig.register(TKDConfig.model_type, TKDConfig, exist_ok=True)
    TKDConfig.register_for_auto_class()
    for auto_class, model_class in MODEL_CLASSES.items():
        auto_class.register(TKDConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class)
