"""Where a run computes, and the switches that make it repeatable there."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitq.errors import ConfigError, Problem
from vitq.machine import usable_cores

# Sixteen images of 224×224: quantized DeiT-tiny takes two thirds of the time that it takes for 64 at once.
CPU_ELEMENTS = 16 * 3 * 224 * 224


def resolve(name: str) -> torch.device:
    """`auto` (CUDA where there is one, else the CPU) or a torch device name.

    Raises ConfigError for an unknown name, and for a CUDA device that is not there: a run never moves to the CPU by
    itself.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        text = f"device={name!r}: not a torch device; valid: auto, cpu, cuda, cuda:N"
        raise ConfigError([Problem(text, "device", name, ["auto", "cpu", "cuda", "cuda:N"])]) from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        text = f"device={name!r}: {torch.cuda.device_count()} CUDA devices are visible; valid here: auto, cpu"
        raise ConfigError([Problem(text, "device", name, ["auto", "cpu"])])
    return device


def make_repeatable() -> None:
    """Full float32 precision and deterministic kernels, so that one signature has one result on one kind of machine.

    Operations without a deterministic CUDA kernel warn and go on: their effect is below the printed precision. Of
    gradients through attention see `exact_attention`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every new tensor with NaN only helps to find reads of uninitialized memory; it costs half the speed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def limit_threads() -> None:
    """No more threads than cores that this process may use: torch counts all of a machine's where a quota allows few.

    Whoever sets OMP_NUM_THREADS is right.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


@contextmanager
def repeatable() -> Iterator[None]:
    """`make_repeatable` inside, and torch's switches as they were afterwards: the process is the caller's."""
    cuda, cudnn, memory = torch.backends.cuda.matmul, torch.backends.cudnn, torch.utils.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before = cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    make_repeatable()
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory = before  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def exact_attention(device: torch.device) -> AbstractContextManager[object]:
    """Attention whose gradient repeats on CUDA, for the full-precision model, whose attention may be one fused kernel.

    The backward of the fused kernels adds up in any order there, and where operations may warn and go on
    (`make_repeatable`) torch takes no other. Around forward and backward both. On a CPU it repeats anyway.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()


def at_once(batch: torch.Tensor, limit: int) -> int:
    """How many images of a batch (B, …) to send through a network together.

    On a CPU no more than `limit` elements, so that what becomes of them stays in the cache; elsewhere all.
    """
    return min(len(batch), max(1, limit // batch[0].numel())) if batch.device.type == "cpu" else len(batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host (where torch raises a plain RuntimeError)."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release() -> None:
    """Give memory that nothing refers to back to the devices."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
