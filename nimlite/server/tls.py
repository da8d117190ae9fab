"""TLS: the certificate that the server shows, and for mTLS whose certificates clients must show."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from nimlite.errors import SettingError
from nimlite.settings.fields import Settings
from nimlite.settings.values import SSLMode

_PEM = {
    "ssl_certs_path": "CERTIFICATE-----",
    "ssl_key_path": "PRIVATE KEY-----",
    "ssl_ca_certs_path": "CERTIFICATE-----",
}
"""By setting: what a line of its file ends with."""
_NEEDED = {
    SSLMode.DISABLED: (),
    SSLMode.TLS: ("ssl_certs_path", "ssl_key_path"),
    SSLMode.MTLS: ("ssl_certs_path", "ssl_key_path", "ssl_ca_certs_path"),
}


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What NIM_SSL_MODE and its files make; None: plain HTTP. TLS 1.2 and later are spoken.

    Raises SettingError for a file that is missing, can't be read, is no PEM file of its kind, or
    does not fit the other.
    """
    paths = {name: getattr(settings, name) for name in _PEM}
    _check_mode(settings, paths)
    needed = _NEEDED[settings.ssl_mode]
    if not needed:
        return None
    for name in needed:
        _check_pem(settings, name, paths[name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password of ours OpenSSL would ask the terminal for one.
        context.load_cert_chain(paths["ssl_certs_path"], paths["ssl_key_path"], password="")
    except ssl.SSLError as error:
        raise SettingError(
            f"{settings.named('ssl_certs_path')} and {settings.named('ssl_key_path')} can't be "
            f"used together: {_reason(error)}."
        ) from error
    if settings.ssl_mode is SSLMode.MTLS:
        _demand_certificates(context, settings)
    return context


def _check_mode(settings: Settings, paths: Mapping[str, Path | None]) -> None:
    """Nobody who names a certificate is served plain HTTP for a variable that is missing."""
    mode = settings.named("ssl_mode")
    missing = [name for name in _NEEDED[settings.ssl_mode] if paths[name] is None]
    if missing:
        variables = " and ".join(f"NIM_{name.upper()}" for name in missing)
        raise SettingError(f"{mode} needs {variables}: the path of a PEM file.")
    given = [name for name, path in paths.items() if path is not None]
    if given and "ssl_mode" not in settings.given:
        raise SettingError(
            f"{settings.named(given[0])} has no use without NIM_SSL_MODE: set that to TLS, MTLS or "
            "DISABLED."
        )


def _check_pem(settings: Settings, name: str, path: Path) -> None:
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise SettingError(f"{settings.named(name)} can't be read: {error.strerror}.") from error
    kind = _PEM[name]
    if kind not in text:
        raise SettingError(
            f"{settings.named(name)} can't be used: a PEM file is expected, with a line "
            f"-----BEGIN {kind}"
        )
    if name == "ssl_key_path" and "ENCRYPTED" in text:
        raise SettingError(
            f"{settings.named(name)} can't be used: the key has a password. `openssl pkey -in KEY "
            "-out PLAIN` writes it without."
        )


def _demand_certificates(context: ssl.SSLContext, settings: Settings) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(settings.ssl_ca_certs_path)
    except ssl.SSLError as error:
        sentence = f"{settings.named('ssl_ca_certs_path')} can't be used: {_reason(error)}."
        raise SettingError(sentence) from error


def _reason(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return f"OpenSSL says {error.reason or error.strerror}"
