"""Training, testing and using probes.

The trainer library is importable from here; its parts are loaded when they are asked for.
"""

from importlib import import_module
from typing import Any

# The name's module is imported on demand, so that what needs the package only stays light. The stub beside
# this file declares the names for type checkers: an import here, even for them, would let every rule that
# uses any part of the package depend on the trainers' code.
_MODULES = {
    "ActivationDataset": "streaming",
    "LinearProbe": "torch_trainer",
    "ProbeTrainer": "trainer",
    "ProbeTrainingConfig": "training_config",
    "SklearnProbeTrainer": "sklearn_trainer",
    "TorchProbeTrainer": "torch_trainer",
    "create_probe_trainer": "trainer",
    "get_backend_type": "trainer",
    "recommend_backend": "trainer",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
