"""Where files live: one folder, local or behind any fsspec URL, with the commit primitive each kind needs.

    local          temporary file in the same folder, fsync, `os.replace`, fsync of the folder
    object store   one PUT (or one completed multipart upload) to the final key: never a move, never a rename

Either way a reader sees the whole file or none of it. A writer that is killed leaves at most a `.tmp` file (local) or
an unfinished multipart upload (object store), neither of which any reader lists. Unfinished uploads are paid for until
a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes them.

An S3-compatible server is named by AWS_ENDPOINT_URL, credentials are found the way the AWS tools find them.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from patentft.config import ConfigError


class Location:
    """A file or folder at a local path or an fsspec URL ("s3://bucket/run"). Cheap to make; nothing is touched."""

    def __init__(self, url: str | Path) -> None:
        text = str(url)
        scheme, separator, rest = text.partition("://")
        self.is_local = not separator or scheme in ("file", "local")
        if self.is_local:
            self.url = os.path.abspath(os.path.expanduser(rest if separator else text))
        else:
            self.url = text.rstrip("/")
        self._filesystem: Any = None

    def __repr__(self) -> str:
        return self.url

    __str__ = __repr__

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return Location(os.path.join(self.url, name))
        child = Location(posixpath.join(self.url, name))
        child._filesystem = self._filesystem
        return child

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)

    @property
    def parent(self) -> Location:
        above = Location(os.path.dirname(self.url) if self.is_local else posixpath.dirname(self.url))
        above._filesystem = self._filesystem
        return above

    @property
    def path(self) -> str:
        """The local path. Raises ConfigError for a remote location: the caller needs a local folder."""
        if not self.is_local:
            raise ConfigError(f"{self.url} is not a local path; this step needs a local (or shared, mounted) folder")
        return self.url

    @property
    def filesystem(self) -> Any:
        """The fsspec filesystem of a remote location."""
        if self._filesystem is None:
            import fsspec

            try:
                # use_listings_cache=False: another process' commits must be seen at once
                self._filesystem, _ = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"cannot open {self.url}: {error}") from error
        return self._filesystem

    def exists(self) -> bool:
        if self.is_local:
            return os.path.exists(self.url)
        with self._explained("read"):
            return self.filesystem.exists(self.url)

    def is_file(self) -> bool:
        if self.is_local:
            return os.path.isfile(self.url)
        with self._explained("read"):
            return self.filesystem.isfile(self.url)

    def size(self) -> int | None:
        """Bytes, or None when there is no such file."""
        try:
            if self.is_local:
                return os.path.getsize(self.url)
            with self._explained("read"):
                return self.filesystem.size(self.url)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with self._explained("read"):
            if self.is_local:
                try:
                    return Path(self.url).read_bytes()
                except NotADirectoryError as error:
                    raise FileNotFoundError(self.url) from error
            return self.filesystem.cat_file(self.url)

    def open(self) -> IO[bytes]:
        """The file, to read pieces of it. Raises FileNotFoundError."""
        with self._explained("read"):
            return Path(self.url).open("rb") if self.is_local else self.filesystem.open(self.url, "rb")

    def names(self) -> list[str]:
        """Sorted names of the files and folders directly inside, no temporary files; [] when there is no folder."""
        try:
            if self.is_local:
                found = os.listdir(self.url)
            else:
                with self._explained("list"):
                    paths = self.filesystem.ls(self.url, detail=False)
                own = self.filesystem._strip_protocol(
                    self.url
                )  # `ls` of a file, or of a folder with a marker, lists itself
                found = [posixpath.basename(path.rstrip("/")) for path in paths if path.rstrip("/") != own]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if name and not name.endswith(".tmp"))

    def sizes(self) -> dict[str, int]:
        """Bytes of every file inside, at any depth, by its path relative to this folder; {} when there is no folder.

        One listing (a request per 1,000 files on S3) instead of a request per file. Temporary files are left out.
        """
        found: dict[str, int] = {}
        if self.is_local:
            for folder, _, names in os.walk(self.url):
                for name in names:
                    path = os.path.join(folder, name)
                    try:
                        found[os.path.relpath(path, self.url)] = os.path.getsize(path)
                    except FileNotFoundError:  # a temporary file that has just become the real one
                        continue
        else:
            own = self.filesystem._strip_protocol(self.url)
            with self._explained("list"):
                listed = self.filesystem.find(self.url, detail=True)
            found = {path[len(own) + 1 :]: int(info["size"] or 0) for path, info in listed.items() if path != own}
        return {path: size for path, size in found.items() if not path.endswith(".tmp")}

    def read_all(self) -> dict[str, bytes]:
        """Every file directly inside, by name: for many small ones, fetched at the same time from an object store."""
        names = self.names()
        if self.is_local:
            return {name: (self / name).read_bytes() for name in names}
        with self._explained("read"):
            wanted = {self.filesystem._strip_protocol((self / name).url): name for name in names}
            fetched = self.filesystem.cat(list(wanted)) if wanted else {}
        return {wanted[path]: data for path, data in fetched.items()}

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """What the surroundings refuse (rights, a full disk, no network, no credentials) as a ConfigError."""
        try:
            yield
        except (FileNotFoundError, ConfigError):
            raise
        except OSError as error:
            raise ConfigError(f"cannot {verb} {self.url}: {error.strerror or error}") from error
        except Exception as error:
            # clients of object stores have error classes of their own ("Unable to locate credentials")
            if self.is_local:
                raise
            raise ConfigError(f"cannot {verb} {self.url}: {type(error).__name__}: {error}") from error

    def commit(self, data: bytes) -> None:
        """Write the whole file, atomically and durably. Two writers of the same bytes are harmless.

        Raises ConfigError when the place refuses it (rights, a full disk, no such bucket), naming the file.
        """
        with self._explained("write"):
            if self.is_local:
                self._commit_local(data)
                return
            try:
                self.filesystem.pipe_file(self.url, data)  # one PUT, or a multipart upload that is aborted on error
            except FileNotFoundError as error:
                raise ConfigError(f"cannot write {self.url}: no such bucket or folder ({error})") from error

    def _commit_local(self, data: bytes) -> None:
        target = Path(self.url)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.replace(temporary, target)
            except FileNotFoundError:
                # another writer of the same bytes was first, and whoever finished the stage swept up our temporary file
                if not target.exists():
                    raise
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(target.parent)

    def remove_tree(self) -> None:
        """Delete the file, or the folder and all in it; nothing happens when it is absent."""
        with self._explained("delete"):
            if not self.is_local:
                if self.filesystem.exists(self.url):
                    self.filesystem.rm(self.url, recursive=True)
            elif os.path.isdir(self.url):
                shutil.rmtree(self.url)
            else:
                Path(self.url).unlink(missing_ok=True)

    def remove_leftovers(self) -> int:
        """Delete temporary files that killed writers left directly inside; returns how many. None in object stores."""
        if not self.is_local or not os.path.isdir(self.url):
            return 0
        leftovers = [p for p in Path(self.url).iterdir() if p.name.startswith(".") and p.name.endswith(".tmp")]
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
