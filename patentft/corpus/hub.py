"""Hugging Face datasets as files: `hf:FOLDER[:SPLIT]` and `hf:OWNER/NAME[@REVISION][:SPLIT]`.

A folder is what `save_to_disk` writes (Arrow files that a state.json lists, a folder per split), or data files laid out
by split as on the hub (`data/train-00000-of-00002.parquet`, `test.jsonl`). Of a hub dataset only the data files of the
split are fetched, into the Hugging Face cache, at one commit; nothing of it is run, and the `datasets` package is not
needed. A private dataset needs HF_TOKEN in the environment, which only `huggingface_hub` reads.

SPLIT is train, validation, test or any other name; CONFIG/SPLIT when a dataset keeps several configurations in folders.
"""

from __future__ import annotations

import glob
import json
import posixpath
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from patentft.config import ConfigError, nearest
from patentft.location import Location

PREFIX = "hf:"
_HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+?))?(:(?P<split>[^:]+))?")
_ALIASES = (("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing", "eval", "evaluation"))
"""As the `datasets` package takes file names for splits."""

IsData = Callable[[str], bool]


def files_of(pattern: str, is_data: IsData) -> list[Location]:
    """The data files that an `hf:` pattern stands for, in order. Raises ConfigError, never with a token in it.

    is_data: whether a file of this name can be read.
    """
    body = pattern.removeprefix(PREFIX)
    place, _, split = body.rpartition(":")
    for folder, wanted in ((body, None), (place, split or None)):
        if folder and "@" not in folder and Location(folder).names():
            return _of_folder(Location(folder), wanted, is_data)
    match = _HUB_ID.fullmatch(body)
    if match is None or body.startswith((".", "~")):
        raise ConfigError(
            f"{pattern}: no folder is there, and it is no id of a dataset on the hub; expected hf:FOLDER, "
            f"hf:FOLDER:SPLIT, hf:OWNER/NAME, hf:OWNER/NAME:SPLIT or hf:OWNER/NAME@REVISION:SPLIT"
        )
    folder, names = _of_hub(match["name"], match["revision"], match["split"], is_data)
    return [Location(folder) / name for name in names]


def _of_folder(folder: Location, split: str | None, is_data: IsData) -> list[Location]:
    inside = folder.names()
    if "dataset_dict.json" in inside:
        splits = _strings(_json(folder / "dataset_dict.json"), "splits", folder / "dataset_dict.json")
        if split is not None and split not in splits:
            raise ConfigError(f"{folder} has no split {split!r}{nearest(split, splits)}")
        return [file for name in splits if split in (None, name) for file in _saved(folder / name)]
    if "state.json" in inside:
        own = _json(folder / "state.json").get("_split")
        if split is not None and own is not None and own != split:
            raise ConfigError(f"{folder} is the split {own!r}, not {split!r}")
        return _saved(folder)
    names = sorted(name for name in folder.sizes() if _visible(name) and is_data(posixpath.basename(name)))
    return [folder / name for name in chosen(names, split, str(folder))]


def _saved(folder: Location) -> list[Location]:
    """The files of one split as `save_to_disk` wrote it, in the order of its rows."""
    listed = _json(folder / "state.json").get("_data_files")
    names: list[str] = []
    for entry in listed if isinstance(listed, list) else []:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or posixpath.basename(name) != name or name in ("", ".."):
            names = []  # a name with a path would lead out of the folder
            break
        names.append(name)
    if not names:
        raise ConfigError(f"{folder / 'state.json'} does not list data files of its folder; save the dataset again")
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is listed in state.json but is not there; copy the whole folder")
    return [folder / name for name in names]


def _json(file: Location) -> dict:
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there; is {posixpath.dirname(file.url)} all of a saved dataset?") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} must hold a JSON object, not a {type(found).__name__}")
    return found


def _strings(values: dict, key: str, file: Location) -> list[str]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(each, str) and "/" not in each for each in found):
        raise ConfigError(f"{file}: {key} must be a list of names")
    return found


def _visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def chosen(names: Iterable[str], split: str | None, where: str) -> list[str]:
    """The file names (relative, with "/") that belong to a split, or all. Raises ConfigError when there is none."""
    listed = list(names)
    if not listed:
        raise ConfigError(f"{where} holds no data file that can be read (a loading script is never run)")
    if split is None:
        return listed
    *folders, name = split.split("/")
    words = next((aliases for aliases in _ALIASES if name in aliases), (name,))
    word = re.compile(rf"(?<![a-zA-Z0-9])({'|'.join(map(re.escape, words))})(?![a-zA-Z0-9])")
    found = [
        file
        for file in listed
        if all(folder in file.split("/")[:-1] for folder in folders) and word.search(_without_suffixes(file))
    ]
    if not found:
        raise ConfigError(f"{where} has no file of split {split!r}; it has: {', '.join(listed[:8])}")
    return found


def _without_suffixes(file: str) -> str:
    head, _, name = file.rpartition("/")
    return f"{head}/{name.split('.')[0]}"


@lru_cache(maxsize=64)  # a stage asks twice (content id, rows): the same commit both times
def _of_hub(name: str, revision: str | None, split: str | None, is_data: IsData) -> tuple[str, tuple[str, ...]]:
    """(local folder, data files in it) of a hub dataset, fetched if need be; from the cache alone when offline."""
    from huggingface_hub import HfApi, constants, snapshot_download

    where = f"dataset {name!r}"
    try:
        if constants.HF_HUB_OFFLINE:
            folder = snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
            listed = list(Location(folder).sizes())
        else:
            api = HfApi()
            commit = api.dataset_info(name, revision=revision).sha
            listed = api.list_repo_files(name, repo_type="dataset", revision=commit)
        data = sorted(file for file in listed if _visible(file) and is_data(posixpath.basename(file)))
        wanted = chosen(data, split, where)
        if not constants.HF_HUB_OFFLINE:
            patterns = [glob.escape(file) for file in wanted]
            folder = snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=patterns)
    except ConfigError:
        raise
    except Exception as error:  # offline, refused, gone: hub clients raise many kinds, and the remedy is the same
        reason = _without_token((str(error).strip() or "no answer").splitlines()[0][:200])
        raise ConfigError(
            f"{where} cannot be fetched from the hub ({type(error).__name__}: {reason}); check its name and revision, "
            f"set HF_TOKEN for a private or gated one, or save it to a folder and give hf:FOLDER"
        ) from None
    return folder, tuple(wanted)


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text
