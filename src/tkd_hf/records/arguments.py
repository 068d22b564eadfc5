"""Which arguments of a stage its record keeps."""

from typing import Any


def training_arguments(args: Any) -> dict[str, Any]:
    """Return the training arguments that determine the result, for the run's record."""
    names = (
        "learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps warmup_steps "
        "weight_decay lr_scheduler_type optim seed bf16 fp16 objectives final_objectives temperature final_temperature "
        "divergence confidence_weighting top_k layer_map relation_heads"
    ).split()
    values = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    for name in ("learning_rate num_train_epochs warmup_steps weight_decay temperature final_temperature").split():
        if name in values:
            values[name] = float(values[name])  # a recipe may say 2 and a flag 2.0: the run is the same
    return {name: value if isinstance(value, dict) else str(value) for name, value in values.items()}
