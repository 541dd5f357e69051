"""Messages between rank 0 and the other ranks of a canary, which pass by the shared folder that is being tried."""

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from slurm.place import Place
from slurm.rendezvous import meet

_PATIENCE_S = 60.0


class Wire:
    """A star of TCP connections with rank 0 in its middle; a context manager.

    Raises:
        OSError: a rank does not come, or leaves.
        TimeoutError: as for ``meet``.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        where = meet(folder, place, _PATIENCE_S)
        self.first = place.first
        self._files: list[IO[str]] = []
        if where.listener is None:
            self._files.append(_file(socket.create_connection((where.address, where.port), _PATIENCE_S)))
            return
        with socket.socket(fileno=where.listener) as listener:
            listener.settimeout(_PATIENCE_S)
            for _ in range(place.world_size - 1):
                connection, _ = listener.accept()
                connection.settimeout(_PATIENCE_S)
                self._files.append(_file(connection))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    @property
    def others(self) -> range:
        """Numbers of the connections: of rank 0 one to every other rank, of these one to rank 0."""
        return range(len(self._files))

    def tell(self, message: Any, to: int | None = None) -> None:
        """Send what survives JSON; ``to`` one connection or to all."""
        for k in self.others if to is None else [to]:
            self._files[k].write(json.dumps(message) + "\n")
            self._files[k].flush()

    def hear(self, of: int = 0) -> Any:
        """The next message of a connection."""
        line = self._files[of].readline()
        if not line:
            raise ConnectionError("a rank of the canary has left")
        return json.loads(line)

    def hear_all(self) -> list[Any]:
        """The next message of each connection."""
        return [self.hear(k) for k in self.others]


def _file(connection: socket.socket) -> IO[str]:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = connection.makefile("rw", encoding="utf-8")
    connection.close()  # the file keeps the descriptor
    return file
