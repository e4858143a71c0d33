"""A backend-for-frontend: browsers on sockets, services on a mesh, Redis in between."""
