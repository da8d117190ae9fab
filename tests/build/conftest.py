import pytest

from nimlite.observe.bars import LineProgress


@pytest.fixture
def progress() -> LineProgress:
    """Progress that nobody reads."""
    return LineProgress(lambda line: None)
