"""Categories: kinds of notifications that users can opt out of."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Path, Response
from pydantic import Field

from tidings.api.calls import NAME, Caller, Shape, StrictRoute, operation
from tidings.model.errors import NotFound
from tidings.model.tenant import Scope
from tidings.model.user import Cap, Category, Retries
from tidings.model.vocabulary import Excess, QuietPolicy

router = APIRouter(prefix="/v1/categories", tags=["Categories"], route_class=StrictRoute)

_OR_ALL = NAME.removesuffix("$") + r"$|^\*$"
_WEEK_S = 7 * 24 * 3600
_EXAMPLE = {
    "description": "Offers and news",
    "quiet_hours": "drop",
    "caps": [{"count": 3, "seconds": 86400}],
    "dedupe_seconds": 3600,
}


class RetriesShape(Shape):
    """How often a delivery is tried, and how long the waits are; a null field follows the channel's settings."""

    attempts: int | None = Field(default=None, ge=1, le=20, description="attempts, the first one included")
    base_seconds: float | None = Field(
        default=None, gt=0, le=3600, description="the longest wait before the second attempt; doubles with each attempt"
    )
    cap_seconds: float | None = Field(default=None, gt=0, le=86_400, description="the longest wait of all")


class CapShape(Shape):
    """At most `count` notifications to one user in any `seconds`."""

    count: int = Field(ge=1, le=1000)
    seconds: int = Field(ge=1, le=_WEEK_S)


class CategoryRequest(Shape):
    """How a category is treated. A category that was never declared has these defaults."""

    critical: bool = Field(
        default=False, description="is sent despite opt-outs, mute and quiet hours: for passwords and security"
    )
    allow_doubles: bool = Field(
        default=False,
        description="may be tried at another provider when an earlier attempt may have arrived; the user may then get "
        "it twice",
    )
    description: str = Field(default="", max_length=500)
    quiet_hours: Literal["hold", "wake_up", "drop"] = Field(
        default="hold",
        description="in a user's quiet hours: `hold` sends within a quarter of an hour after they end, `wake_up` sends "
        "in the minute in which they end, `drop` does not send",
    )
    retries: RetriesShape = RetriesShape()
    caps: list[CapShape] = Field(
        default=[],
        max_length=4,
        description="how many notifications one user gets at most; the caps of the category `*` count all categories "
        "that are not critical",
    )
    excess: Literal["drop", "hold"] = Field(
        default="drop", description="a notification beyond a cap is dropped, or held until the cap permits it"
    )
    dedupe_seconds: int = Field(
        default=0,
        ge=0,
        le=_WEEK_S,
        description="within this time the same content goes to an address only once; 0: no check",
    )


class CategoryAnswer(CategoryRequest):
    """A declared category."""

    name: str


class CategoriesAnswer(Shape):
    """All declared categories, by name."""

    categories: list[CategoryAnswer]


@router.get("", **operation(Scope.READ, "List the categories"))
async def list_categories(call: Caller) -> CategoriesAnswer:
    """Every declared category."""
    return CategoriesAnswer(
        categories=[_answer(category) for category in await call.services.tenants.categories(call.tenant)]
    )


@router.put("/{name}", **operation(Scope.MANAGE, "Declare a category", body=_EXAMPLE, name="marketing"))
async def put_category(
    call: Caller,
    name: Annotated[str, Path(pattern=_OR_ALL, examples=["marketing"])],
    category: Annotated[CategoryRequest, Body()],
) -> CategoryAnswer:
    """Create or replace a category; it takes effect within a second.

    The category `*` stands for all categories; of it only the caps have an effect.
    """
    stored = Category(
        name=name,
        critical=category.critical,
        allow_doubles=category.allow_doubles,
        description=category.description,
        quiet_hours=QuietPolicy(category.quiet_hours),
        retries=Retries(category.retries.attempts, category.retries.base_seconds, category.retries.cap_seconds),
        caps=tuple(Cap(cap.count, cap.seconds) for cap in category.caps),
        excess=Excess(category.excess),
        dedupe=category.dedupe_seconds,
    )
    await call.services.tenants.put_category(call.tenant, stored)
    return _answer(stored)


@router.delete(
    "/{name}",
    response_class=Response,
    **operation(Scope.MANAGE, "Delete a category", before=["category"], status=204, name="marketing"),
)
async def delete_category(call: Caller, name: Annotated[str, Path(pattern=_OR_ALL, examples=["marketing"])]) -> None:
    """Within a second, notifications of this category get the defaults."""
    if not await call.services.tenants.delete_category(call.tenant, name):
        raise NotFound("category", name)


def _answer(category: Category) -> CategoryAnswer:
    retries = category.retries
    return CategoryAnswer(
        name=category.name,
        critical=category.critical,
        allow_doubles=category.allow_doubles,
        description=category.description,
        quiet_hours=category.quiet_hours.value,
        retries=RetriesShape(attempts=retries.attempts, base_seconds=retries.base_s, cap_seconds=retries.cap_s),
        caps=[CapShape(count=cap.count, seconds=cap.seconds) for cap in category.caps],
        excess=category.excess.value,
        dedupe_seconds=category.dedupe,
    )
