"""One line for each mistake on the command line, instead of a traceback or the usage text.

absl and ml_collections report a mistake by an exception. `parse` finds its cause: from the type
of the exception, from the exception behind it, or by parsing each flag on its own.
"""

import difflib
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator, Sequence

from absl import flags
from ml_collections.config_flags import config_path

_KINDS = {
    flags.IntegerParser: "a whole number",
    flags.FloatParser: "a number",
    flags.BooleanParser: "True or False",
}


def parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """absl's parsing, which ends the process with one line for a mistake.

    A bug in a config file keeps its traceback.
    """
    problem = _config_file_problem(argv, values)
    if problem:
        sys.exit(f"error: {problem}")
    try:
        rest = values(argv)
        # ml_collections defers an OSError of a config file to the first use of the config.
        hasattr(values.config, "rows")
    except (flags.Error, AttributeError, KeyError, SyntaxError, ValueError) as error:
        problem = _explain(error, argv, values)
        if problem is None:
            raise
        sys.exit(f"error: {problem}")
    return rest


def _given_flags(argv: Sequence[str], values: flags.FlagValues) -> Iterator[tuple[str, str | None]]:
    """(name, text) of the flags in argv; the text is None where a flag has none."""
    words = iter(argv[1:])
    for word in words:
        if word == "--":
            return
        if not word.startswith("-"):
            continue
        name, equals, text = word.lstrip("-").partition("=")
        if equals:
            yield name, text
        elif name in values and not values[name].boolean:
            yield name, next(words, None)
        else:
            yield name, None


def _config_file_problem(argv: Sequence[str], values: flags.FlagValues) -> str | None:
    """One line if the file of --config cannot be one, else None."""
    text = dict(_given_flags(argv, values)).get("config")
    if text is None:
        return None
    path = pathlib.Path(text.partition(":")[0])
    if path.is_file():
        return None
    if not path.name:
        return "--config has no file, e.g. --config=configs/nif.py"
    if path.is_dir():
        files = ", ".join(sorted(p.name for p in path.glob("*.py"))) or "none"
        return f"--config={path} is a folder; give a file of it ({files})."
    choices = [
        str(p) for folder in {path.parent, pathlib.Path("configs")} for p in folder.glob("*.py")
    ]
    near = difflib.get_close_matches(str(path), choices, n=1)
    hint = f" Did you mean {near[0]}?" if near else " An example is --config=configs/nif.py"
    return f"--config={path}: there is no such file.{hint}"


def _explain(error: Exception, argv: Sequence[str], values: flags.FlagValues) -> str | None:
    """One line for an exception of the parsing of argv; None for a bug in a config file."""
    chain = list(_causes(error))
    for cause in reversed(chain):  # the innermost has no traceback in its text
        # nif_jax does not import configs/; this is the class of what its texts refuse.
        if type(cause).__module__ == "configs.text":
            return f"--config: {cause}"
        if isinstance(cause, SyntaxError) and pathlib.Path(cause.filename or "").is_file():
            return f"{cause.filename}, line {cause.lineno}: {cause.msg}"
    if isinstance(error, AttributeError) and error.name == "get_config":
        if not isinstance(error.obj, types.ModuleType):
            return None
        return (
            f"{error.obj.__file__} has no get_config(text) function, which a config file needs; "
            "configs/base.py is an example."
        )
    if isinstance(error, (AttributeError, KeyError)):
        return _missing_key(error)
    if _in_config_file(chain, argv, values):
        return None
    if "\n" in str(error):  # of a config file that could not be called
        return f"--config: {chain[-1]}"
    return _wrong_value(argv, values) or str(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_config_file(chain: Sequence[BaseException], argv, values) -> bool:
    """Whether an exception passed through the file of --config: ml_collections wraps some."""
    path, _, _ = (dict(_given_flags(argv, values)).get("config") or "").partition(":")
    frames = (f for cause in chain for f in traceback.extract_tb(cause.__traceback__))
    return any(frame.filename == path for frame in frames)


def _missing_key(error: AttributeError | KeyError) -> str | None:
    """A KeyError is about a section, one within an AttributeError about a key.

    What a config file raises did not pass through the path of an override.
    """
    missing = error if isinstance(error, KeyError) else next(iter(error.args), None)
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if config_path.__file__ not in files or not isinstance(missing, KeyError):
        return None
    text = str(missing.args[0]).replace("\n", ". ")
    return f"no such key in --config.<key>=<value>: {text}"


def _wrong_value(argv: Sequence[str], values: flags.FlagValues) -> str | None:
    """The first flag whose own parser refuses its text."""
    for name, text in _given_flags(argv, values):
        if name not in values or name == "config":
            continue
        if text is None and not values[name].boolean:
            return f"--{name} has no value; give --{name}=<value>."
        parser = values[name].parser
        given = "true" if text is None else text
        try:
            parser.parse(given)
        except (TypeError, ValueError):
            if isinstance(parser, flags.EnumParser):
                near = difflib.get_close_matches(given, parser.enum_values, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                return f"--{name}={text!r} has to be one of {', '.join(parser.enum_values)}{hint}"
            kind = _KINDS.get(type(parser))
            if kind:
                return f"--{name}={text!r} has to be {kind}"
            if parser.flag_type() == "tuple":
                return (
                    f"--{name}={text!r} has to be one value or a tuple such as \"('a', 'b')\"; "
                    "several values can also be given by repeating the flag"
                )
            return f"--{name}={text!r} names a section; set its keys, --{name}.<key>=<value>"
    return None
