"""Writes the generated parts of docs/reference.md from the docstrings; ``--check`` writes nothing.

The page is Markdown that every viewer shows.  What stands between ``<!-- generated: NAME -->`` and
``<!-- end -->`` comes from the source of NAME: its signature, its docstring, a table of its fields, its
members.  After NAME stand the members to show, else all public ones.  The rest of the page, such as the
examples, is written by hand.  Sources are parsed, not imported, so the page is the same on every Python.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from reference_fields import FIELDS

DOCS = Path(__file__).parent
PAGE = DOCS / "reference.md"
SOURCE = DOCS.parent / "src"
PUBLIC = (
    "procession",
    "procession.authoring",
    "procession.commands",
    "procession.remote",
    "procession.remote.relay",
    "procession.testing",
)
"""Modules all of whose names the page lists."""

PART = re.compile(r"(<!-- generated: (\S+)( [\w ]+)? -->\n).*?(<!-- end -->)", re.DOTALL)
SECTIONS = ("Args", "Attributes", "Returns", "Raises")
WIDTH = 88  # of a signature on one line


class Found(NamedTuple):
    """A definition, and the module that it is in."""

    node: ast.stmt
    module: str
    documentation: str


class Field(NamedTuple):
    """One row of a table."""

    name: str
    kind: str
    default: str
    meaning: str


def main(arguments: list[str]) -> int:
    """Write the page, or only say whether it is up to date."""
    before = PAGE.read_text(encoding="utf-8")
    after = PART.sub(write_part, before)
    problems = [f"missing: {name}" for name in list_public() if f"generated: {name}" not in after]
    if "--check" in arguments:
        stale = "stale: run python docs/generate_reference.py"
        problems += [stale] if before != after else []
    else:
        PAGE.write_text(after, encoding="utf-8")
    for problem in problems:
        print(f"{PAGE.name}: {problem}", file=sys.stderr)
    return len(problems) > 0


def list_public() -> Iterator[str]:
    """Return the full names of all that is public."""
    for module in PUBLIC:
        for name in sorted(read_all(module)):
            if name != "__version__":
                yield f"{module}.{name}"


def write_part(match: re.Match[str]) -> str:
    """Return a generated part anew."""
    begin, name, members, end = match.groups()
    return f"{begin}\n{describe(name, (members or '').split())}\n\n{end}"


def describe(name: str, members: list[str]) -> str:
    """Return what the page says of one public name."""
    module, _, own = name.rpartition(".")
    found = find(module, own)
    title = f"### {name.removeprefix('procession.')}"
    if isinstance(found.node, ast.ClassDef):
        parts = [title, *describe_class(found, found.node, members)]
    elif isinstance(found.node, ast.FunctionDef):
        parts = [title, fence(sign(own, found.node)), *write_docstring(found.documentation)]
    else:
        text = fence(f"{own} = {code(value_of(found.node))}")
        parts = [title, text, *write_docstring(found.documentation)]
    return "\n\n".join(parts)


def describe_class(found: Found, node: ast.ClassDef, members: list[str]) -> Iterator[str]:
    """Return the constructor of a class, its docstring, its fields and its members."""
    bases = [ast.unparse(base) for base in node.bases]
    listed = list(list_fields(found, node))
    init = find_init(found)
    if bases == ["NamedTuple"]:
        yield fence(fold(node.name, [join(field) for field in listed], ""))
    elif init is not None:
        yield fence(sign(node.name, init))
    shown = [base for base in bases if hasattr(builtins, base) or base in read_all("procession")]
    yield from [f"Bases: {mark(', '.join(shown))}."] if shown else []
    hidden = ("Attributes",) if listed else ()
    yield from write_docstring(found.documentation, hidden)
    if listed:
        yield tabulate(listed)
    for member in members or list(list_members(node)):
        yield from describe_member(found, node, member)


def describe_member(found: Found, node: ast.ClassDef, name: str) -> Iterator[str]:
    """Return what the page says of a method, a property or a class variable."""
    body, documentation = find_member(found, node, name)
    title = f"#### {node.name}.{name}"
    if isinstance(body, ast.FunctionDef):
        decorators = [ast.unparse(each) for each in body.decorator_list]
        if "property" in decorators:
            returned = f": {ast.unparse(body.returns)}" if body.returns else ""
            yield from (title, fence(f"{name}{returned}"))
        elif "pytest.fixture" in decorators:
            returned = f" -> {ast.unparse(body.returns)}" if body.returns else ""
            yield from (title, fence(f"@pytest.fixture\ndef {name}(self){returned}"))
        else:
            yield from (title, fence(sign(name, body)))
    else:
        yield from (title, fence(code(body)))
    yield from write_docstring(documentation)


def find(module: str, name: str) -> Found:
    """Return the definition of a name in a module, or where the module has it from."""
    body = parse(module).body
    for index, node in enumerate(body):
        if name in names_of(node):
            return Found(node, module, documentation_of(node, body[index + 1 : index + 2]))
    for each in ast.walk(parse(module)):
        imports = each.names if isinstance(each, ast.ImportFrom) and each.module else []
        for alias in imports:
            if name == (alias.asname or alias.name):
                return find(str(cast("ast.ImportFrom", each).module), alias.name)
    raise LookupError(f"{module} has no {name}")


def find_member(found: Found, node: ast.ClassDef, name: str) -> tuple[ast.stmt, str]:
    """Return a member of a class or of one of its bases, and its documentation."""
    for index, each in enumerate(node.body):
        if name in names_of(each):
            return each, documentation_of(each, node.body[index + 1 : index + 2])
    for base in node.bases:
        above = find(found.module, ast.unparse(base).partition("[")[0])
        if isinstance(above.node, ast.ClassDef):
            return find_member(above, above.node, name)
    raise LookupError(f"{node.name} has no {name}")


def find_init(found: Found) -> ast.FunctionDef | None:
    """Return the constructor of a class, which may be that of a base of ours."""
    node = cast("ast.ClassDef", found.node)
    if any(ast.unparse(base) in ("Protocol", "TypedDict") for base in node.bases):
        return None
    try:
        body, _ = find_member(found, node, "__init__")
    except LookupError:
        return None
    return body if isinstance(body, ast.FunctionDef) else None


@functools.cache
def parse(module: str) -> ast.Module:
    """Return the syntax tree of a module of ours."""
    path = SOURCE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        raise LookupError(f"{module} is not ours")
    return ast.parse(path.read_text(encoding="utf-8"))


def read_all(module: str) -> list[str]:
    """Return the ``__all__`` of a module."""
    for node in parse(module).body:
        if "__all__" in names_of(node):
            names: list[str] = ast.literal_eval(value_of(node))
            return names
    return []


def names_of(node: ast.stmt) -> list[str]:
    """Return what a statement defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]


