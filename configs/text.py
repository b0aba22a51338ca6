"""The text after a config's name, `--config=configs/nif.py:movielens_100k,smoke,seed=1`.

It names a data set (default movielens_100k) or a preset of configs/datasets.py, "smoke" for a small
and short run, and keys to set. `model=din` is short for `rows=base+din`: that model beside the base
(nif_jax/variants.py has all).
"""

import difflib

from ml_collections import ConfigDict

from configs.datasets import PRESETS

DATASETS = ("movielens_100k", "files", "synthetic", "tfds")
WORDS = ("smoke",)


class TextError(ValueError):
    """A text that cannot be used; the message names the word, the choices and the fix."""


def parse(text: str) -> tuple[str, bool, dict[str, str], dict[str, str]]:
    """Data set, whether the run is a smoke run, settings of its preset, and those of the text."""
    dataset, smoke, preset, settings = DATASETS[0], False, {}, {}
    for word in filter(None, text.split(",")):
        if "=" in word:
            key, value = word.split("=", 1)
            if key == "model":
                key, value = "rows", value if value == "base" else f"base+{value}"
            settings[key] = value
        elif word in DATASETS:
            dataset = word
        elif word in PRESETS:
            dataset, preset = "files", PRESETS[word]
        elif word in WORDS:
            smoke = True
        else:
            choices = (*DATASETS, *PRESETS, *WORDS)
            close = difflib.get_close_matches(word, choices, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise TextError(
                f"{word!r} is no data set or word of a config.{hint} Data sets: "
                f"{', '.join(DATASETS)}; presets: {', '.join(PRESETS)}; words: "
                f"{', '.join(WORDS)}; or key=value.{_comma_hint(settings)}"
            )
    return dataset, smoke, preset, settings


def apply(config: ConfigDict, preset: dict[str, str], settings: dict[str, str]) -> None:
    """Sets "tsp.weight" and the like from text, in the type the key has; locks the config.

    What the text sets wins; of a preset, sections that this config lacks are left out.
    """
    config.lock()
    preset = {key: value for key, value in preset.items() if key.split(".")[0] in config}
    done: dict[str, str] = {}
    for key, value in (preset | settings).items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = _child(section, part, key, done)
        old = _child(section, name, key, done)
        section[name] = _parse_value(key, value, old)
        done[key] = value


def _child(section: ConfigDict, name: str, key: str, before: dict[str, str]):
    if not isinstance(section, ConfigDict) or name not in section:
        choices = list(section) if isinstance(section, ConfigDict) else []
        close = difflib.get_close_matches(name, choices, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise TextError(
            f"no config key {key!r}.{hint} Choices here: {', '.join(choices)}.{_comma_hint(before)}"
        )
    return section[name]


def _comma_hint(before: dict[str, str]) -> str:
    """What to do if an unknown word was to go on with the value of the setting before it."""
    key, value = list(before.items())[-1] if before else ("", "")
    # Only presets have values with commas: what follows one is no rest of it.
    if not key.endswith(("columns", "unlabelled")) or "," in value:
        return ""
    return f" A value with commas needs the flag form, --config.{key}=..."


_KINDS = {int: "a whole number", float: "a number"}


def _parse_value(key: str, value: str, old):
    if isinstance(old, bool):
        if value not in ("True", "False"):
            raise TextError(f"{key}={value!r} has to be True or False.")
        return value == "True"
    if isinstance(old, ConfigDict):
        raise TextError(f"{key}={value!r} names a section; its keys are {', '.join(old)}.")
    several = isinstance(old, tuple)
    kind = type(old[0]) if several else type(old)
    try:
        return tuple(kind(part) for part in value.split("+")) if several else kind(value)
    except (TypeError, ValueError) as error:
        what = _KINDS.get(kind, f"a {kind.__name__}")
        what += ", or several with + between" if several else ""
        raise TextError(f"{key}={value!r} has to be {what}.") from error
