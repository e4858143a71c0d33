"""What a message format of your own is made of, for services that do not speak NuroPb.

A format is a module or an object with the five functions of `Codec`; give it to `connect_mesh`.
"""

from bff.mesh.codec import Codec as Codec
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Context, Delivery, Kind, MalformedMessage, Message, Reply

__all__ = [
    "Codec",
    "Context",
    "Delivery",
    "Kind",
    "MalformedMessage",
    "MeshEvent",
    "Message",
    "Reply",
]
