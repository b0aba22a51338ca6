"""Kinds of bad and unusual input files, and what comes of each: a named error, or all rows."""

import dataclasses
import gzip
import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nif_jax.data import sources
from nif_jax.data.movelines import prepare
from nif_jax.data.schema import DataError
from nif_jax.data.summary import odd_times

LOG = pd.DataFrame(
    {
        "user_id": ["u1", "u1", "u2", "u3"],
        "item_id": ["a", "b", "a", "c"],
        "timestamp": [1_600_000_000, 1_600_000_500, 1_600_009_000, 1_600_090_000],
        "label": [1, 0, 1, 0],
    }
)
ITEMS = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["x", "y", "z"], "price": [1.5, 2, 3]})
USERS = pd.DataFrame({"user_id": ["u1", "u2", "u3"], "age": [20, 30, 40]})
CSV = LOG.to_csv(index=False)
DAT = "1::10::5::978300760\n1::11::3::978309761\n2::10::4::978320762\n"
ATOMIC = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ATOMIC += "u\ti\t4.0\t978300760.0\nu\tj\t1.0\t978400760.0\n"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      name: what is odd about it.
      outcome: number of events, or a pattern of the error.
      files: name -> table, text or bytes; "log.*" is the events file.
      options: of the source.
      warning: pattern of a warning in the log, "" for none.
    """

    name: str
    outcome: int | str
    files: dict[str, object]
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    warning: str = ""


def _jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def _log(**columns):
    return {"log.csv": LOG.assign(**columns)}


def _beside(name, table, log=CSV):
    return {"log.csv": log, f"log_{name}": table}


_RECORDS = LOG.to_dict("records")
_NESTED = [row | {"images": [{"url": "x"}], "more": {"a": 1}} for row in _RECORDS]
_LISTS = {"user_id": ["u1", "u2"], "item_id": [["a", "b"], ["c"]]}
_LISTS |= {"timestamp": [1_500_000_000, 1_500_000_000]}
_HISTORY = {"history": "beside"}

KINDS = [
    # Rows of the file and rows read.
    Kind("parquet, index of a concat", 4, {"log.parquet": LOG.set_axis([0, 1, 0, 1])}),
    Kind("parquet, user id as index", 4, {"log.parquet": LOG.set_index("user_id")}),
    Kind("parquet, two indexes", 4, {"log.parquet": LOG.set_index(["user_id", "item_id"])}),
    Kind("csv, index of pandas", 4, {"log.csv": LOG.to_csv()}),
    Kind("csv, delimiter at the end of rows", 4, {"log.csv": re.sub(r"(\d)\n", r"\1,\n", CSV)}),
    Kind("csv, delimiter at the end of lines", 4, {"log.csv": CSV.replace("\n", ",\n")}),
    Kind("csv, more fields than the header", r"row 1 has 5 fields where the header has 4",
         {"log.csv": CSV.replace("500,0", "500,0,7")}),
    Kind("csv, fewer fields than the header", r"row 3 has 3 fields where the header has 4",
         {"log.csv": CSV[: CSV.rindex(",")]}),
    Kind("csv, a column too many in all rows", r"row 0 has 5 fields where the header has 4",
         {"log.csv": re.sub(r"(\d)\n", r"\1,9\n", CSV)}),
    Kind("csv, a quotation mark that is not closed", "row 4 has 2 fields where the header has 4",
         {"log.csv": CSV + 'u4,"d,1600000000,1\n'}),
    Kind("csv, two marks that are not closed", "ends at line 7 without one",
         {"log.csv": CSV + 'u4,"d,1600000000,1\nu4,"e,1600000000,1\n'}),
    Kind("csv, values with line breaks", 4, _log(note=["one\ntwo", "three", "a,b", 'c"d'])),
    Kind("csv, byte order mark", 4, {"log.csv": b"\xef\xbb\xbf" + CSV.encode()}),
    Kind("csv, line ends of Windows", 4, {"log.csv": CSV.replace("\n", "\r\n")}),
    Kind("csv, empty lines", 4, {"log.csv": CSV.replace("\n", "\n\n")}),
    Kind("two columns of one name", "'label' is there 2 times",
         {"log.csv": CSV.replace("timestamp,label", "label,label")}),
    Kind("parquet, two columns of one name", "'a' is there 2 times",
         {"log.parquet": pa.table([[1], [2]], names=["a", "a"])}),
    Kind("wrong delimiter", r"Is ';' the delimiter\? Set source.delimiter=';'",
         {"log.csv": CSV.replace(",", ";")}),
    Kind("that remedy", 4, {"log.csv": CSV.replace(",", ";")}, {"delimiter": ";"}),
    # Formats.
    Kind("csv.gz", 4, {"log.csv.gz": gzip.compress(CSV.encode())}),
    Kind("csv.gz, cut off", "cannot be read as csv: Compressed file ended",
         {"log.csv.gz": gzip.compress(CSV.encode())[:-20]}),
    Kind("csv.gz that is not compressed", "Not a gzipped file", {"log.csv.gz": CSV}),
    Kind("jsonl", 4, {"log.jsonl": _jsonl(_RECORDS)}),
    Kind("jsonl.gz with nested columns", 4,
         {"log.jsonl.gz": gzip.compress(_jsonl(_NESTED).encode())}),
    Kind("jsonl, cut off", "line 4 is not JSON", {"log.jsonl": _jsonl(_RECORDS)[:-9]}),
    Kind("jsonl, lines that are lists", "line 1 is no object", {"log.jsonl": "[1, 2]\n"}),
    Kind("dat without a header", "source.header=user_id,item_id,rating,timestamp",
         {"log.dat": DAT}),
    Kind("dat with a header", 3, {"log.dat": DAT},
         {"header": "user_id,item_id,rating,timestamp", "label_from": "rating>=4"}),
    Kind("dat, a header of another length", "row 0 has 4 fields where source.header names 3",
         {"log.dat": DAT}, {"header": "user_id,item_id,timestamp"}),
    Kind("dat, titles in latin-1", 4,
         _beside("items.dat", "a::Amélie é::x\nb::B::y\n".encode("latin-1")),
         {"item_header": "item_id,title,genres"}),
    Kind("recbole", 2, {"log.inter": ATOMIC}, {"label_from": "rating>=4"}),
    Kind("recbole, names with types", 2, {"log.inter": ATOMIC},
         {"columns": "item_id=item_id:token,user_id=user_id:token", "label_from": "rating>=4"}),
    Kind("recbole, items beside", 2,
         {"log.inter": ATOMIC, "log.item": "item_id:token\tgenres:token_seq\ni\tx y\n"},
         {"label_from": "rating>=4"}),
    Kind("csv without a header", 4, {"log.csv": CSV.partition("\n")[2]},
         {"header": "user_id,item_id,timestamp,label"}),
    Kind("unknown extension", "unknown extension '.xlsx'; the formats are", {"log.xlsx": b"x"}),
    Kind("empty file", "the file is empty", {"log.csv": ""}),
    Kind("header alone", "no rows", {"log.csv": CSV.partition("\n")[0] + "\n"}),
    Kind("not parquet", "cannot be read as parquet", {"log.parquet": b"PAR1 no"}),
    Kind("not utf-8", r"line 3 is not utf-8 \(byte 0xe9\).*source.encoding=latin-1",
         {"log.csv": CSV.replace(",b,", ",é,").encode("latin-1")}),
    Kind("that remedy, latin-1", 4, {"log.csv": CSV.replace(",b,", ",é,").encode("latin-1")},
         {"encoding": "latin-1"}),
    Kind("items not utf-8", "log_items.csv: line 2 is not utf-8",
         _beside("items.csv", "item_id,title\na,é\n".encode("latin-1"))),
    Kind("unknown encoding", "source.encoding='latin-99' is no encoding", {"log.csv": CSV},
         {"encoding": "latin-99"}),
    # Names that are ours.
    Kind("users with a column id", 4, _beside("users.csv", USERS.assign(id=[7, 8, 9]))),
    Kind("items with a column id", 4, _beside("items.csv", ITEMS.assign(id=[7, 8, 9])),
         {"item_columns": "id,title"}),
    Kind("a feature called as our key", 4,
         _beside("users.csv", USERS.rename(columns={"user_id": "uid"}).assign(user_id="x"),
                 LOG.rename(columns={"user_id": "uid"}).to_csv(index=False)),
         {"columns": "user_id=uid"}),
    Kind("events with a column truth", 4, _log(truth=[9.0, -9, 9, -9])),
    Kind("a truth that is named and missing", "no column 'odds' for columns", {"log.csv": CSV},
         {"columns": "truth=odds"}),
    Kind("events with a column other", 4, _log(other=1)),
    # Identifiers.
    Kind("001 and 1", r"has the id '001', .* has '1': two ways to write one number",
         _log(user_id=["001", "1", "2", "3"])),
    Kind("that remedy, exact", 4, _log(user_id=["001", "1", "2", "3"]), {"ids": "exact"}),
    Kind("that remedy, number", 4, _log(user_id=["001", "1", "2", "3"]), {"ids": "number"}),
    Kind("001 in events and 1 in users", r"log_users.parquet: column 'user_id', row 0 has '1'",
         {"log.csv": LOG.assign(user_id=["001", "2", "3", "4"]),
          "log_users.parquet": USERS.assign(user_id=[1, 2, 3])}),
    Kind("numbers in items, text in events", 4,
         {"log.csv": LOG.assign(item_id=["7", "8", "7", "9"]),
          "log_items.parquet": ITEMS.assign(item_id=[7.0, 8.0, 9.0])}),
    Kind("items of something else", "none of its ids is in the events",
         _beside("items.csv", ITEMS.assign(item_id=["p", "q", "r"]))),
    Kind("items twice", "row 1: value 'a' stands there twice",
         _beside("items.csv", ITEMS.assign(item_id=["a", "a", "b"]))),
    Kind("a list as item id", r"column 'item_id', row 0: value .* is a list",
         {"log.parquet": LOG.assign(item_id=[["a"], ["b"], ["a"], ["c"]])}),
    Kind("a struct as item id", "column 'item_id' for source.columns holds values of type struct",
         {"log.parquet": LOG.assign(item_id=[{"a": 1}] * 4)}),
    Kind("a fraction as id", r"row 1: value 1.5 is not a whole number",
         {"log.parquet": LOG.assign(user_id=[1, 1.5, 2, 3])}),
    Kind("an id that floats have rounded", "is a float above 2\\^53",
         {"log.parquet": LOG.assign(user_id=[1e17, 1, 2, 3])}),
    Kind("an empty id", r"column 'user_id', row 2: value nan is null",
         {"log.parquet": LOG.assign(user_id=["u1", "u1", None, "u3"])}),
    Kind("a blank id", r"row 2: value ' ' is empty",
         {"log.parquet": LOG.assign(user_id=["u1", "u1", " ", "u3"])}),
    # Histories.
    Kind("history after the log", "row 0.*is later than the user's first event",
         _beside("history.parquet", pd.DataFrame(_LISTS).assign(timestamp=17**8)), _HISTORY),
    Kind("history after the log, ids of another type", "row 0.*is later than the user's first",
         {"log.csv": LOG.assign(user_id=["1", "1", "2", "3"]),
          "log_history.parquet": pd.DataFrame(_LISTS).assign(user_id=[1, 2], timestamp=17**8)},
         _HISTORY),
    Kind("history lists as text of JSON", 7,
         _beside("history.csv", pd.DataFrame(_LISTS).assign(item_id=['["a", "b"]', '["c"]'])),
         _HISTORY),
    Kind("history lists as text of Python", 7, _beside("history.csv", pd.DataFrame(_LISTS)),
         _HISTORY),
    Kind("history list that is not closed", r"row 1: value '\[c' is no list",
         _beside("history.csv", pd.DataFrame(_LISTS).assign(item_id=['["a", "b"]', "[c"])),
         _HISTORY),
    Kind("history list with a gap", "row 0: .*holds an empty entry",
         _beside("history.parquet", pd.DataFrame(_LISTS).assign(item_id=[["a", None], ["c"]])),
         _HISTORY),
    Kind("history of other users", "log_history.parquet: column 'user_id': none of its ids",
         _beside("history.parquet", pd.DataFrame(_LISTS).assign(user_id=["x", "y"])), _HISTORY),
    # Values.
    Kind("inf in a feature", r"column 'price', row 1: value inf is not finite",
         _beside("items.csv", ITEMS.assign(price=[1, np.inf, 2])), {"item_columns": "price"}),
    Kind("inf in bins", r"column 'price', row 1: value inf is not finite",
         _beside("items.csv", ITEMS.assign(price=[1, np.inf, 2])), {"item_columns": "price:2"}),
    Kind("structs among the users' features", 4,
         _beside("users.parquet", USERS.assign(address=[{"zip": 1}] * 3))),
    Kind("a struct as feature", "column 'size' for source.item_columns holds values of type struct",
         _beside("items.parquet", ITEMS.assign(size=[{"w": 1}] * 3)), {"item_columns": "size"}),
    Kind("no label", r"no column 'label'.*source.label_from='rating>=4'.*data.negatives=1",
         {"log.csv": LOG.drop(columns="label")}),
    Kind("that remedy, rating", 4,
         {"log.csv": LOG.rename(columns={"label": "rating"})}, {"label_from": "rating>=1"}),
    Kind("that remedy, all", 4, {"log.csv": LOG.drop(columns="label")}, {"label_from": "all"}),
    Kind("label_from of text", "column 'kind' holds no number", _log(kind="x"),
         {"label_from": "kind>=1"}),
    Kind("labels that are neither 0 nor 1", r"column 'label', row 1: value 5 is not a label",
         _log(label=[1, 5, 0, 0])),
    Kind("labels that are lists", r"column 'label', row 0: .* is not a label",
         {"log.parquet": LOG.assign(label=[[1]] * 4)}),
    Kind("times in a form of their own", "source.time_format, such as YYMMDDHH",
         _log(timestamp=["31/12/2020", "31/12/2020", "1/1/2021", "2/1/2021"])),
    Kind("YYMMDDHH", 4, _log(timestamp=["09010100", "09010101", "09010200", "09010300"]),
         {"time_format": "YYMMDDHH"}),
    Kind("letters of strftime", 4,
         _log(timestamp=["31/12/2020", "31/12/2020", "1/1/2021", "2/1/2021"]),
         {"time_format": "%d/%m/%Y"}),
    Kind("a time that is not of the format", r"row 0: value '31/12/2020' is no time of the form",
         _log(timestamp="31/12/2020"), {"time_format": "YYMMDD"}),
    Kind("a format that is none", "source.time_format='%Q' is no format of times",
         _log(timestamp="31/12/2020"), {"time_format": "%Q"}),
    # Likely mistakes, which are read and reported.
    Kind("sets with another separator", 4,
         _beside("items.csv", ITEMS.assign(genres=["x;y", "y;z", "x"])), {}, "like sets"),
    Kind("sets as text of JSON", 4,
         _beside("items.csv", ITEMS.assign(genres=['["x", "y"]', '["y"]', "[]"])), {}, "sets"),
    Kind("sets of users", 4, _beside("users.csv", USERS.assign(tags=["x|y", "y|z", "x"])), {},
         "looks like sets with"),
    Kind("a time far from the others", 21,
         {"log.csv": pd.concat([LOG] * 5 + [LOG[:1].assign(timestamp=0)]).assign(
             item_id=lambda t: np.arange(len(t)))},
         {}, "1 of 21 events are far from all others.*user 'u1', item '20' at 1970-01-01"),
]  # fmt: skip


def _write(folder, name, content):
    path = folder / name
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    elif isinstance(content, pd.DataFrame) and path.suffix == ".parquet":
        content.to_parquet(path)
    elif isinstance(content, pd.DataFrame):
        content.to_csv(path, index=False)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_or_a_named_error(kind, tmp_path, caplog):
    paths = [_write(tmp_path, *file) for file in kind.files.items()]
    options = {"path": str(paths[0])} | kind.options
    if isinstance(kind.outcome, str):
        with pytest.raises(DataError, match=re.compile(kind.outcome, re.DOTALL)) as error:
            prepare(sources.load("files", **options), 0)
        message = str(error.value)
        assert "\n" not in message and "Traceback" not in message
        return
    with caplog.at_level("INFO"):
        lines = prepare(sources.load("files", **options), 0)
    assert lines.num_events + lines.counts["duplicates_dropped"] == kind.outcome
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    warnings += odd_times(lines)
    if kind.warning:
        assert any(re.search(kind.warning, line) for line in warnings), warnings
    else:
        assert not warnings


def test_the_kinds_are_many_and_distinct():
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 70
