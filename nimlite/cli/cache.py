"""`nimlite download-to-cache`."""

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.settings.fields import Group


@with_settings(Group.MODEL)
def download_to_cache(session: Session, as_json: JsonOption = False) -> None:
    """Fetch the model's files into the cache, so that a later start needs no network."""
    artifact = session.manifest().artifact
    path = session.store.fetch(artifact, session.progress)
    session.write({"uri": artifact.uri, "path": str(path)}, str(path), as_json=as_json)
