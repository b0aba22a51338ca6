"""What a request is answered with where it cannot be served."""

LONGEST = 400
"""Characters of a message; values of a request that it quotes may be longer."""


class ServiceError(Exception):
    """An answer that is an error.

    Attributes:
      status: of HTTP.
      message: one line: value, choices, remedy.
      field: of the request, or None.
      retry_after: seconds after which the same request may succeed, or None.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, retry_after: int | None = None
    ):
        """See the attributes."""
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.retry_after = retry_after

    @property
    def content(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer."""
        message = self.message
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
        return {"error": {"field": self.field, "message": message}}
