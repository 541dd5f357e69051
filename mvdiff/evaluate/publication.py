"""Folder of pages and pictures that a reader never sees half written."""

import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from mvdiff.durable import sync_file, sync_folder, write_text


class Publication:
    """Files written to ``folder`` become ``out/NAME/``, then a page beside them that refers to them.

    NAME comes from the content, so that the page of an earlier publication keeps what it refers to until the new page
    is there. Earlier folders and leftovers of a killed process are removed last. An exception leaves ``out`` as it was.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._token = f".files.{secrets.token_hex(4)}.part"
        self.folder = out / self._token
        self.name = ""
        self._unreferred: Path | None = None

    def __enter__(self) -> Self:
        self._is_new = not self._out.exists()
        self._out.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir()
        return self

    def seal(self) -> str:
        """Sync what is in ``folder``, give it its final name and return that; nothing may be added afterwards."""
        digest = xxhash.xxh3_64()
        for path in sorted(self.folder.iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
            sync_file(path)
        sync_folder(self.folder)
        self.name = f"files-{digest.hexdigest()}"
        final = self._out / self.name
        if final.exists():
            shutil.rmtree(self.folder)
        else:
            self.folder.rename(final)
            self._unreferred = final
        sync_folder(self._out)
        return self.name

    def publish(self, page: str, text: str) -> None:
        """Publish ``text`` as ``out/page`` and remove what earlier publications left."""
        write_text(self._out / page, text)
        self._unreferred = None
        for old in (*self._out.glob("files-*"), *self._out.glob(".files.*.part")):
            if old.name != self.name:
                shutil.rmtree(old, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._unreferred is not None:
            shutil.rmtree(self._unreferred, ignore_errors=True)
        if self._is_new and not any(self._out.iterdir()):
            self._out.rmdir()
