"""What every part of `policy.json` is."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class ManifestModel(BaseModel):
    """A part of `policy.json`. Its `later` fields are written only where they say something.

    So those who know the first fields alone can read every policy that these describe.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialized(self)
        defaults = {name: field.default for name, field in type(self).model_fields.items() if name in self.later}
        silent = {name for name, default in defaults.items() if getattr(self, name) == default}
        return {name: part for name, part in content.items() if name not in silent}
