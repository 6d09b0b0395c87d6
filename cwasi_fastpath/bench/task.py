"""What one of two processes does in one run of a case."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from .case import How, Path


@dataclass(frozen=True, slots=True)
class Task:
    """Goes to the process as JSON, with one end of a socket pair on which the two processes meet."""

    role: str
    """ping, pong, source or sink."""
    path: Path
    how: How
    size: int
    count: int
    core: int | None
    """To keep to."""
    address: str
    """The server's URL for Redis; for others a directory for what they leave on disk."""
    key: str
    """Begins every name that others could see: no two runs have the same."""

    @property
    def first(self) -> bool:
        """Whether this process begins."""
        return self.role in ("ping", "source")

    @property
    def payload(self) -> bytes:
        """A message, in memory that was written: what is only zero may be one page, over and over."""
        return b"\7" * self.size

    @property
    def spins(self) -> bool:
        return self.how is How.SPINNING

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str | bytes) -> Task:
        fields = json.loads(line)
        return cls(**{**fields, "path": Path(fields["path"]), "how": How(fields["how"])})
