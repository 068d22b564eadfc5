"""Capabilities of the machine, and the description of hardware and software to record with a measurement."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedTokenizerBase


# Packages whose versions are recorded if they are installed. Each backend adds its own.
RECORDED_PACKAGES = {"optimum"}


def has_fast_bf16(use_cpu: bool = False) -> bool:
    """Return whether the device multiplies bfloat16 matrices natively.

    transformers considers bf16 available on every CPU, but without AVX512-BF16 or AMX it is emulated, many times slower
    than float32.

    Args:
        use_cpu: check the CPU even if there is a GPU.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def mixed_precision(device: torch.device, bf16: bool | None = None) -> AbstractContextManager:
    """Return the context to run a model in: bfloat16 with `bf16`, by default if the device supports it natively."""
    bf16 = has_fast_bf16(use_cpu=device.type == "cpu") if bf16 is None else bf16
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def padding_multiple(device: torch.device, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the multiple to which batches are padded: 8 on a GPU, none on a CPU.

    cuDNN (torch 2.11) plans attention again for every new length, and multiples of 8 leave it fewer lengths. If the
    tokenizer's longest text is not a multiple of 8, the result is `None`, as padding would exceed that length.
    """
    return 8 if device.type == "cuda" and int(tokenizer.model_max_length) % 8 == 0 else None


def describe_hardware() -> dict:
    """Return the processor, threads and accelerator, to record with a measurement."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "cpu": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bf16": has_fast_bf16(),
    }


def describe_software() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, optional packages if installed."""
    versions = {"python": platform.python_version()}
    for name in ("tkd-hf", "torch", "transformers", "datasets", "accelerate"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # tkd-hf may run from its source tree
            versions[name] = "not installed"
    for name in sorted(RECORDED_PACKAGES):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
