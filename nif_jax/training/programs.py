"""What is made once for stages whose functions are equal: mapped functions, initial parameters."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Programs:
    """What stages share. A mapped function that is called again is neither traced nor compiled.

    Attributes:
      key: equal for stages whose functions are equal, whatever arrays they are called with.
      made: (key, name) -> what was made. A stage that is given no other one shares nothing.
    """

    key: Hashable = None
    made: dict[Hashable, Any] = dataclasses.field(default_factory=dict)

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was first called for this key and name.

        It must not refer to arrays of the data, which would be kept with it.
        """
        place = self.key, name
        if place not in self.made:
            self.made[place] = make()
        return self.made[place]

    def of(self, part: str) -> "Programs":
        """Those of a part of the stage."""
        return dataclasses.replace(self, key=(self.key, part))
