from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.node.storage import folder_storage


@pytest.fixture(scope="session", autouse=True)
def _remove_storage() -> Iterator[None]:
    yield
    if folder_storage.cache_info().currsize:
        shutil.rmtree(folder_storage().root.parent)
