"""What of a text anybody may read: an address can hold a password or a signature."""

import re

_LOGIN = re.compile(r"(\w://)[^/?#\s]*@")
_QUERY = re.compile(r"(https?://[^?#\s]*)[?#]\S*", re.IGNORECASE)


def public(text: str) -> str:
    """`text` without the user and password of any address in it, and of one for HTTP without what
    follows the path."""
    return _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))
