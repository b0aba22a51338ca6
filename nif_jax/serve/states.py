"""States of users: what is kept of one, what a store does, and the store in memory."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from nif_jax.serving.state import UserState

IDS = 32
"""Ids of a user's last calls of /events that are kept."""
LOCKS = 256

T = TypeVar("T")


class Record(NamedTuple):
    """What is kept of a user. It is never changed: an update makes another one.

    Attributes:
      state: whose arrays are of NumPy.
      ids: of the last calls, the latest last.
    """

    state: UserState
    ids: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(self.state))


Change = Callable[[Record | None], Awaitable[tuple[Record | None, T]]]
"""From a user's record to the next one and an answer; None instead of a record changes nothing."""


class States(Protocol):
    """A store. Updates of one user follow each other: none is lost."""

    async def read(self, user: str) -> Record | None:
        """The record of a user."""

    async def update(self, user: str, change: "Change[T]") -> T:
        """Replaces the record of a user; returns the answer of `change`, which may run again."""

    async def status(self) -> str:
        """ "ok", or why states cannot be read."""

    async def close(self) -> None:
        """Ends connections."""


class UserLocks:
    """A lock for each user, of which some users share one."""

    def __init__(self) -> None:
        """Makes LOCKS of them."""
        self._locks = [asyncio.Lock() for _ in range(LOCKS)]

    @contextlib.asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        """Holds the lock of a user."""
        async with self._locks[hash(user) % LOCKS]:
            yield


class MemoryStates:
    """The users whose records were used last, within a number of bytes.

    Attributes:
      nbytes: of the records.
    """

    def __init__(self, most_bytes: int):
        """Keeps at most so many bytes of arrays."""
        self._most, self.nbytes, self._locks = most_bytes, 0, UserLocks()
        self._records: collections.OrderedDict[str, Record] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    async def read(self, user: str) -> Record | None:
        """See States."""
        if user in self._records:
            self._records.move_to_end(user)
        return self._records.get(user)

    async def update(self, user: str, change: "Change[T]") -> T:
        """See States."""
        async with self._locks.of(user):
            record, answer = await change(await self.read(user))
            if record is not None:
                self._put(user, record)
            return answer

    def _put(self, user: str, record: Record) -> None:
        before = self._records.pop(user, None)
        self.nbytes += record.nbytes - (before.nbytes if before else 0)
        self._records[user] = record
        while self.nbytes > self._most and len(self._records) > 1:
            _, oldest = self._records.popitem(last=False)
            self.nbytes -= oldest.nbytes

    async def status(self) -> str:
        """See States."""
        return "ok"

    async def close(self) -> None:
        """See States."""
