"""CORS: the pages of which other origins may ask from a browser. None, unless they are named."""

from dataclasses import dataclass
from typing import Self

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from nimlite.errors import SettingError
from nimlite.settings.fields import Settings

_OPTIONS = ("cors_allow_methods", "cors_allow_headers", "cors_expose_headers", "cors_max_age")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """What browsers are told. Cookies are never asked for: there are none."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_s: int

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """None: closed. Raises SettingError for options without an origin that they are for."""
        if not settings.cors_allow_origins:
            for name in _OPTIONS:
                if name in settings.given:
                    raise SettingError(
                        f"{settings.named(name)} has no use without NIM_CORS_ALLOW_ORIGINS: name "
                        "the origins that it is for."
                    )
            return None
        return cls(
            origins=settings.cors_allow_origins,
            methods=settings.cors_allow_methods,
            headers=settings.cors_allow_headers,
            exposed=settings.cors_expose_headers,
            max_age_s=settings.cors_max_age,
        )

    def add_to(self, app: FastAPI) -> None:
        """Around all that is there: browsers send no key with the question whether they may."""
        app.add_middleware(
            CORSMiddleware,
            allow_origins=self.origins,
            allow_methods=self.methods,
            allow_headers=self.headers,
            expose_headers=self.exposed,
            max_age=self.max_age_s,
        )
