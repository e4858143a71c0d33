"""`make update`: bring a newer version of the template into this project.

`record` holds who owns which file and what a project remembers of its template, `template` fetches
and bakes the newer one, `plan` computes what changes, `write` does it.
"""