def value_of(node: ast.stmt) -> ast.expr:
    """Return what an assignment assigns."""
    return cast("ast.expr", cast("ast.Assign | ast.AnnAssign", node).value)


def documentation_of(node: ast.stmt, following: list[ast.stmt]) -> str:
    """Return the docstring of a definition: its own, or the string after an assignment."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return ast.get_docstring(node) or ""
    for each in following:
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            return inspect.cleandoc(str(each.value.value))
    return ""


def list_members(node: ast.ClassDef) -> Iterator[str]:
    """Return the public methods and properties of a class."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield each.name


def list_fields(found: Found, node: ast.ClassDef) -> Iterator[Field]:
    """Return the fields of a class that holds values, the attributes of others."""
    written = dict(split_items(split_docstring(found.documentation).get("Attributes", "")))
    init = next((each for each in node.body if "__init__" in names_of(each)), None)
    for index, each in enumerate(node.body):
        if isinstance(each, ast.AnnAssign) and each.simple:
            name = names_of(each)[0]
            if name.startswith("_") or "ClassVar" in ast.unparse(each.annotation):
                continue
            default = code(each.value) if each.value else ""
            said = documentation_of(each, node.body[index + 1 : index + 2]) or written.get(name)
            yield Field(name, type_of(each.annotation), default, said or told(node.name, name))
    if isinstance(init, ast.FunctionDef) and (written or node.name in FIELDS):
        yield from list_attributes(node.name, init, written)


def list_attributes(owner: str, init: ast.FunctionDef, written: dict[str, str]) -> Iterator[Field]:
    """Return the public attributes that a constructor sets."""
    taken = [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs]
    kinds = {each.arg: each.annotation for each in taken}
    found = [each for each in ast.walk(init) if isinstance(each, (ast.Assign, ast.AnnAssign))]
    for each in sorted(found, key=lambda each: each.lineno):
        target = each.target if isinstance(each, ast.AnnAssign) else each.targets[0]
        if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
            kind = each.annotation if isinstance(each, ast.AnnAssign) else kinds.get(target.attr)
            said = written.get(target.attr) or told(owner, target.attr)
            yield Field(target.attr, type_of(kind) if kind else "", "", said)


