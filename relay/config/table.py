"""What every table of the configuration is: its keys known, its values fixed once it is read."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)
