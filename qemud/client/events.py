"""The class of every event: `DEVICE_DELETED` is a `DeviceDeletedEvent`, with the members of its data as attributes."""

from qemud._generated.client.events import *  # noqa: F403 - that is the page's purpose
