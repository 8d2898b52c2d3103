"""r1kit: distil large reasoning models into small ones, and train and judge the small ones."""

__version__ = "0.1.0"


class KitError(Exception):
    """The base of every error that a user can fix.

    The message says where, what was found, and what would do. The command line prints it without a
    traceback and exits with `exit_code`.
    """

    exit_code = 2
