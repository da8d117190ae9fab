"""What every body has in common: checked strictly, no field converted, ignored without a word, or
unknown."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, WithJsonSchema

from nimlite.errors import RequestError


class Strict(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        use_attribute_docstrings=True,  # for /docs
    )


def refuse_unless(*neutral: object) -> AfterValidator:
    """For a parameter without support here: only null and values that ask for nothing pass."""

    def check(value: object, info: ValidationInfo) -> object:
        if value is None or value in neutral:
            return value
        raise RequestError(
            f"The parameter '{info.field_name}' is not supported by this server; leave it out.",
            param=info.field_name,
            code="unsupported_parameter",
        )

    return AfterValidator(check)


NULL_SCHEMA = WithJsonSchema({"type": "null", "description": "Not supported by this server."})
Unsupported = Annotated[Any, refuse_unless(), NULL_SCHEMA]
UnsupportedList = Annotated[Any, refuse_unless([]), NULL_SCHEMA]
