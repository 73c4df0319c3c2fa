"""Fixtures of the search tests: one thread, a tiny random encoder."""

from __future__ import annotations

import pytest
import torch

from tests.search.tiny_bert import build_bert


@pytest.fixture(autouse=True)
def _one_thread():
    """Small matrices on a shared machine: threads that wait for each other cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_bert(tmp_path_factory.mktemp("tiny_bert")))
