"""For message formats other than NuroPb's, and for models of what NuroPb services send.

A message format is a module or an object with the five functions of `Codec`. Pass it to
`connect_mesh`. `Date`, `Time` and `DateTime` are types for Pydantic models.
"""

from bff.mesh.codec import Codec as Codec
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Context, Delivery, Kind, MalformedMessage, Message, Reply
from bff.mesh.values import Date, DateTime, Time

__all__ = [
    "Codec",
    "Context",
    "Date",
    "DateTime",
    "Delivery",
    "Kind",
    "MalformedMessage",
    "MeshEvent",
    "Message",
    "Reply",
    "Time",
]
