"""The texts of new files, from the templates in `templates/`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Final

_FOLDER: Final = files("bff.scaffold") / "templates"


@dataclass(frozen=True, slots=True)
class Feature:
    """What was asked for. Names are identifiers."""

    name: str
    """In the plural, as the name of a module: `invoices`."""
    exposed: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    table: bool = False

    @property
    def one(self) -> str:
        """The singular: `invoice`."""
        if self.name.endswith("ies"):
            return f"{self.name[:-3]}y"
        is_plural = self.name.endswith("s") and not self.name.endswith("ss")
        return self.name[:-1] if is_plural and len(self.name) > 1 else self.name

    @property
    def table_class(self) -> str:
        """The class of the table, which is not the name of the feature's model."""
        return f"{_camel(self.one)}Row"

    @property
    def is_empty(self) -> bool:
        """Whether it offers nothing."""
        return not (self.exposed or self.methods or self.topics or self.events)

    def names(self) -> dict[str, str]:
        """The placeholders of every template."""
        return {
            "feature": self.name,
            "one": self.one,
            "Model": _camel(self.one),
            "Table": self.table_class,
            "table": self.one,
        }

    def call(self, name: str) -> dict[str, str]:
        """The placeholders of the templates of one method, exposed or answered by this BFF."""
        lists = name == "list"
        model = _camel(self.one)
        function = f"{name}_{self.name if lists else self.one}"
        return self.names() | {
            "name": name,
            "function": function,
            "Params": _camel(function),
            "Result": f"list[{model}]" if lists else model,
            "arguments": "" if lists else f', {self.one}_id="1"',
            "answer": "[ITEM]" if lists else "ITEM",
        }


def render(template: str, names: dict[str, str]) -> str:
    """A template with its placeholders filled in."""
    text = (_FOLDER / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(names)


def module(feature: Feature) -> str:
    """The text of `app/routes/<feature>.py`."""
    calls = [feature.call(name) for name in (*feature.exposed, *feature.methods)]
    from_bff = ["RealtimeRouter"]
    from_bff += ["Caller"] if feature.methods else []
    from_bff += ["MeshEvent", "Messenger"] if feature.events else []
    imports = f"from pydantic import BaseModel\n\nfrom bff import {', '.join(sorted(from_bff))}"
    parts = [render("head", feature.names() | {"imports": imports})]
    parts += [render("no_params" if call["name"] == "list" else "params", call) for call in calls]
    if feature.exposed:
        parts.append("\n\n")
        parts += [render("expose", feature.call(name)) for name in feature.exposed]
    for name in feature.methods:
        template = "method_without_params" if name == "list" else "method"
        parts.append(render(template, feature.call(name)))
    for name in feature.topics:
        parts.append(render("topic", _topic(feature, name)))
    for name in feature.events:
        declared = {"name": name, "declared": f"{feature.one}_{name}"}
        parts.append(render("event", feature.names() | declared))
        parts += [render("event_to_topic", _topic(feature, topic)) for topic in feature.topics]
    return "".join(parts)


def test_module(feature: Feature) -> str:
    """The text of `tests/test_<feature>.py`."""
    imports = []
    if feature.exposed:
        imports.append("from typing import Any\n")
    if feature.table:
        imports += [
            "from sqlmodel import select\n",
            f"from app.tables import {feature.table_class}",
        ]
    imports += ["from bff import Service"] if feature.exposed else []
    imports.append("from bff.testing import RunningBff")
    head = "test_head" if not feature.is_empty else "test_table_head"
    parts = [render(head, feature.names() | {"imports": "\n".join(imports)})]
    if feature.exposed:
        parts.append(render("test_service", feature.names()))
        parts += [render("test_service_method", feature.call(name)) for name in feature.exposed]
    parts += [render("test_expose", feature.call(name)) for name in feature.exposed]
    parts += [render("test_method", feature.call(name)) for name in feature.methods]
    parts += [render("test_topic", _topic(feature, name)) for name in feature.topics]
    for name in feature.events:
        parts.append(render("test_event", feature.names() | {"name": name}))
        parts += [
            render("test_event_to_topic", _topic(feature, topic) | {"event": name})
            for topic in feature.topics
        ]
    if feature.table:
        parts.append(render("test_table", feature.names()))
    return "".join(parts)


def _topic(feature: Feature, name: str) -> dict[str, str]:
    return feature.names() | {"name": name, "declared": f"{name}_{feature.one}"}


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
