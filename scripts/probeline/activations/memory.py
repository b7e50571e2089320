"""The C library's heap, when it keeps what is freed and gives it back; and what a lack of memory looks like.

The heap is glibc's only; other C libraries are left as they are.
"""

import ctypes

# Of malloc.h: the parameters of mallopt, and the largest block that glibc takes from its own heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "CUDA error: out of memory")
LARGEST_HEAP_BLOCK = 32 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what comes next.

    By default it returns large blocks to the system, which hands them back page by page: a sixth of the time
    of a forward pass over short texts.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)


def return_freed_memory() -> None:
    """Give everything that is free back to the system, wherever in the heap it lies.

    Games of ever other sizes leave holes in a heap that is kept: of 1.3 GB after 7,000 games, half was free.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch says that a GPU's memory, or main memory, is used up."""
    import torch

    # For main memory torch has no class of its own.
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
