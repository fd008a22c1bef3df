"""The small store is made once; tests that change something make their own."""

from pathlib import Path

import pytest
from small_store import Small

from matrix.export.folder import export
from matrix.export.source import find


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    return Small(tmp_path_factory.mktemp("small") / "outputs")


@pytest.fixture(scope="session")
def exported(small: Small, tmp_path_factory) -> Path:
    """The cell in every format."""
    return export(find(str(small.cell), Path("none")), tmp_path_factory.mktemp("exported") / "bread")
