"""Real judgements and answers of the two benchmarks, where they are at hand; they may not be shipped."""

import gzip
import json
import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[3] / "shared" / "data"


class ReferenceData:
    """Reads files of the reference data; unpacks them where a path is wanted."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.scratch = scratch

    def json(self, name):
        return json.loads(gzip.decompress((self.root / f"{name}.json.gz").read_bytes()))

    def jsonl(self, name):
        return [
            json.loads(line) for line in gzip.decompress((self.root / f"{name}.jsonl.gz").read_bytes()).splitlines()
        ]

    def path(self, name):
        packed = self.root / f"{name}.gz"
        if not packed.exists():
            return self.root / name
        unpacked = self.scratch / Path(name).name
        unpacked.write_bytes(gzip.decompress(packed.read_bytes()))
        return unpacked


@pytest.fixture(scope="session")
def reference_data(tmp_path_factory):
    root = Path(os.environ.get("MATRIX_REFERENCE_DATA", BESIDE))
    if not (root / "alpaca_eval").is_dir():
        pytest.skip(f"no reference data in {root} (set MATRIX_REFERENCE_DATA); its licence does not let it be shipped")
    return ReferenceData(root, tmp_path_factory.mktemp("reference"))
