"""Categories: what a person opts out of."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path
from pydantic import Field

from tidings.api.calls import NAME, Caller, Shape, StrictRoute, operation
from tidings.model.tenant import Scope
from tidings.model.user import Category

router = APIRouter(prefix="/v1/categories", tags=["Categories"], route_class=StrictRoute)

_EXAMPLE = {"critical": False, "allow_doubles": False, "description": "Offers and news"}


class CategoryRequest(Shape):
    """How a category is treated. One that was never declared is neither critical nor allows doubles."""

    critical: bool = Field(default=False, description="passes opt-outs, mute and quiet hours: passwords, security")
    allow_doubles: bool = Field(
        default=False, description="may be tried at another provider when an earlier attempt may have gone through"
    )
    description: str = Field(default="", max_length=500)


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
    name: Annotated[str, Path(pattern=NAME, examples=["marketing"])],
    category: Annotated[CategoryRequest, Body()],
) -> CategoryAnswer:
    """Create or replace it. It counts within a second."""
    stored = Category(name, category.critical, category.allow_doubles, category.description)
    await call.services.tenants.put_category(call.tenant, stored)
    return _answer(stored)


def _answer(category: Category) -> CategoryAnswer:
    return CategoryAnswer(
        name=category.name,
        critical=category.critical,
        allow_doubles=category.allow_doubles,
        description=category.description,
    )
