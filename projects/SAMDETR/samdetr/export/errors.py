"""What can go wrong in an export, each in one sentence."""

from ..errors import SamdetrError


class ExportError(SamdetrError):
    """A model or a request that cannot be exported."""


class DisagreementError(ExportError):
    """An exported file that does not find what the model finds."""
