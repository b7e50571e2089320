"""What this machine computes with: number types, its name, its speed."""

import os
import platform
import time
from pathlib import Path

from probeline.digests import sha256_bytes

CPUINFO = Path("/proc/cpuinfo")
# What a driver for CUDA leaves in the system; without any of it there is no need to ask torch.
CUDA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"), Path("/dev/dxg"))
# Rows and columns of the matrices that the peak is measured with, on a processor and on a GPU.
MATRIX, MATRIX_ON_GPU = 1024, 8192
PRODUCTS = 5
DECISIVE_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
)
"""Settings of the libraries below torch and numpy that decide about the last bits of a result."""


def decisive_variables() -> dict[str, str]:
    """Those of these settings that are made in this process's environment."""
    return {name: os.environ[name] for name in DECISIVE_VARIABLES if name in os.environ}


def processor_has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AVX-512 BF16, AMX, Arm BF16).

    Where that cannot be told (another system than Linux), the answer is no: float32 is right everywhere.
    """
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_cpuinfo(cpuinfo, "flags", "Features").split())


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name and a digest of its features: another one may round differently."""
    name = _cpuinfo(cpuinfo, "model name") or platform.processor() or platform.machine()
    features = " ".join(sorted(_cpuinfo(cpuinfo, "flags", "Features").split()))
    return f"{name} ({sha256_bytes(features.encode())[:8]})"


def _cpuinfo(cpuinfo: Path, *names: str) -> str:
    """What is said of the first processor under one of these names; nothing where there is no such file."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def may_have_cuda() -> bool:
    """Whether there can be a CUDA device; to ask torch would take a second, also where there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(device.exists() for device in CUDA_DEVICES)


def device_name() -> str:
    """What computes here: `cpu`, or what the CUDA device calls itself."""
    if not may_have_cuda():
        return "cpu"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def matrix_peak(dtype: str, device: str) -> float:
    """Operations per second of large matrix products, with the threads that torch has now.

    Args:
        dtype: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
    """
    import torch

    size = MATRIX_ON_GPU if device == "cuda" else MATRIX
    matrix = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        torch.matmul(matrix, matrix)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))
