"""What must not be in the source: unsafe formats, shells, imports by a name from outside."""

from __future__ import annotations

import ast

UNSAFE_FORMATS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
UNSAFE_CALLS = {
    "eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell",
}  # fmt: skip
IMPORTS_BY_NAME = {
    "__init__.py": "the public names, from a table in the file",
    "dependencies/__init__.py": "the public names, from a table in the file",
    "runners/__init__.py": "the runners, from a table in the file",
    "runners/task.py": "the submitted function's own module, named by the parent process to its child",
    "runners/child.py": "the runner's class, named by the parent process to its child",
    "dependencies/around.py": "the dependencies of a worker that its configuration names",
    "sources/loading.py": "the modules and files that the configuration names",
    "runners/hamilton.py": "the modules of a pipeline, within its own child process",
    "runners/flowerpower.py": "the modules of a pipeline, within its own child process",
    "cli/main.py": "the commands, from a table in the file",
    "testing/__init__.py": "the names of the test kit, from a table in the file",
    "testing/harness.py": "what the tester's command line names",
    "testing/mould.py": "packages of its own, to have them imported before a fork",
}


def _calls(module):
    return [(node, ast.unparse(node.func)) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]


def test_no_unsafe_format_is_imported(modules):
    found = [
        module.where(node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.partition(".")[0] in UNSAFE_FORMATS
    ]
    assert found == []


def test_nothing_is_evaluated_and_no_shell_is_used(modules):
    found = [
        f"{module.where(node)}: {name}" for module in modules for node, name in _calls(module) if name in UNSAFE_CALLS
    ]
    found += [
        f"{module.where(node)}: shell="
        for module in modules
        for node, _ in _calls(module)
        for keyword in node.keywords
        if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert found == []


def test_no_allow_pickle(modules):
    found = [
        module.where(node)
        for module in modules
        for node, _ in _calls(module)
        for keyword in node.keywords
        if keyword.arg and "pickle" in keyword.arg and getattr(keyword.value, "value", None) is not False
    ]
    assert found == []


def test_modules_are_imported_by_name_in_known_places_only(modules):
    places = {
        module.name
        for module in modules
        for _, name in _calls(module)
        if name.rpartition(".")[2] in ("import_module", "__import__", "spec_from_file_location", "exec_module")
    }
    assert places <= set(IMPORTS_BY_NAME), places - set(IMPORTS_BY_NAME)


def test_nothing_is_called_manager_helper_or_utils(modules):
    assert [m.name for m in modules if any(w in m.name for w in ("util", "helper", "manager", "common"))] == []


def test_no_struct_is_decoded_by_a_type_that_is_read_at_that_moment(modules):
    """See `penstock.core.typed`: a decoder that is made at import is safe among threads."""
    found = [
        module.where(node)
        for module in modules
        for node, name in _calls(module)
        if name in ("msgspec.json.decode", "msgspec.msgpack.decode")
        for keyword in node.keywords
        if keyword.arg == "type" and not ast.unparse(keyword.value).startswith(("dict", "list", "tuple"))
        if not module.name.startswith("testing/conformance/")
    ]
    assert found == []
