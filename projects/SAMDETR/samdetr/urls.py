"""URLs of files: what is fetched stays in the cache. Importing this makes Detectron2 keep to it.

iopath's handler makes a path in the cache of what a URL says, `..` with it.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote

from detectron2.checkpoint.catalog import ModelCatalog, ModelCatalogHandler
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import HTTPURLHandler

from .errors import SamdetrError

LONGEST = 4096  # characters


class UrlError(SamdetrError):
    """A URL that cannot be one of a file."""


def check_url(url: str) -> None:
    """Find what would lead out of the cache, or be nowhere in it.

    Raises:
        UrlError: if a part of the path is empty, `.` or `..`, however it is written, or if there
            are characters that a URL does not have.
    """
    if len(url) > LONGEST:
        raise UrlError(f"{url[:80]}...: expected a URL of at most {LONGEST} characters")
    plain = unquote(url)
    while plain != (plain := unquote(plain)):
        pass
    parts = re.split(r"[/\\]", re.split(r"[?#;]", plain.partition("://")[2])[0])
    # The name in the cache is what comes after the last slash, be it in the query.
    everything = {*re.split(r"[/\\?#;]", plain)}
    if len(parts) < 2 or not all(parts) or url.endswith("/") or {".", ".."} & everything:
        raise UrlError(f"{url}: expected HOST/FILE or HOST/FOLDER/FILE, no part of it '' or '..'")
    # urllib drops some of these, so that what is no `..` here becomes one.
    if not url.isprintable() or " " in url or not plain.isprintable():
        raise UrlError(f"{url!r}: expected a URL without spaces and control characters")


class SafeUrlHandler(HTTPURLHandler):
    """iopath's, for URLs that `check_url` lets pass."""

    def _get_local_path(self, path: str, *args: Any, **kwargs: Any) -> str:
        """Fetch a file, if it is not in the cache.

        Raises:
            UrlError: if the URL is none.
            OSError: if it cannot be fetched.
        """
        check_url(path)
        try:
            local: str = super()._get_local_path(path, *args, **kwargs)
        except (ValueError, HTTPException) as error:
            if isinstance(error, OSError):
                raise
            raise UrlError(f"{path} cannot be fetched: {error}") from error
        return local


class SafeCatalogHandler(ModelCatalogHandler):
    """Detectron2's, for names of its catalogue."""

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        """Fetch a file. Raises UrlError if the catalogue does not have it, and as for a URL."""
        try:
            ModelCatalog.get(path.removeprefix(self.PREFIX))
        except (RuntimeError, KeyError) as error:
            raise UrlError(f"{path} is not in Detectron2's catalogue") from error
        local: str = super()._get_local_path(path, **kwargs)
        return local


PathManager.register_handler(SafeUrlHandler())
PathManager.register_handler(SafeCatalogHandler())
