"""What an endpoint may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.auth.dependencies import CallerDep
from app.auth.identity import mesh_context
from app.cluster.messenger import Messenger
from app.mesh.client import MeshClient
from app.realtime.dispatcher import Dispatcher


def _messenger(connection: HTTPConnection) -> Messenger:
    messenger: Messenger = connection.app.state.messenger
    return messenger


def _dispatcher(connection: HTTPConnection) -> Dispatcher:
    dispatcher: Dispatcher = connection.app.state.dispatcher
    return dispatcher


def _mesh(connection: HTTPConnection, caller: CallerDep) -> MeshClient:
    mesh: MeshClient = connection.app.state.mesh
    return mesh.with_context(mesh_context(caller, connection.app.state.settings))


MessengerDep = Annotated[Messenger, Depends(_messenger)]
DispatcherDep = Annotated[Dispatcher, Depends(_dispatcher)]
MeshDep = Annotated[MeshClient, Depends(_mesh)]
"""The mesh, called in the caller's name."""

__all__ = ["CallerDep", "DispatcherDep", "MeshDep", "MessengerDep"]
