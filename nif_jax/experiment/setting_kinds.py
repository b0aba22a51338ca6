"""Kinds of settings: what a value may be, in code and in words; used by settings.py."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number in a range, the bounds included unless they are open."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    even: bool = False
    words: str = ""

    @property
    def description(self) -> str:
        """The range in words, unless `words` describes it."""
        kind = "an even number" if self.even else "a whole number" if self.whole else "a number"
        if self.words:
            return self.words
        if self.high == math.inf:
            return f"{kind}, {self.low:g} or more"
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.open_high else f"at most {self.high:.10g}"
        return f"{kind}, {low} and {high}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is in the range."""
        kinds = int if self.whole or self.even else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and not (self.even and value % 2)


@dataclasses.dataclass(frozen=True)
class Rate:
    """A dropout rate that masks of 8 bits can express (nif_jax/models/dropout.py).

    Attributes:
      one: whether all may be dropped.
    """

    one: bool = False

    @property
    def description(self) -> str:
        """The range in words."""
        return f"0{', 1' * self.one} or a number of at least 1/256 and at most 255/256"

    def accepts(self, value: Any) -> bool:
        """Whether a value is such a rate."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return value == 0 or (self.one and value == 1) or 1 / 256 <= value <= 255 / 256


@dataclasses.dataclass(frozen=True)
class Kind:
    """Any value of a Python type."""

    kind: type
    description: str

    def accepts(self, value: Any) -> bool:
        """Whether a value is of the type."""
        return isinstance(value, self.kind)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several words."""

    choices: tuple[str, ...]

    @property
    def description(self) -> str:
        """The choices."""
        return f"one of {', '.join(self.choices)}"

    def accepts(self, value: Any) -> bool:
        """Whether a value is one of the choices."""
        return isinstance(value, str) and value in self.choices


@dataclasses.dataclass(frozen=True)
class Several:
    """A tuple of settings."""

    each: "Setting"
    fewest: int = 1

    @property
    def description(self) -> str:
        """How many values there are, and what each is."""
        return f"a tuple of {self.fewest} or more values, each {self.each.description}"

    def accepts(self, value: Any) -> bool:
        """Whether there are enough values, and each is accepted."""
        sequence = isinstance(value, (tuple, list)) and len(value) >= self.fewest
        return sequence and all(self.each.accepts(one) for one in value)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where parameters lie, pairs (pattern, axes); see config.mesh.rules."""

    @property
    def description(self) -> str:
        """The form of a rule."""
        return (
            "a tuple of pairs (regular expression, axes), with the axes (None, 'model') for a "
            "table whose columns are spread and () for a copy on each device"
        )

    def accepts(self, value: Any) -> bool:
        """Whether a value is a sequence of such pairs."""
        return isinstance(value, (tuple, list)) and all(map(self._accepts_rule, value))

    def _accepts_rule(self, rule: Any) -> bool:
        if not (isinstance(rule, (tuple, list)) and len(rule) == 2 and isinstance(rule[0], str)):
            return False
        try:
            re.compile(rule[0])
        except re.error:
            return False
        return isinstance(rule[1], (tuple, list)) and tuple(rule[1]) in ((), (None, "model"))


Setting = Number | Rate | Kind | Choice | Several | Rules


def whole(low: int, high: float = math.inf) -> Number:
    """A whole number."""
    return Number(low, high, whole=True)


def at_least(low: float, words: str = "") -> Number:
    """A number with a lower bound."""
    return Number(low, words=words)


def between(low: float, high: float, *, open_low: bool = False, open_high: bool = False) -> Number:
    """A number with two bounds."""
    return Number(low, high, open_low, open_high)


def one_of(*choices: str) -> Choice:
    """One of several words."""
    return Choice(choices)


positive = Number(0, open_low=True, words="a positive number")
even = Number(2, even=True)
share = between(0, 1)
positive_share = between(0, 1, open_low=True)
dropout = Rate()
id_dropout = Rate(one=True)
seed = whole(0, 2**31 - 1)  # k-means and NumPy take 32 bits
boolean = Kind(bool, "True or False")
text = Kind(str, "text")
widths = Several(whole(1))
rules = Rules()


TRAINING: Mapping[str, Setting] = {
    "batch_size": even,
    "epochs": at_least(0),
    "eval_epochs": positive,
    "patience": whole(0),
    "learning_rate": at_least(0, "a positive number, or 0 with epochs=0"),
    "warmup_steps": whole(0),
    "decay": one_of("constant", "cosine"),
    "weight_decay": at_least(0),
    "clip_norm": at_least(0),
    "steps_per_dispatch": whole(1),
    "accelerator_steps_per_dispatch": whole(1),
    "log_dispatches": whole(1),
    "microbatch": whole(0),
    "accelerator_microbatch": whole(0),
}
"""Keys of each section of METRICS: train, pretrain and tokenize."""
