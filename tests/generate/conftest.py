from __future__ import annotations

import pytest
import torch

from tests.generate.taught import save_taught


@pytest.fixture(scope="session")
def taught(tmp_path_factory) -> str:
    """The folder of a tiny chat model that knows the answers of `taught.QUESTIONS`."""
    torch.set_num_threads(1)
    return save_taught(tmp_path_factory.mktemp("taught"))
