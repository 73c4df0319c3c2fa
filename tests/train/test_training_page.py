"""docs/training.md: its first pipeline runs as it stands, and it names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from patentft.models.adapters.table import ADAPTERS
from patentft.objectives.table import OBJECTIVES
from patentft.train.check import matrix
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "training.md").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_first_pipeline(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lines of Python after it."""
    monkeypatch.chdir(tmp_path)
    (first,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("first.yaml").write_text(first)
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(lines, found)
    model = found["finished"]["model"]
    assert model.manifest.counts["best_metric"] < 0
    assert (Path(model.location.path) / "export" / "README.md").is_file()
    assert Path("runs/first/model/export/adapter/adapter_config.json").is_file()


def test_names_what_there_is() -> None:
    for name in (*OBJECTIVES, *ADAPTERS):
        assert f"`{name}`" in PAGE, name
    for path in (REPOSITORY / "ray_jobs" / "configs" / "train").glob("*.yaml"):
        assert f"`{path.name}`" in PAGE, path.name


def test_the_table_is_the_one_that_is_checked() -> None:
    table = PAGE.split("<!-- matrix -->\n")[1].split("<!-- end of the matrix -->")[0]
    assert table.strip() == matrix().strip(), "put in what `patentft train --matrix` prints"
