"""`make update`: apply a newer version of the template to this project.

`record`: the owner of each file, and the template version a project was made from. `template`:
fetches the newer template and generates the project from it. `plan`: computes the changes. `write`:
applies them.
"""
