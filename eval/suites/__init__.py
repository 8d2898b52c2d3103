"""Named sets of problems to evaluate on: what they are, where they come from, how they are judged.

suite.py says what a suite is, catalogue.py lists those with a name, load.py opens any of them.
"""

from .load import load_suite as load_suite
from .load import open_suite as open_suite
from .load import suite_names as suite_names
