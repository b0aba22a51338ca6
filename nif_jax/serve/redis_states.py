"""States in Redis, which several services may share.

A key names the artefact, so that the state of another one is never read. An update watches its key:
if another process has changed it meanwhile, it is done again from what is there now.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from nif_jax.serve.errors import ServiceError
from nif_jax.serve.state_bytes import StateBytes, StateFormatError
from nif_jax.serve.states import Change, Record, UserLocks

T = TypeVar("T")

SECONDS = 1.0
"""That Redis may take for an answer."""
TRIES = 20
"""Of an update whose key other processes change."""


class RedisStates:
    """A store in Redis; see States. Every method raises ServiceError (503) while it is away."""

    def __init__(self, url: str, digest: str, form: StateBytes, keep_seconds: int):
        """Connects at the first call.

        Args:
          url: redis://..., rediss://... or unix://...
          digest: of the artefact.
          form: reads and writes its records.
          keep_seconds: after its last event a state is removed.

        Raises:
          ValueError: the URL is none of Redis.
        """
        self._redis = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=SECONDS,
            socket_connect_timeout=SECONDS,
            # Once, for connections of before a restart of Redis.
            retry=Retry(NoBackoff(), 1),
        )
        self._prefix, self._form, self._keep = f"nif_jax:{digest[:32]}:", form, keep_seconds
        self._locks = UserLocks()

    async def read(self, user: str) -> Record | None:
        """See States."""
        with _available():
            return self._record(user, await self._redis.get(self._prefix + user))

    async def update(self, user: str, change: Change[T]) -> T:
        """See States."""
        key = self._prefix + user
        async with self._locks.of(user):
            for number in range(TRIES):
                with _available():
                    async with self._redis.pipeline() as pipe:
                        await pipe.watch(key)
                        record = self._record(user, await pipe.get(key))
                        record, answer = await change(record)
                        if record is None:
                            return answer
                        pipe.multi()
                        pipe.set(key, self._form.write(record), ex=self._keep)
                        try:
                            await pipe.execute()
                        except redis.exceptions.WatchError:
                            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(number, 5)))
                            continue
                        return answer
        raise ServiceError(
            503, f"the state changed during each of {TRIES} tries; send it again", "user_id", 1
        )

    def _record(self, user: str, value: bytes | str | None) -> Record | None:
        try:
            assert not isinstance(value, str)  # no decode_responses
            return None if value is None else self._form.read(value)
        except StateFormatError as error:
            raise ServiceError(
                503, f"the state in Redis cannot be read: {error}; remove the key", "user_id"
            ) from error

    async def status(self) -> str:
        """See States."""
        try:
            with _available():
                await self._redis.ping()
        except ServiceError as error:
            return error.message
        return "ok"

    async def close(self) -> None:
        """See States."""
        await self._redis.aclose()


@contextmanager
def _available() -> Iterator[None]:
    """Turns an error of Redis into a ServiceError."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ServiceError(
            503, f"Redis, which has the states, does not answer: {reason}; send it again", None, 1
        ) from error
