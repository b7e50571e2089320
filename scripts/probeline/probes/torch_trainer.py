"""The trainer for large models: products in torch, on a CUDA device where there is one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
import torch

from probeline.errors import ProbelineError
from probeline.probes.methods import Array
from probeline.probes.solver import Line, Targets
from probeline.probes.streaming import Block, cached_rows
from probeline.probes.trainer import ProbeTrainer

TURN = Lock()


class LinearProbe(torch.nn.Module):
    """A linear score of raw features, as a module: (x - mean) · weight + bias, the log odds of label 1.

    Args:
        mean: [features], what is subtracted.
        weight: [features].
        bias: one number.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, mean: Any, weight: Any, bias: float) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, torch.as_tensor(value))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Log odds [...] of features [..., features]."""
        return (features.to(self.weight.dtype) - self.mean) @ self.weight + self.bias


class TorchProbeTrainer(ProbeTrainer):
    """Trains with L-BFGS, in products of torch on `config.device`; in bfloat16 there if it is a CUDA device.

    Scores are computed in full precision.

    Without a CUDA device, one that is asked for is a warning, and the processor is used. Where a device's
    memory does not hold a batch, the batch is halved; the log says so in the end.

    Args: see `ProbeTrainer`.
    """

    backend = "torch"

    _rows_that_fit: int | None = None

    def _find_device(self) -> torch.device:
        return _device(self.config.device)

    def probe(self) -> LinearProbe:
        """The trained probe as a torch module, in float64.

        Raises:
            ProbelineError: nothing was trained yet.
        """
        return LinearProbe(*self._line())

    def _products(self, block: Block, line: Line, targets: Targets | None) -> tuple[Array, Array | None]:
        scores, gradient = np.empty(len(block)), np.zeros(len(line.weights) + 1)
        start = 0
        while start < len(block):
            rows = min(self._rows_that_fit or len(block), len(block) - start)
            part = slice(start, start + rows)
            inside = None if targets is None else Targets(targets.labels[part], targets.weights[part])
            try:
                scores[part], added = self._multiply(block[part], line, inside)
            except torch.OutOfMemoryError:
                self._halve(rows)
                continue
            if added is not None:
                gradient += added
            start += rows
        return scores, None if targets is None else gradient

    def _halve(self, rows: int) -> None:
        if rows == 1:
            raise ProbelineError(
                f"The memory of {self.device} does not hold a single row. Free it, or set device to cpu."
            )
        self._rows_that_fit = rows // 2
        self._note = (
            f"The memory of {self.device} did not hold a batch of {self.config.batch_size} rows: it went on "
            f"with {rows // 2} at once, with the same result. Set batch_size to {rows // 2} to begin there."
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _multiply(self, block: Block, line: Line, targets: Targets | None) -> tuple[Array, Array | None]:
        """What `_products` gives, at once or in pieces that the processor's cache holds."""
        dtype = torch.float64 if block.dtype == np.float64 else torch.float32
        probe = LinearProbe(line.mean, line.weights, line.offset).to(self.device, dtype)
        scores, gradient = np.empty(len(block)), np.zeros(len(line.weights) + 1)
        on_cuda = self.device.type == "cuda"
        chunk = len(block) if on_cuda else cached_rows(len(line.weights))
        # Only what trains is rounded: a score is the same whatever the probe was trained with.
        mixed = on_cuda and self.config.use_mixed_precision and targets is not None
        if not block.flags.writeable:  # torch has no tensors that are read only
            block = block.copy()
        with torch.inference_mode(), _one_thread() if not on_cuda else nullcontext():
            for start in range(0, len(block), chunk):
                part = slice(start, start + chunk)
                rows = torch.from_numpy(block[part]).to(self.device).to(dtype) - probe.mean
                with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
                    found = rows @ probe.weight
                scores[part] = (found.to(dtype) + probe.bias).cpu().numpy()
                if targets is None:
                    continue
                odds = torch.from_numpy(scores[part]).sigmoid().numpy()
                residual = targets.weights[part] * (odds - targets.labels[part])
                with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
                    added = torch.from_numpy(residual).to(self.device, dtype) @ rows
                gradient[:-1] += added.double().cpu().numpy()
                gradient[-1] += residual.sum()
        return scores, None if targets is None else gradient


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread for a while: sums do not depend on the number of cores then.

    The number is partly the whole process's, partly the thread's own, so that only one thread at a time may
    change it and put it back: fits side by side take turns.
    """
    with TURN:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ProbelineError(f"device is {name!r}. Expected: auto, cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        warnings.warn("There is no CUDA device here: the probe is trained on the processor.", stacklevel=4)
        return torch.device("cpu")
    if device.index is not None and device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ProbelineError(
            f"device is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices, "
            "counted from cuda:0."
        )
    return device
