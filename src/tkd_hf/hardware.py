"""What the machine can do, and what a measurement must record of it."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def has_fast_bf16(use_cpu: bool = False) -> bool:
    """Whether the device multiplies bfloat16 matrices natively.

    transformers calls bf16 available on every CPU; without AVX512-BF16 or AMX it is emulated there, many times slower
    than float32.

    Args:
        use_cpu: ask about the CPU even where there is a GPU.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def mixed_precision(device: torch.device, bf16: bool | None = None):
    """The context to run a model in: bfloat16 if `bf16`, by default where the device computes in it natively."""
    bf16 = has_fast_bf16(use_cpu=device.type == "cpu") if bf16 is None else bf16
    return torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else nullcontext()


def padding_multiple(device: torch.device, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What the length of a batch is to be a multiple of: on a GPU 8, elsewhere anything.

    There attention is planned anew for each length that occurs (cuDNN, torch 2.11), and of multiples there are fewer.
    Where the longest text that the tokenizer allows is no multiple, nothing is padded beyond it.
    """
    return 8 if device.type == "cuda" and int(tokenizer.model_max_length) % 8 == 0 else None


@contextmanager
def unfused_attention(model: PreTrainedModel, device: torch.device, bf16: bool) -> Iterator[None]:
    """Trains a model whose attention is fused (sdpa) with separate matrix products where those are faster.

    On a CPU, training through the fused kernel in bfloat16 (torch 2.13) takes several times as long, the more so the
    shorter the texts (`examples/benchmarks/attention.py`). In float32, and without gradients, it does not.
    """
    slow = bf16 and device.type == "cpu" and model.config._attn_implementation == "sdpa"
    if slow:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if slow:
            model.set_attn_implementation("sdpa")


def describe_hardware() -> dict:
    """Processor, threads and accelerator, as recorded beside every figure."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "cpu": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bf16": has_fast_bf16(),
    }


def describe_software() -> dict[str, str]:
    """Versions of what a result depends on; of the backends, those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("tkd-hf", "torch", "transformers", "datasets", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that was never installed
            found[name] = "not installed"
    for name in ("bitsandbytes", "onnxruntime", "openvino", "optimum", "optimum-intel", "optimum-quanto"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
