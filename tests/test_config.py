"""Configuration: every problem at once, overrides, YAML's traps, and what is part of the hash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from patentft.config import (
    Config,
    ConfigError,
    apply_overrides,
    build,
    content,
    digest,
    flatten,
    read_yaml,
    runtime,
    to_yaml,
)

REPOSITORY = Path(__file__).resolve().parent.parent


class Optimizer(Config):
    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    """Peak learning rate."""
    threads: int = runtime(1)


class Lora(Config):
    kind: Literal["lora"] = "lora"
    rank: int = 8


class Full(Config):
    kind: Literal["full"] = "full"


class Training(Config):
    data: str
    epochs: int = Field(default=3, ge=1)
    optimizer: Optimizer = Optimizer()
    schedules: list[Optimizer] = Field(default=[])
    by_name: dict[str, Optimizer] = Field(default={})
    adapter: Lora | Full = Field(default=Lora(), discriminator="kind")
    workers: int = runtime(1)
    cluster: Optimizer = runtime(Optimizer())
    """A whole section that cannot change a row."""

    @model_validator(mode="after")
    def _checked(self) -> Training:
        if self.epochs == 13:
            raise ValueError("epochs=13 is bad luck; set another")
        return self


def test_every_problem_is_reported_at_once_with_the_nearest_key() -> None:
    values = {
        "epoch": 2,  # unknown, and `data` is missing
        "epochs": 0,
        "optimizer": {"learning_rat": 1, "name": "adam"},
        "schedules": [{}, {"nme": "sgd"}],
        "by_name": {"x": {"thread": 2}},
        "adapter": {"kind": "lora", "rnk": 4},
    }
    with pytest.raises(ConfigError) as caught:
        build(Training, values, "encoder")
    message = str(caught.value)
    assert message.startswith("encoder: 8 problems in the configuration\n")
    assert "epoch: unknown key; did you mean 'epochs'?" in message
    assert "data: required, but not set" in message
    assert "epochs: Input should be greater than or equal to 1 (got 0)" in message
    assert "optimizer.learning_rat: unknown key; did you mean 'learning_rate'?" in message
    assert "optimizer.name: Input should be 'adamw' or 'sgd' (got 'adam')" in message
    assert "schedules.1.nme: unknown key; did you mean 'name'?" in message
    assert "by_name.x.thread: unknown key; did you mean 'threads'?" in message
    assert "rnk: unknown key; did you mean 'rank'?" in message


def test_an_unlike_key_shows_the_valid_ones_and_long_values_are_shortened() -> None:
    with pytest.raises(ConfigError, match="zzzzzz: unknown key; valid: learning_rate, name, threads"):
        build(Optimizer, {"zzzzzz": 1})
    with pytest.raises(ConfigError) as caught:
        build(Training, {"data": "x", "optimizer": "y" * 10_000})
    assert len(str(caught.value)) < 500


def test_a_validators_own_message_stands_alone() -> None:
    with pytest.raises(ConfigError) as caught:
        build(Training, {"data": "x", "epochs": 13})
    assert str(caught.value).splitlines()[1] == "  all of it: epochs=13 is bad luck; set another"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_inf_and_nan_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="learning_rate: Input should be a finite number"):
        build(Optimizer, {"learning_rate": value})


def test_configs_are_frozen_and_their_docstrings_are_the_help() -> None:
    config = build(Training, {"data": "x"})
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 4  # pyright: ignore[reportAttributeAccessIssue]
    assert Optimizer.model_fields["learning_rate"].description == "Peak learning rate."


# Overrides


def test_overrides_set_values_at_any_depth_and_leave_the_original_alone() -> None:
    values: dict[str, Any] = {"a": {"b": 1, "c": [1]}, "e": None}
    overrides = ["a.b=2", "a.d.e=x", "f=null", "g=[1, two]", "h=", "i=a=b", "e.x=1", "a.c={k: v}"]
    changed = apply_overrides(values, overrides)
    assert changed == {
        "a": {"b": 2, "c": {"k": "v"}, "d": {"e": "x"}},
        "e": {"x": 1},
        "f": None,
        "g": [1, "two"],
        "h": None,
        "i": "a=b",
    }
    assert values == {"a": {"b": 1, "c": [1]}, "e": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "override 'epochs' must have the form key.subkey=value"),
        ("=3", "must have the form"),
        ("a..b=3", "must have the form"),
        (".a=3", "must have the form"),
        ("a.b.c=3", "override 'a.b.c=3': a.b holds a value, not a mapping"),
        ("x=[1, 2", "override 'x=[1, 2': value is not valid YAML"),
        ("x={a: 1, a: 2}", "key 'a' given twice"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"a": {"b": 1}}, [override])
    assert message in str(caught.value)


# YAML


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1.e-4"])
def test_a_small_number_is_a_number_in_file_and_override(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"learning_rate: {text}\nplain: {{any: [{text}]}}")
    loaded = read_yaml(file)
    assert loaded == {"learning_rate": 1e-4, "plain": {"any": [1e-4]}}  # equal types too: no texts
    assert apply_overrides({}, [f"learning_rate={text}"]) == {"learning_rate": 1e-4}
    assert build(Optimizer, {"learning_rate": loaded["learning_rate"]}).learning_rate == 1e-4


@pytest.mark.parametrize(("text", "number"), [("1.5e4", 15000.0), ("3e5", 3e5), ("-2e+3", -2000.0)])
def test_other_exponents(text: str, number: float) -> None:
    assert apply_overrides({}, [f"x={text}"]) == {"x": number}


def test_a_key_that_yaml_takes_for_a_truth_value_stays_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("yes: Oui\nNo: {on: 1, off: yes}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"yes": "Oui", "No": {"on": 1, "off": True}}
    assert apply_overrides({}, ["objective={yes: Oui}"]) == {"objective": {"yes": "Oui"}}


def test_what_only_begins_like_a_number_stays_a_text() -> None:
    assert apply_overrides({}, ["x=1e-4b", "y=e5", "z=B01D53/56"]) == {"x": "1e-4b", "y": "e5", "z": "B01D53/56"}


def test_a_key_given_twice_is_refused_at_any_depth(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a:\n  b: 1\n  c: 2\n  b: 3\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:4: key 'b' given twice"):
        read_yaml(file)


def test_merge_keys_may_be_overridden_wherever_their_anchor_stands(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    # `derived` is constructed after `outer.inner` has been merged into `last`: its keys then stand there twice
    file.write_text(
        "base: &base {k: 1, m: 1}\nouter:\n  inner: &derived {<<: *base, k: 2}\nlast: {<<: *derived, m: 3}\n"
    )
    assert read_yaml(file) == {
        "base": {"k": 1, "m": 1},
        "outer": {"inner": {"k": 2, "m": 1}},
        "last": {"k": 2, "m": 3},
    }


def test_a_missing_file_names_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "bref.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"bre\.yaml does not exist; there is: .*bref\.yaml"):
        read_yaml(tmp_path / "bre.yaml")
    with pytest.raises(ConfigError, match=r"absent/bre\.yaml does not exist$"):
        read_yaml(tmp_path / "absent" / "bre.yaml")
    with pytest.raises(ConfigError, match="is a folder; give a YAML file"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- a\n- b\n", "must hold a mapping of keys to values, not list"),
        (b"", "must hold a mapping of keys to values, not NoneType"),
        (b"a: [1, 2", "is not valid YAML"),
        (b"a: \xff\xfe", "is not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("\ufeffa: é\n".encode())
    assert read_yaml(tmp_path / "x.yaml") == {"a": "é"}


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))
    | st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z0-9]{1,4}", fullmatch=True), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex("[a-z]{1,4}", fullmatch=True), _PLAIN, max_size=4))
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "round.yaml"
    file.write_text(to_yaml(values), encoding="utf-8")
    assert read_yaml(file) == values


# The content and its digest


def test_runtime_fields_are_no_part_of_the_content_at_any_depth() -> None:
    one = build(Training, {"data": "x", "schedules": [{}], "by_name": {"a": {}}})
    other = build(
        Training,
        {
            "data": "x",
            "workers": 64,
            "cluster": {"learning_rate": 0.5},
            "optimizer": {"threads": 9},
            "schedules": [{"threads": 9}],
            "by_name": {"a": {"threads": 9}},
        },
    )
    assert content(one) == content(other)
    assert digest(content(one)) == digest(content(other))
    assert content(one) == {
        "data": "x",
        "epochs": 3,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "schedules": [{"name": "adamw", "learning_rate": 1e-3}],
        "by_name": {"a": {"name": "adamw", "learning_rate": 1e-3}},
        "adapter": {"kind": "lora", "rank": 8},
    }
    assert digest(content(one)) != digest(content(build(Training, {"data": "x", "epochs": 4})))


def test_equal_settings_written_differently_have_one_digest() -> None:
    one = build(Optimizer, {"learning_rate": 1, "name": "sgd"})
    other = build(Optimizer, {"name": "sgd", "learning_rate": "1.0"})
    assert digest(content(one)) == digest(content(other))


def test_the_digest_does_not_change_between_processes_and_versions() -> None:
    """A changed digest would make every finished run a conflict: this value must stay as it is."""
    value = {"b": [1, 2.5, None, True], "a": {"é": "Ü"}}
    assert digest(value) == "d1fe55c64036f58b"
    code = f"from patentft.config import digest; print(digest({value!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={"PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == digest(value)


def test_sets_have_one_order() -> None:
    class WithSet(Config):
        kinds: frozenset[str] = frozenset({"b", "a", "c"})

    assert content(WithSet()) == {"kinds": ["a", "b", "c"]}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
