from __future__ import annotations

from pathlib import Path

import pytest

from patentft import pipeline
from patentft.progress import Progress
from tests.tiny import save_tiny_bert, small_pipeline


@pytest.fixture(scope="session")
def whole(ray_cluster, tmp_path_factory) -> tuple[Path, str]:
    """An undisturbed run on the session's cluster: (its folder, the model it starts from)."""
    model = save_tiny_bert(tmp_path_factory.mktemp("tiny"))
    out = tmp_path_factory.mktemp("whole")
    pipeline.run(pipeline.parse(small_pipeline(out, model)), Progress(quiet=True))
    return out, model
