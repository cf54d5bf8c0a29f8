"""`types/MODULE.py`: the enumerations, structs, unions and alternates of one schema module.

Order inside a file: enumerations first, so that any module may use them while it is itself half imported; then the
classes, bases before what inherits from them; then aliases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.qapi.generate.layout import Imports, Layout, UnionClass
from qemud.qapi.generate.writer import Output, docstring, quoted
from qemud.qapi.model import AlternateType, EnumType, Member, Module, ObjectType
from qemud.qapi.names import class_name, constant_name, module_name, python_name

if TYPE_CHECKING:
    from collections.abc import Iterable


def generate(layout: Layout, output: Output) -> None:
    """Write the type module of every schema module."""
    output.write("types/__init__.py", '"""Types by schema module; import the module you need."""\n')
    for module in layout.modules_with_types():
        _TypeModule(layout, module).write(output)


class _TypeModule:
    """One file."""

    def __init__(self, layout: Layout, module: Module) -> None:
        self.layout = layout
        self.module = module
        self.imports = Imports()
        self.class_variables = False

    def write(self, output: Output) -> None:
        definitions = list(self.layout.type_definitions(self.module.name))
        enums = [
            line for entity in definitions if isinstance(entity, EnumType) for line in self._enum(entity)
        ]
        classes: list[str] = []
        done: set[str] = set()
        for entity in definitions:
            if isinstance(entity, ObjectType):
                self._object(entity, done, classes)
        aliases = [
            line
            for entity in definitions
            if isinstance(entity, AlternateType)
            for line in self._alias(entity)
        ]
        output.python(
            f"types/{module_name(self.module.name)}.py",
            self.module.path,
            f"Types of the schema module `{self.module.name}`.",
            [*self._head(enums=bool(enums)), *enums, *self._top_imports(), *classes, *aliases],
        )

    def _head(self, *, enums: bool) -> list[str]:
        at_top = set(self.layout.imports_at_top(self.module.name))
        lazy = sorted(module_name(name) for name in self.imports.modules - at_top)
        typing = [
            name
            for name, wanted in (("TYPE_CHECKING", lazy), ("ClassVar", self.class_variables))
            if wanted or (name == "TYPE_CHECKING" and self._has_late_alias())
        ]
        lines = ["from __future__ import annotations", ""]
        if enums:
            lines.append("from enum import Enum")
        if typing:
            lines.append(f"from typing import {', '.join(typing)}")
        if enums or typing:
            lines.append("")
        names = sorted(self.imports.fields | ({"lazy_module"} if lazy else set()))
        if names:
            lines += ["from qemud.qapi.runtime.fields import (", *(f"    {name}," for name in names), ")"]
        if lazy:
            lines += ["", "if TYPE_CHECKING:"]
            lines += [f"    from . import {name} as _{name}" for name in lazy]
            lines.append("else:")
            lines += [f'    _{name} = lazy_module(f"{{__package__}}.{name}")' for name in lazy]
        return lines

    def _top_imports(self) -> list[str]:
        names = [module_name(name) for name in self.layout.imports_at_top(self.module.name)]
        return ["", "", *(f"from . import {name} as _{name}" for name in names)] if names else []

    def _enum(self, entity: EnumType) -> list[str]:
        lines = ["", "", f"class {class_name(entity.name)}(Enum):"]
        lines += docstring(entity.doc, "    ", f"{entity.name}.")
        return [
            *lines,
            "",
            *(f"    {constant_name(member.name)} = {quoted(member.name)}" for member in entity.members),
        ]

    def _object(self, entity: ObjectType, done: set[str], lines: list[str]) -> None:
        if entity.name in done:
            return
        done.add(entity.name)
        if entity.variants is not None:
            self._union(entity, lines)
            return
        base = self.layout.inherits.get(entity.name)
        members = entity.members
        parent = "Struct"
        if base is not None:
            if base.module == self.module.name:
                self._object(base, done, lines)
            parent = self.layout.reference(base, self.module.name, self.imports)
            members = entity.own_members
        else:
            self.imports.fields.add("Struct")
        lines += ["", "", self._class_line(class_name(entity.name), parent, members)]
        lines += docstring(entity.doc, "    ", f"{entity.name}.")
        if entity.version is not None:
            self.class_variables = True
            lines += ["", f"    __state_version__: ClassVar[int] = {entity.version}"]
        lines += self._members(members)

    def _union(self, entity: ObjectType, lines: list[str]) -> None:
        assert entity.variants is not None
        root = self.layout.unions[entity.name]
        self.class_variables = True
        self.imports.fields.add("Struct")
        tag = entity.variants.tag
        lines += ["", "", self._class_line(root.name, "Struct", root.members)]
        lines += docstring(entity.doc, "    ", f"{entity.name}.")
        kind = self.layout.reference(tag.type, self.module.name, self.imports)
        lines += ["", f"    {python_name(tag.name)}: ClassVar[{kind}]"]
        lines += self._members(root.members)
        for child in root.children:
            self._branch(child, entity, (), lines)

    def _branch(self, node: UnionClass, root: ObjectType, path: tuple[str, ...], lines: list[str]) -> None:
        assert node.parent is not None
        assert node.tag is not None
        assert node.tag_value is not None
        assert root.variants is not None
        path = (*path, node.tag_value)
        inner = (
            node.union.variants.tag if node.union is not None and node.union.variants is not None else None
        )
        renamed = [*node.members, *([inner] if inner is not None else [])]
        outer = f"tag_field={quoted(root.variants.tag.name)}, tag={quoted(path[0])}"
        lines += ["", "", self._class_line(node.name, node.parent, renamed, outer)]
        lines.append(f'    """`{root.name}` of kind `{" / ".join(path)}`."""')
        kind = self.layout.reference(node.tag.type, self.module.name, self.imports)
        name = python_name(node.tag.name)
        value = f"{kind}.{constant_name(node.tag_value)}"
        if node.nested:
            self.imports.fields.add("lazy_default")
            lines += ["", f"    {name}: {kind} = lazy_default(lambda: {value})"]
        else:
            lines += ["", f"    {name}: ClassVar[{kind}] = {value}"]
        if inner is not None:
            inner_kind = self.layout.reference(inner.type, self.module.name, self.imports)
            lines.append(f"    {python_name(inner.name)}: {inner_kind}")
        lines += self._members(node.members)
        for child in node.children:
            self._branch(child, root, path, lines)

    @staticmethod
    def _class_line(name: str, parent: str, members: Iterable[Member], extra: str = "") -> str:
        arguments = [parent, "kw_only=True"]
        if extra:
            arguments.append(extra)
        renames = [
            f"{quoted(python_name(member.name))}: {quoted(member.name)}"
            for member in members
            if python_name(member.name) != member.name
        ]
        if renames:
            arguments.append(f"rename={{{', '.join(renames)}}}")
        return f"class {name}({', '.join(arguments)}):"

    def _members(self, members: Iterable[Member]) -> list[str]:
        lines = [self._member(member) for member in members]
        return ["", *lines] if lines else []

    def _member(self, member: Member) -> str:
        module = self.module.name
        annotation = self.layout.member_annotation(member, module, self.imports)
        declaration = f"    {python_name(member.name)}: {annotation}"
        if member.has_default:
            literal, late = self.layout.literal(member.type, member.default, module, self.imports)
            helper = "lazy_default" if late else "default"
            self.imports.fields.add(helper)
            return f"{declaration} = {helper}({'lambda: ' if late else ''}{literal})"
        if not member.optional:
            return declaration
        if annotation.endswith("UnsetType"):
            self.imports.fields.add("UNSET")
            return f"{declaration} = UNSET"
        return f"{declaration} = None"

    def _alias(self, entity: AlternateType) -> list[str]:
        self.imports.fields.add("TypeAlias")
        imports = Imports()
        annotation = self.layout.annotation(entity, self.module.name, imports)
        self.imports.fields |= imports.fields
        self.imports.modules |= imports.modules
        lines = ["", "", f"{class_name(entity.name)}: TypeAlias = {annotation}"]
        lines += docstring(entity.doc, "", f"{entity.name}.")
        if imports.modules:
            # Evaluating it would import other modules while this one is half imported.
            return ["", "", "if TYPE_CHECKING:", *(f"    {line}" if line else line for line in lines[2:])]
        return lines

    def _has_late_alias(self) -> bool:
        for entity in self.layout.type_definitions(self.module.name):
            if isinstance(entity, AlternateType):
                imports = Imports()
                self.layout.annotation(entity, self.module.name, imports)
                if imports.modules:
                    return True
        return False
