"""Files that cannot be changed unnoticed: a format number, a checksum, and the record that it is of.

Writing is atomic: a file is whole or not there.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

from stream_mla.errors import SpecError, quoted
from stream_mla.frontends.text_files import read_bytes

FORMAT = 4
"""The number of the format that is written and read; it rises with every change that makes older files unreadable."""
MOST_BYTES = 1 << 30
"""A file has at most this many bytes: a schedule of 10^6 tiles and moves takes some 100 MB."""

_START = b'{"format": '
_HEAD = re.compile(r'\{"format": (\d{1,9}), "sha256": "([0-9a-f]{64})", ')
"""A file starts with this; the checksum is of all that follows."""


class refusing:  # noqa: N801  a context manager
    """Turns what decoding raises into a SpecError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | KeyError | AttributeError | IndexError | RecursionError):
            said = f"{type(error).__name__}: {error}"
            raise SpecError(
                str(self.path), [f"not a stored result of this version ({said}): run its point again"]
            ) from error


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Return the fingerprint of this package's code."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def sealed(record: Mapping[str, Any]) -> str:
    """Return the text of a file: the format, the checksum, and what it is of."""
    body = json.dumps(record, allow_nan=False)[1:]
    return f'{{"format": {FORMAT}, "sha256": "{hashlib.sha256(body.encode()).hexdigest()}", {body}'


def prepare(folder: Path) -> None:
    """Make the folder and try to write in it, so that it is known before anything is computed whether one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _new_file(folder / "try", "").unlink()
    except (OSError, ValueError) as error:
        _cannot_store(folder, error)


def read(path: Path, last: str) -> tuple[dict[str, Any], str]:
    """Return the record of a file, without its `last` key, whose value is returned as text; empty where it is missing.

    SpecError where the file is none of ours, or not as it was written.
    """
    try:
        content = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise SpecError(str(path), [f"cannot read it: {error.strerror}"]) from error
    except ValueError as error:
        raise SpecError(str(path), [f"cannot read it: {error}"]) from error
    with refusing(path):
        text = content.decode("utf-8")
        head = _HEAD.match(text)
        if head is None:
            return _of_another_format(path, text)
        if int(head[1]) != FORMAT:
            raise SpecError(str(path), [f"stored in format {head[1]}, this version reads {FORMAT}"])
        if hashlib.sha256(content[head.end() :]).hexdigest() != head[2]:
            raise SpecError(
                str(path), ["it was changed since it was stored (its checksum differs): run its point again"]
            )
        return _opened(text, head.end(), last)


def looks_sealed(path: Path) -> bool:
    """Whether a file starts as ours do, whatever its format."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_START)) == _START
    except (OSError, ValueError):
        return False


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record; what was there before is replaced in one step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = _new_file(path, sealed(record))
        try:
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        _cannot_store(path.parent, error)


def _new_file(path: Path, text: str) -> Path:
    """Return a new file beside a path, with a name that nobody can foresee; what is there already is not followed."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def _cannot_store(folder: Path, error: OSError | ValueError) -> NoReturn:
    said = error.strerror if isinstance(error, OSError) else str(error)
    raise SpecError(str(folder), [f"cannot store a result here: {said}"]) from error


def _of_another_format(path: Path, text: str) -> NoReturn:
    """Say of a file that does not start as ours do which format it has, if any."""
    found = read_json(text)
    known = cast(dict[str, object], found).get("format") if isinstance(found, dict) else None
    if known is None:
        raise ValueError("it has no format")
    if known == FORMAT:
        raise ValueError("it is not written as it was stored")
    raise SpecError(str(path), [f"stored in format {quoted(known)}, this version reads {FORMAT}"])


def _opened(text: str, start: int, last: str) -> tuple[dict[str, Any], str]:
    """Return what a file says before its last key, and the text of the value of that."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    record: dict[str, Any] = {}
    while True:
        key, end = decoder.raw_decode(text, start)
        if key == last:
            return record, text[end + 2 : text.rindex("}")]
        record[key], end = decoder.raw_decode(text, end + 2)
        start = end + 2


def read_json(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
