"""Which number types this machine's processor computes natively."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor_has_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware (AVX-512 BF16, AMX, Arm BF16).

    Where that cannot be told (another system than Linux), the answer is no: float32 is right everywhere.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())
    return False
