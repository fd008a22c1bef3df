"""A society that has lived, as files: what Generate and Prefer read."""

import pytest
from society_fakes import lived_files

from matrix.stage import Result


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return lived_files(tmp_path_factory.mktemp("society"))
