"""Files of the result store, on anything that fsspec can reach: written whole or not at all, checked when read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.exceptions import ResultError
from penstock.job.models import Ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.codecs import Coded


_COPIES = frozenset({"simplecache", "filecache", "blockcache", "cached"})
"""What may stand before a URL in a `Ref`: some others fill in templates, which older releases run as code."""


class Store:
    """A tree of files under one URL. Opens nothing, and imports no fsspec, before it is used."""

    def __init__(self, location: str) -> None:
        self._local = None if "://" in location else Path(location).expanduser().absolute()
        self.url = self._local.as_uri() if self._local is not None else location.rstrip("/")
        self._opened: tuple[Any, str] | None = None

    def write(self, folder: Sequence[str], name: str, coded: Coded) -> Ref:
        """Write a file and return its `Ref`. The parts of the path are the caller's to check.

        Raises:
            ResultError: it cannot be written; names the uri.
        """
        relative = "/".join((*folder, f"{name}.{coded.format}"))
        uri = f"{self.url}/{relative}"
        try:
            fs, root = self._open()
            path = f"{root}/{relative}"
            if _renames(fs):
                # A reader must never see half a file; an object store's put is whole by itself.
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(f"{path}.part", coded.raw)
                fs.mv(f"{path}.part", path)
            else:
                fs.pipe_file(path, coded.raw)
        except Exception as error:
            raise ResultError(
                f"cannot write {uri}: {type(error).__name__}: {error}; is `results` right and writable?"
            ) from error
        return Ref(
            uri=uri,
            format=coded.format,
            size_bytes=len(coded.raw),
            sha256=hashlib.sha256(coded.raw).hexdigest(),
            kind=coded.kind,
            rows=coded.rows,
            columns=coded.columns,
        )

    def delete(self, folder: Sequence[str]) -> None:
        """Delete a folder of the store with all that it holds, if it is there. Raises `ResultError`."""
        if self._local is not None and not self._local.joinpath(*folder).exists():
            return
        relative = "/".join(folder)
        try:
            fs, root = self._open()
            if fs.exists(f"{root}/{relative}"):
                fs.rm(f"{root}/{relative}", recursive=True)
        except Exception as error:
            raise ResultError(f"cannot delete {self.url}/{relative}: {type(error).__name__}: {error}") from error

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            self._opened = _url_to_fs(self.url)
        return self._opened


def load_ref(ref: Ref) -> Any:
    """Return the value that a `Ref` names.

    Raises:
        ResultError: the file is gone, is not what was written, or its library is missing; or the uri asks for more
            than to read a file. Names the uri.
    """
    from penstock.codecs import decode_bytes

    links = {link.partition("://")[0] for link in ref.uri.split("::")[:-1]}
    if not links <= _COPIES:
        raise ResultError(f"{ref.uri} is not read: a chain of file systems may do more than read a file")
    try:
        fs, path = _url_to_fs(ref.uri)
        found = fs.info(path)
        if found.get("type", "file") != "file" or found.get("size", ref.size_bytes) not in (None, ref.size_bytes):
            raise _damaged(ref)  # before it is read: a pipe has no end, and a row could name one
        raw: bytes = fs.cat_file(path)
    except ResultError:
        raise
    except FileNotFoundError:
        raise ResultError(f"{ref.uri} is gone: it was deleted, or lies on another machine") from None
    except Exception as error:
        raise ResultError(f"cannot read {ref.uri}: {type(error).__name__}: {error}") from error
    if len(raw) != ref.size_bytes or hashlib.sha256(raw).hexdigest() != ref.sha256:
        raise _damaged(ref)
    try:
        return decode_bytes(raw, ref)
    except ImportError as error:
        raise ResultError(f"reading {ref.uri} ({ref.kind}) needs a package that is missing: {error}") from error
    except Exception as error:
        raise ResultError(f"cannot decode {ref.uri} ({ref.kind}): {type(error).__name__}: {error}") from error


def _damaged(ref: Ref) -> ResultError:
    return ResultError(f"{ref.uri} is damaged: its size or checksum is not what was written")


def _url_to_fs(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    fs, path = url_to_fs(url)  # pyright: ignore[reportUnknownVariableType]
    return fs, str(path)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _renames(fs: Any) -> bool:
    named: Any = fs.protocol
    protocols = {named} if isinstance(named, str) else set(named)
    return bool({"file", "local", "memory", "sftp", "ssh", "smb", "hdfs"} & protocols)
