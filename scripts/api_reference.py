"""Makes Docs/api.md from the docstrings of Python/cairn: `make api`. `api_reference.py --check` only says whether it is up to date.

The source is parsed and not imported, so that neither torch nor any framework need be there. Public are the names in a
module's `__all__`; without one, its classes and functions without an underscore. Methods of a class are its own and those of its
bases in this package; of a class that fits into a framework, those that the framework's own interface does not explain.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "Python" / "cairn"
OUT = ROOT / "Docs" / "api.md"
MODULES = ("cairn", "cairn.convert", "cairn.torch.dcp", "cairn.torch.checkpointing", "cairn.transformers", "cairn.accelerate",
           "cairn.lightning", "cairn.deepspeed", "cairn.torchtitan")  # fmt: skip
HEAD = """# Python API

Made from the docstrings by `make api`; [Python/README.md](../Python/README.md) is the introduction. Durations are seconds and sizes
bytes, unless a name says otherwise. A class that fits into a framework shows its own methods only.
"""
Definition = ast.ClassDef | ast.FunctionDef


class Module:
    """One file: what it defines, and where what it imports from this package is."""

    loaded: dict[str, Module] = {}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        path = PACKAGE.joinpath(*name.split(".")[1:])
        self.path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.tree = ast.parse(self.path.read_text())
        package = name if self.path.name == "__init__.py" else name.rpartition(".")[0]
        self.defined: dict[str, Definition] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.names: list[str] | None = None
        for node in self.tree.body:
            if isinstance(node, Definition):
                self.defined[node.name] = node
            elif isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = (f"{base}.{node.module}" if node.module else base, alias.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
                self.names = ast.literal_eval(node.value)

    @classmethod
    def of(cls, name: str) -> Module:
        return cls.loaded.setdefault(name, Module(name))

    def find(self, name: str) -> tuple[Module, Definition] | None:
        """Where ``name`` is defined in this package; nothing for a value, or for what others made."""
        if name in self.defined:
            return self, self.defined[name]
        if name in self.imported:
            return Module.of(self.imported[name][0]).find(self.imported[name][1])
        return None

    def public(self) -> Iterator[tuple[str, Module, Definition]]:
        names = self.names if self.names is not None else [name for name in self.defined if not name.startswith("_")]
        found = [(name, *at) for name in names if (at := self.find(name))]
        yield from sorted(found, key=lambda entry: (entry[1].path.stem == "errors", entry[0].lower()))  # errors last

    def fits_into_another(self, of: ast.ClassDef) -> bool:
        """Whether a base is of another package, and not Python's own."""
        for base in of.bases:
            name = ast.unparse(base).partition("[")[0]
            at = self.find(name)
            if at is None and name not in vars(builtins) and name not in ("Enum", "NamedTuple", "Protocol", "Generic"):
                return True
            if at is not None and isinstance(at[1], ast.ClassDef) and at[0].fits_into_another(at[1]):
                return True
        return False

    def methods(self, of: ast.ClassDef) -> dict[str, ast.FunctionDef]:
        """Public ones, a base's first."""
        found: dict[str, ast.FunctionDef] = {}
        for base in of.bases:
            if isinstance(base, ast.Name) and (at := self.find(base.id)) and isinstance(at[1], ast.ClassDef):
                found |= at[0].methods(at[1])
        own = (node for node in of.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))
        return found | {node.name: node for node in own if not is_decorated(node, "overload")}


def is_decorated(node: ast.FunctionDef, *names: str) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id in names for decorator in node.decorator_list)


def is_property(node: ast.FunctionDef) -> bool:
    return is_decorated(node, "property", "cached_property")


def fields(of: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """A dataclass's: declaration, and the docstring that follows it."""
    for node, after in zip(of.body, [*of.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield node.target.id, ast.unparse(node.annotation), str(said)


def signature(name: str, node: ast.FunctionDef, bound: bool) -> str:
    """In one line where it fits."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    parts = [parameter(argument, default) for argument, default in zip(plain, defaults, strict=True)]
    if bound and not is_decorated(node, "staticmethod"):
        parts = parts[1:]
    if given.vararg or given.kwonlyargs:
        parts.append("*" + (parameter(given.vararg, None) if given.vararg else ""))
    parts += [parameter(argument, default) for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    parts += ["**" + parameter(given.kwarg, None)] if given.kwarg else []
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and ast.unparse(node.returns) != "None" else ""
    line = f"{name}({', '.join(parts)}){returns}"
    return line if len(line) <= 110 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    equals = " = " if kind else "="
    return argument.arg + kind + (f"{equals}{ast.unparse(default)}" if default is not None else "")


def prose(docstring: str | None) -> Iterable[str]:
    """Markdown of a docstring: `Args:` and the like become lists."""
    if not docstring:
        return
    in_list = False
    for line in inspect.cleandoc(docstring).replace("``", "`").split("\n"):
        if re.fullmatch(r"(Args|Raises|Returns|Attributes|Yields):", line):
            yield from ("", f"**{line}**", "")
            in_list = True
        elif in_list and line and not line.startswith("    "):
            in_list = False
            yield from ("", line)
        elif in_list:
            item = re.match(r"    ([\w*][\w*, .]*?): (.*)", line)
            new = line and not line.startswith("     ")
            yield f"- `{item[1]}`: {item[2]}" if item else ("- " if new else "  ") + line.strip()
        else:
            yield line


def entry(name: str, module: Module, node: Definition) -> Iterable[str]:
    yield from (f"### {name}", "")
    if isinstance(node, ast.FunctionDef):
        yield from ("```python", signature(name, node, bound=False), "```", "", *prose(ast.get_docstring(node)), "")
        return
    constructor = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    yield from ("```python", f"class {name}" + (f"({bases})" if bases else ""))
    if constructor:
        yield signature(name, constructor, bound=True)
    yield from ("```", "", *prose(ast.get_docstring(node)), "")
    listed = list(fields(node))
    for field, kind, said in listed:
        yield f"- `{field}: {kind}`" + (f": {' '.join(said.split())}".replace("``", "`") if said else "")
    yield from ([""] if listed else [])
    for method, part in module.methods(node).items():
        if not ast.get_docstring(part) and module.fits_into_another(node):
            continue
        kind = ast.unparse(part.returns) if part.returns else "Any"
        shown = f"{method}: {kind}" if is_property(part) else signature(method, part, bound=True)
        yield from (f"#### {name}.{method}", "", "```python", shown, "```", "", *prose(ast.get_docstring(part)), "")


def without_docstring() -> list[str]:
    """Public names and their public methods that say nothing of themselves."""
    found = []
    for name in MODULES:
        for public, module, node in Module.of(name).public():
            if not ast.get_docstring(node):
                found.append(f"{name}.{public}")
            if isinstance(node, ast.ClassDef) and not module.fits_into_another(node):
                found += [f"{name}.{public}.{m}" for m, part in module.methods(node).items() if not ast.get_docstring(part)]
    return found


def reference() -> str:
    lines = [HEAD, ""]
    for name in MODULES:
        module = Module.of(name)
        lines += [f"## {name}", "", *prose(ast.get_docstring(module.tree)), ""]
        for public, where, node in module.public():
            lines += entry(public, where, node)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).rstrip() + "\n"


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if OUT.read_text() == reference() else "Docs/api.md is older than the docstrings: run `make api`")
    OUT.write_text(reference())


if __name__ == "__main__":
    main()
