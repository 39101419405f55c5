"""Recognises files whose content is not what their name says, by their first bytes."""

from __future__ import annotations

HEAD_BYTES = 512  # bytes to examine
LFS = b"version https://git-lfs.github.com/spec/"
STARTS = (
    (LFS, "a git-lfs pointer instead of the file: run git lfs pull where it came from"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML page, such as a storage service sends for an error"),
    (b"<error", "an XML page, such as a storage service sends for an error"),
    (b"\x1f\x8b", "packed by gzip: unpack it"),
    (b"(\xb5/\xfd", "packed by zstd: unpack it"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
)


def mistaken_for(head: bytes) -> str:
    """What a file that begins with `head` really is, if it is a common mistake; else ""."""
    if not head:
        return "an empty file"
    start = head[:HEAD_BYTES].lstrip().lower()
    return next((what for mark, what in STARTS if start.startswith(mark.lower())), "")
