"""Every type of the schema under one roof, for annotations and arguments.

from qemud.client.types import ChardevBackendNull, ShutdownCause
"""

from qemud._generated.client.types import *  # noqa: F403 - that is the page's purpose
