"""Categories: what a person opts out of."""

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
_LONGEST = 7 * 24 * 3600
_EXAMPLE = {
    "description": "Offers and news",
    "quiet_hours": "drop",
    "caps": [{"count": 3, "seconds": 86400}],
    "dedupe_seconds": 3600,
}


class RetriesShape(Shape):
    """How often and how patiently it is tried; what is null is as the channel's settings say."""

    attempts: int | None = Field(default=None, ge=1, le=20, description="tries, the first one included")
    base_seconds: float | None = Field(default=None, gt=0, le=3600, description="the first wait at most; it doubles")
    cap_seconds: float | None = Field(default=None, gt=0, le=86_400, description="no wait is longer")


class CapShape(Shape):
    """At most `count` notifications to one user in any `seconds`."""

    count: int = Field(ge=1, le=1000)
    seconds: int = Field(ge=1, le=_LONGEST)


class CategoryRequest(Shape):
    """How a category is treated. One that was never declared has these defaults."""

    critical: bool = Field(default=False, description="passes opt-outs, mute and quiet hours: passwords, security")
    allow_doubles: bool = Field(
        default=False, description="may be tried at another provider when an earlier attempt may have gone through"
    )
    description: str = Field(default="", max_length=500)
    quiet_hours: Literal["hold", "wake_up", "drop"] = Field(
        default="hold",
        description="in a user's quiet hours: `hold` until they end and then send within a quarter of an hour, "
        "`wake_up` send at the minute in which they end, `drop` do not send",
    )
    retries: RetriesShape = RetriesShape()
    caps: list[CapShape] = Field(
        default=[],
        max_length=4,
        description="how much one user gets at most; those of the category `*` count all that is not critical",
    )
    excess: Literal["drop", "hold"] = Field(
        default="drop", description="what a cap forbids is dropped, or held until the cap permits it"
    )
    dedupe_seconds: int = Field(
        default=0, ge=0, le=_LONGEST, description="within this time the same content goes to an address once; 0: never"
    )


class CategoryAnswer(CategoryRequest):
    """A declared category."""

    name: str


class CategoriesAnswer(Shape):
    """All declared categories, by name."""

    categories: list[CategoryAnswer]


@router.get("", **operation(Scope.READ, "List the categories"))
async def list_categories(call: Caller) -> CategoriesAnswer:
    """Every declared one."""
    return CategoriesAnswer(
        categories=[_answer(category) for category in await call.services.tenants.categories(call.tenant)]
    )


@router.put("/{name}", **operation(Scope.MANAGE, "Declare a category", body=_EXAMPLE, name="marketing"))
async def put_category(
    call: Caller,
    name: Annotated[str, Path(pattern=_OR_ALL, examples=["marketing"])],
    category: Annotated[CategoryRequest, Body()],
) -> CategoryAnswer:
    """Create or replace it. It counts within a second. The name `*` stands for every category: only its caps count."""
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
    **operation(Scope.MANAGE, "Forget a category", before=["category"], status=204, name="marketing"),
)
async def delete_category(call: Caller, name: Annotated[str, Path(pattern=_OR_ALL, examples=["marketing"])]) -> None:
    """What is sent in it from now on (within a second) has the defaults."""
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
        retries=RetriesShape(attempts=retries.attempts, base_seconds=retries.base, cap_seconds=retries.cap),
        caps=[CapShape(count=cap.count, seconds=cap.seconds) for cap in category.caps],
        excess=category.excess.value,
        dedupe_seconds=category.dedupe,
    )
