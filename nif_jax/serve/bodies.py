"""The body of a request as JSON, within limits, and without what readers could differ in."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

from nif_jax.serve.errors import ServiceError

_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def check_headers(headers: Mapping[str, str], most: int) -> None:
    """Raises ServiceError for a body that is no JSON, compressed, or longer than `most` bytes."""
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise ServiceError(415, f"Content-Type is {kind!r}; send application/json", "Content-Type")
    charset = parameters.partition("charset=")[2].strip(' "').lower()
    if charset not in ("", "utf-8", "utf8"):
        raise ServiceError(415, f"charset is {charset!r}; send UTF-8", "Content-Type")
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ServiceError(
            415, f"Content-Encoding is {encoding!r}; send the body as it is", "Content-Encoding"
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_long(most)


async def read(chunks: AsyncIterator[bytes], most: int) -> bytes:
    """All of a body; raises ServiceError if it is longer than `most` bytes."""
    found = bytearray()
    async for chunk in chunks:
        found += chunk
        if len(found) > most:
            raise _too_long(most)
    return bytes(found)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
      ServiceError: it is no UTF-8, no JSON, nested too deep or no object; it has a key twice, a
        number that JSON does not have (NaN), or half a character (a lone surrogate).
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _broken(f"is no UTF-8: byte {error.start} is {body[error.start]:#04x}") from error
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise _broken("is nested too deep") from error
    except ValueError as error:
        raise _broken(f"is no JSON: {error}") from error
    if _HALF_CHARACTER.search(text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _broken("has half a character, a surrogate without its other half") from error
    if not isinstance(found, dict):
        raise _broken(f"is a JSON {type(found).__name__}; send an object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ServiceError(400, f"the body has the key {twice!r} twice in one object", twice)
    return found


def _no_number(name: str) -> NoReturn:
    raise _broken(f"has {name}, which JSON does not have; send a number, or null")


def _broken(reason: str) -> ServiceError:
    return ServiceError(400, f"the body {reason}", "body")


def _too_long(most: int) -> ServiceError:
    return ServiceError(413, f"the body has more than {most} bytes; send less at a time", "body")