def told(owner: str, name: str) -> str:
    """Return the meaning of a field that the source does not document."""
    meaning = FIELDS.get(owner, {}).get(name)
    if meaning is None:
        raise LookupError(f"{owner}.{name} is documented nowhere")
    return meaning


def type_of(node: ast.expr) -> str:
    """Return an annotation as text."""
    return (
        node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else code(node)
    )


def code(node: ast.AST) -> str:
    """Return source, with the quotes that ours has."""
    text = ast.unparse(node)
    return text if '"' in text else text.replace("'", '"')


def join(field: Field) -> str:
    """Return a field as an argument of its constructor."""
    return f"{field.name}: {field.kind}" + (f" = {field.default}" if field.default else "")


def sign(name: str, node: ast.FunctionDef) -> str:
    """Return a call's signature, without ``self``."""
    given = node.args
    every = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(every) - len(given.defaults)) + list(given.defaults)
    arguments = [write_argument(*pair) for pair in zip(every, defaults, strict=True)]
    if every and every[0].arg in ("self", "cls"):
        del arguments[0]
    if given.vararg or given.kwonlyargs:
        arguments.append(f"*{write_argument(given.vararg, None)}" if given.vararg else "*")
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    arguments += [write_argument(*pair) for pair in pairs]
    if given.kwarg:
        arguments.append(f"**{write_argument(given.kwarg, None)}")
    returned = f" -> {type_of(node.returns)}" if node.returns else ""
    shown = [
        f"@{each}\n" for each in map(ast.unparse, node.decorator_list) if each == "contextmanager"
    ]
    return "".join(shown) + fold(name, arguments, "" if node.name == "__init__" else returned)


def write_argument(argument: ast.arg, default: ast.expr | None) -> str:
    """Return one argument of a signature."""
    text = argument.arg + (f": {type_of(argument.annotation)}" if argument.annotation else "")
    return text if default is None else f"{text} = {code(default)}"


def fold(name: str, arguments: list[str], returned: str) -> str:
    """Return a signature on one line, or with one line for each argument."""
    line = f"{name}({', '.join(arguments)}){returned}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {each}," for each in arguments), f"){returned}"])


def fence(text: str) -> str:
    """Return a block that shows code."""
    return f"```text\n{text}\n```"


def tabulate(fields: list[Field]) -> str:
    """Return fields as a table, without a column that is empty throughout."""
    has_default = any(field.default for field in fields)
    head = ["name", "type", *(["default"] if has_default else []), "meaning"]
    rows = [head, ["---"] * len(head)]
    for field in fields:
        default = [f"`{field.default}`" if field.default else ""] if has_default else []
        kind = f"`{field.kind}`" if field.kind else ""
        row = [f"`{field.name}`", kind, *default, " ".join(field.meaning.split())]
        rows.append([cell.replace("|", "\\|") for cell in row])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def split_docstring(text: str) -> dict[str, str]:
    """Return the sections of a docstring by their titles; what precedes and follows them has none."""
    sections = {"": ""}
    title = ""
    for line in text.splitlines():
        name = line.rstrip().removesuffix(":")
        if name in SECTIONS and line.rstrip().endswith(":"):
            title = name
            sections[title] = ""
            continue
        if title and line and not line.startswith(" "):
            title = ""
            sections[title] += "\n"
        sections[title] += f"{line}\n"
    return sections


def split_items(section: str) -> Iterator[tuple[str, str]]:
    """Return the names of a section, each with its text."""
    for item in re.split(r"\n(?=\S)", textwrap.dedent(section)):
        name, colon, meaning = item.partition(": ")
        if colon:
            yield name, " ".join(meaning.split())


def write_docstring(text: str, hidden: tuple[str, ...] = ()) -> Iterator[str]:
    """Return a docstring as Markdown."""
    sections = split_docstring(text)
    yield re.sub(r"\n{3,}", "\n\n", sections.pop("").strip())
    for title, section in sections.items():
        if title in hidden:
            continue
        if title == "Returns":
            yield f"Returns: {' '.join(section.split())}"
        else:
            names = {"Args": "Arguments"}.get(title, title)
            items = [f"- {mark(name)}: {meaning}" for name, meaning in split_items(section)]
            yield "\n".join([f"{names}:", "", *items])


def mark(names: str) -> str:
    """Return names, with commas between them, as code."""
    return ", ".join(f"`{name}`" for name in names.split(", "))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
