"""What SECURITY.md promises of names and of what may run code at all."""

import ast
from pathlib import Path

from samdetr.errors import sentence

ROOT = Path(__file__).parents[1]


# Names


def test_a_name_cannot_steer_the_terminal():
    text = sentence(ValueError("class '\x1b[2J\u202efdp.exe\x07é字' is unknown"))
    assert text == r"class '\x1b[2J\u202efdp.exe\x07é字' is unknown"


# What runs code


USES = {
    "eval": set(),
    "exec": set(),
    "__import__": set(),
    "os.system": set(),
    "os.popen": set(),
    "tempfile.mktemp": set(),
    "urlopen": set(),
    "urlretrieve": set(),
    "extractall": set(),
    "unsafe_load": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "np.load": set(),
    "torch.hub.load": set(),
    "torch.jit.load": {"samdetr/export/formats.py"},  # of what it has just written
    "yaml.load": {"samdetr/engine/trust.py"},  # by its own safe loader
    "torch.load": {
        "samdetr/checkpoint.py",
        "samdetr/data/mini/pretraining.py",
    },
    "LazyConfig.load": {
        "samdetr/engine/config.py",  # .py
        "samdetr/data/command_line.py",  # .py
        "samdetr/engine/trust.py",  # trusted
    },
    "subprocess.run": {"samdetr/convergence/study.py", "tools/mutation_check.py"},
    "subprocess.Popen": set(),
    "import_module": {
        "samdetr/__init__.py",
        "samdetr/benchmark/cases.py",  # --against MODULE:FUNCTION
        "samdetr/export/formats.py",
        "samdetr/requirements.py",
        "tools/baselines/peers.py",
    },
}
SOURCES = [
    *(ROOT / "projects/SAMDETR").rglob("*.py"),
    *(ROOT / "tools").rglob("*.py"),
    ROOT / "train_net.py",
    ROOT / "demo.py",
]


def calls(file):
    tree = ast.parse(file.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_what_can_run_code_is_called_where_it_is_known_to_be():
    found = {name: set() for name in USES}
    for file in SOURCES:
        place = str(file.relative_to(ROOT)).removeprefix("projects/SAMDETR/")
        for call in calls(file):
            name = ast.unparse(call.func)
            for use in USES:
                exact = "." in use or use in ("eval", "exec", "__import__")
                if name == use or name.endswith(f".{use}") and (not exact or "." in use):
                    found[use].add(place)
    assert found == USES


def test_calls_that_may_be_unsafe_say_how_they_are_safe():
    checked = 0
    for file in SOURCES:
        for call in calls(file):
            name = ast.unparse(call.func)
            options = {x.arg: ast.unparse(x.value) for x in call.keywords}
            assert options.get("shell", "False") == "False", file
            if name == "torch.load":
                assert options["weights_only"] == "True", file
                checked += 1
            if name == "yaml.load":
                assert ast.unparse(call.args[1]) == "ConfigLoader", file
                checked += 1
    assert checked >= 4
