"""Where the files lie that come with the package but are no code: profiles, recorded machines,
kernels built beforehand."""

import sysconfig
from pathlib import Path


def data_directory(name: str) -> Path:
    """The checkout's directory of that name where there is one, else the installed copy."""
    checkout = Path(__file__).parents[1] / name
    if checkout.is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "nimlite" / name
