"""cluster.yaml is what Ray's cluster launcher accepts, and says the same as the rest of the repository."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster):
    """What `ray up` does with the file before it talks to AWS: schema, defaults, schema again."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert set(types) == {"head", "cpu", "gpu"}
    assert prepared["head_node_type"] == "head"
    assert types["head"]["max_workers"] == 0
    assert all(types[name]["max_workers"] > 0 for name in ("cpu", "gpu"))
    assert sum(types[name]["max_workers"] for name in ("cpu", "gpu")) >= prepared["max_workers"]


def test_ray_refuses_a_misspelt_key(cluster):
    """The check above can fail."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepare_config(cluster | {"setup_comands": []}))


def test_every_node_has_the_token_and_asks_for_it(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        (start,) = [command for command in commands if "ray start" in command]
        assert start.index("RAY_AUTH_MODE=token") < start.index("ray start")
        assert "RAY_USAGE_STATS_ENABLED=0" in start
        assert "ulimit -n 65536" in start
    (bashrc,) = [command for command in cluster["setup_commands"] if ".bashrc" in command]
    assert "RAY_AUTH_MODE=token" in bashrc


def test_workers_join_the_head_and_the_dashboard_is_not_public(cluster):
    head, worker = cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]
    assert "--head" in head
    assert "--port=6379" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker


def test_mounted_files_exist(cluster):
    local = [path for path in cluster["file_mounts"].values() if not path.startswith("~")]
    assert local
    for path in local:
        assert (ROOT / path).is_file(), path


def test_storage_is_mounted_on_every_node(cluster):
    mounts = [command for command in cluster["setup_commands"] if "mount -t nfs4" in command]
    assert len(mounts) == 1
    assert "/mnt/patentft" in mounts[0]


def test_all_commands_are_valid_bash(cluster):
    keys = [key for key in cluster if key.endswith("_commands")]
    for command in [command for key in keys for command in cluster[key]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"


def test_nodes_get_the_dependencies_of_pyproject(cluster, tmp_path):
    """Runs the setup command that writes requirements.txt, in a home folder laid out as on a node."""
    (command,) = [command for command in cluster["setup_commands"] if "tomllib" in command]
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "patentft").mkdir()
    (tmp_path / "patentft/pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    subprocess.run(["bash", "-c", command], check=True, env=os.environ | {"HOME": str(tmp_path)})
    lines = (tmp_path / "patentft/requirements.txt").read_text().splitlines()
    assert [Requirement(line) for line in lines]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(lines) >= {*project["dependencies"], *project["optional-dependencies"]["s3"]}
