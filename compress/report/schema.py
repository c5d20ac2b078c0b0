"""The content of report.json in, nothing out - or every mistake in it at once, each with the place where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import CompressError

ROLES = ("baseline", "sparse", "pruned", "finetuned")

Count = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Metrics = dict[str, Number]


class _Entry(BaseModel):
    """Keys beyond the contract are allowed, so that later versions can add to a report."""

    model_config = ConfigDict(extra="allow")


class _Data(_Entry):
    name: str
    synthetic: bool
    train: Count
    val: Count
    fingerprint: str


class _Latency(_Entry):
    median: Positive
    p10: Positive
    p90: Positive
    device: str
    threads: Count
    batch: Count

    @model_validator(mode="after")
    def _ordered(self) -> _Latency:
        if not self.p10 <= self.median <= self.p90:
            raise ValueError(f"expected p10 <= median <= p90, found {self.p10}, {self.median}, {self.p90}")
        return self


class _Row(_Entry):
    stage: str
    role: Literal["baseline", "sparse", "pruned", "finetuned"]
    params: Count
    macs: Count
    bytes: Count
    latency_ms: _Latency
    metrics: Metrics
    subsets: dict[str, Metrics]
    classes: dict[str, Metrics] = Field(default_factory=dict)


class _Channel(_Entry):
    layer: str
    before: Count
    after: Count
    deviation: Positive | None = None

    @model_validator(mode="after")
    def _no_more(self) -> _Channel:
        if self.after > self.before:
            raise ValueError(f"expected after <= before, found {self.after} > {self.before}")
        return self


class _Block(_Entry):
    block: str
    params: Count
    macs: Count


class _Frozen(_Entry):
    group: str
    reason: str
    by: Literal["rule", "policy", "verification"]


class _Randomised(_Entry):
    rel: Positive


class _Verification(_Entry):
    passed: bool
    max_abs: Positive
    rel: Positive
    tolerance: Positive
    dtype: str
    randomised: _Randomised


class _Report(_Entry):
    schema_: Literal[1] = Field(alias="schema")
    name: str
    profile: str | None
    seed: Count
    data: _Data
    rows: Annotated[list[_Row], Field(min_length=1)]
    channels: list[_Channel]
    frozen: list[_Frozen]
    verification: _Verification | None
    blocks: list[_Block] = Field(default_factory=list)
    command: str = ""
    date: str = ""
    headline: str = "map50"
    image_size: tuple[Count, Count] | None = None
    versions: dict[str, str | None] = Field(default_factory=dict)
    hardware: dict[str, str | int | float | None] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> _Report:
        roles = [row.role for row in self.rows]
        twice = sorted({role for role in roles if roles.count(role) > 1})
        if twice:
            raise ValueError(f"rows: expected one row a role, found several for {', '.join(twice)}")
        if "pruned" in roles and self.verification is None:
            raise ValueError("verification: expected the result for the pruned network, found null")
        without = [row.role for row in self.rows if self.headline not in row.metrics]
        if without:
            raise ValueError(f"rows: metrics of {', '.join(without)} lack the headline metric '{self.headline}'")
        return self


def validate(report: Mapping[str, Any]) -> None:
    """Hold a report against the contract of report.json, schema 1.

    Raises CompressError with one line for each mistake, e.g.
    `report.json: rows[2].latency_ms.median: Input should be a valid number; found 'fast'`.
    """
    try:
        _Report.model_validate(dict(report))
    except ValidationError as error:
        raise CompressError("\n".join(_line(dict(mistake)) for mistake in error.errors())) from None


def _line(mistake: dict[str, Any]) -> str:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in mistake["loc"]).lstrip(".")
    said = mistake["msg"].removeprefix("Value error, ")
    shown = mistake["type"] in ("missing", "value_error")
    found = "" if shown else f"; found {mistake['input']!r:.80}"
    return f"report.json: {place + ': ' if place else ''}{said}{found}"
