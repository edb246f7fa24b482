"""The errors that esamp raises on purpose.

    EsampError
    ├── UsageError               a value that cannot be used (also a ValueError)
    ├── ModelError               a model that cannot be loaded or steered
    └── MissingDependencyError   an optional package is not installed (also an ImportError)

    InertWarning                 settings under which nothing would be steered

Each message names what was given, what is allowed and what to do.
"""


class EsampError(Exception):
    """Base of every error that esamp raises on purpose."""


class UsageError(EsampError, ValueError):
    """A value that cannot be used; nothing has been computed yet."""


class ModelError(EsampError):
    """A model that cannot be loaded, or whose states ESamp cannot read."""


class MissingDependencyError(EsampError, ImportError):
    """An optional package that is needed here and not installed."""


class InertWarning(UserWarning):
    """The settings are valid, but nothing would be steered."""
