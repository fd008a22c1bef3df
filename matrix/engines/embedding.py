"""The embedder's process: texts in, one JSON line a request; vectors out, a line with their shape and then float32.

`python -m matrix.engines.embedding SERVED`, started by `matrix.engines.embedder`. It ends when its input does, however
the parent ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> None:
    """Load the model of the JSON object in the first argument and answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes the input
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand between the vectors
    served = json.loads(sys.argv[1])
    import numpy as np
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(served["threads"])
    model = SentenceTransformer(
        served["source"], revision=served["revision"], device="cpu", trust_remote_code=served["trust_remote_code"]
    )
    for line in sys.stdin.buffer:
        request = json.loads(line)
        vectors = model.encode(
            request["texts"], batch_size=request["batch_size"], normalize_embeddings=True, show_progress_bar=False
        )
        array = np.ascontiguousarray(vectors, dtype=np.float32)
        out.write(json.dumps(array.shape).encode() + b"\n" + array.tobytes())
        out.flush()


if __name__ == "__main__":
    main()
