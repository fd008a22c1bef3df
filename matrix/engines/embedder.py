"""Text embeddings: profiles for homophily groups, scenario memories for sharing, scenarios for retrieval."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix.engines.base import HOW
from matrix.engines.sources import resolve, source_identity

Vectors = NDArray[np.float32]


@dataclass(kw_only=True)
class EmbedderConfig:
    """A sentence-transformers model. The paper names none (it cites OpenAI's text embeddings, section 3.2)."""

    model: str = field(metadata={"identity": source_identity})
    """Hub id, local folder, or `package:<module>/<path>`."""
    revision: str | None = None
    trust_remote_code: bool = False
    batch_size: int = field(default=32, metadata=HOW)
    threads: int = field(default=0, metadata=HOW)
    """CPU threads; 0: all cores that this process may use."""


class Embedder:
    """Embeds texts; the model is loaded by the first call."""

    def __init__(self, config: EmbedderConfig) -> None:
        self.config = config
        self._model: Any = None

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors, shape (len(texts), dimension), float32."""
        if self._model is None:
            self._model = self._load()
        vectors = self._model.encode(
            texts, batch_size=self.config.batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    def _load(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self.config.threads or len(os.sched_getaffinity(0)))
        source = resolve(self.config.model, self.config.revision)
        revision = None if self.config.model.startswith("package:") else self.config.revision
        return SentenceTransformer(
            str(source), revision=revision, device="cpu", trust_remote_code=self.config.trust_remote_code
        )
