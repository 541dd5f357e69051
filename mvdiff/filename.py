"""File names made of any text: the only way by which an id may become part of a path."""

import hashlib
import re
import unicodedata
from collections.abc import Collection

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_ORDINARY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{,179}")
_LONGEST = 180
"""Bytes of a name: file systems take 255, and an ending or a temporary name must still fit."""
_KEPT = 100
"""Bytes of a longer name that stay readable."""
_CUT = "%~"
"""Between the beginning of a long name and its hash; no escape looks like it."""


def file_name(text: str, reserved: Collection[str] = ()) -> str:
    """A name of one file or folder for ``text``, which is not empty: another one for each text, and never a hidden one.

    It has at most 180 bytes. ASCII letters, digits, dot, dash and underscore stay, as do letters and digits of other
    scripts; the rest is percent-encoded, and so is a dot in front. A long name is cut and ends in a hash. Names in
    ``reserved`` are never given. ``UnicodeEncodeError`` for text that is no UTF-8.
    """
    if _ORDINARY.fullmatch(text) and text not in reserved:
        return text
    # A file system may compose accents: only text that it would leave alone is kept as it is.
    composed = unicodedata.is_normalized("NFC", text)
    parts = [c if c in _PLAIN or (composed and not c.isascii() and c.isalnum()) else _escape(c) for c in text]
    if parts and (parts[0] == "." or "".join(parts) in reserved):
        parts[0] = _escape(text[0])
    name = "".join(parts)
    if len(name.encode()) <= _LONGEST:
        return name
    kept, room = 0, _KEPT
    while kept < len(parts) and (room := room - len(parts[kept].encode())) >= 0:
        kept += 1
    return "".join(parts[:kept]) + _CUT + hashlib.sha256(text.encode()).hexdigest()[:40]


def _escape(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode())
