"""Which files can be read, and what is common to the formats: names, encodings, compression."""

import codecs
import dataclasses
import gzip
import io
import pathlib
import re
from collections.abc import Iterator, Sequence

from nif_jax.data.schema import DataError

ATOMIC = (".inter", ".item", ".user")
"""RecBole's atomic files: the header has the type of each column, "user_id:token"."""
TEXT = (".csv", ".tsv", ".jsonl", ".dat", *ATOMIC)
DELIMITED = (".csv", ".tsv", ".dat", *ATOMIC)
EXTENSIONS = (".parquet", *TEXT, *(f"{name}.gz" for name in TEXT))
ATOMIC_TYPE = re.compile(r":(token|float)(_seq)?$")


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """How text files are written.

    Attributes:
      encoding: a codec of Python; "" is UTF-8, and latin-1 for `.dat`.
      delimiter: between fields; "" is that of the extension.
      header: names of the columns of a file that has no header line.
    """

    encoding: str = ""
    delimiter: str = ""
    header: tuple[str, ...] = ()


PLAIN = TextFormat()


def extension(file: pathlib.Path) -> str:
    """Extension without that of compression: ".csv" of "log.csv.gz"; "" of what has none."""
    name = file.name.removesuffix(".gz")
    return pathlib.PurePath(name).suffix


def stem(file: pathlib.Path) -> str:
    """Name without extensions: "log" of "log.csv.gz"."""
    return pathlib.PurePath(file.name.removesuffix(".gz")).stem


def require_extension(file: pathlib.Path) -> None:
    """Raises DataError for a file whose format cannot be read."""
    if extension(file) not in (".parquet", *TEXT) or file.name.endswith(".parquet.gz"):
        raise DataError(
            f"{file}: unknown extension {''.join(file.suffixes[-2:])!r}; the formats are "
            f".parquet, {', '.join(TEXT)}, and the text formats with .gz"
        )


def plain_name(file: pathlib.Path, name: str) -> str:
    """Name without a RecBole file's type: "user_id" of "user_id:token"."""
    return ATOMIC_TYPE.sub("", name) if extension(file) in ATOMIC else name


def require_distinct(file: pathlib.Path, names: Sequence[str]) -> None:
    """Raises DataError for a column name that is there twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(
            f"{file}: the column {twice[0]!r} is there {list(names).count(twice[0])} times: rename "
            "or remove one"
        )


def open_bytes(file: pathlib.Path) -> io.BufferedReader | gzip.GzipFile:
    """The bytes of a file, decompressed."""
    return gzip.open(file) if file.name.endswith(".gz") else file.open("rb")


def encoding(file: pathlib.Path, text: TextFormat) -> str:
    """Name of the codec; raises DataError for one that Python lacks."""
    name = text.encoding or ("latin-1" if extension(file) == ".dat" else "utf-8-sig")
    try:
        found = codecs.lookup(name).name
    except LookupError as error:
        raise DataError(
            f"source.encoding={name!r} is no encoding; utf-8, latin-1, cp1252 and utf-16 are"
        ) from error
    return "utf-8-sig" if found == "utf-8" else found


def lines(file: pathlib.Path, text: TextFormat) -> Iterator[str]:
    """Lines of a file, decoded, with their ends."""
    with (
        open_bytes(file) as stream,
        io.TextIOWrapper(stream, encoding(file, text), newline="") as decoded,
    ):
        yield from decoded


def undecodable(file: pathlib.Path, text: TextFormat) -> DataError:
    """The error about the first line that is not of the encoding."""
    codec = encoding(file, text)
    plain = codec.removesuffix("-sig")
    with open_bytes(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode(codec)
            except UnicodeDecodeError as error:
                return DataError(
                    f"{file}: line {number} is not {plain} (byte 0x{line[error.start]:02x}): name "
                    "the encoding of the file, for instance source.encoding=latin-1"
                )
    return DataError(f"{file}: is not {plain}: name its encoding, such as source.encoding=utf-16")
