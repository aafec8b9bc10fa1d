#!/usr/bin/env bash
# Create a virtual environment with PyTorch, Detectron2 and this project (editable).
#
#   tools/setup_env.sh [VENV]      VENV defaults to .venv; an existing one is updated
#
# Environment variables:
#   PYTHON      interpreter, 3.10 to 3.13         (default: the first of these on PATH)
#   TORCH       pip requirements for PyTorch      (default: the tested versions)
#   DETECTRON2  pip requirement for Detectron2, e.g. a checkout or
#               git+https://github.com/facebookresearch/detectron2, whose extension is compiled
#               (default: the Python files of sal-detectron2, a redistribution of Detectron2 of
#               April 2024. Detectron2 itself is not on the package index, and this project does
#               not use its compiled extension.)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-.venv}
torch=${TORCH:-torch==2.14.1 torchvision==0.29.1}

say() { echo "setup_env.sh: $*" >&2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
version() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true; }

python=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    if fits "$candidate"; then python=$candidate && break; fi
done
if [ -z "$python" ]; then
    say "${PYTHON:-python3} is not Python 3.10 to 3.13: set PYTHON= to one of these"
    exit 1
fi
if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    say "$venv exists and is not a virtual environment: choose another folder"
    exit 1
fi

say "$("$python" --version) in $venv"
clear=
if [ "$(version "$venv/bin/python")" != "$(version "$python")" ]; then clear=--clear; fi
"$python" -m venv $clear "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$venv/bin/python" -m pip "$@"; }
# Most of torch is never imported, so do not compile it to bytecode.
install() { pip install -q --no-compile -c "$root/requirements/constraints.txt" "$@"; }

install setuptools wheel
say "$torch"
# shellcheck disable=SC2086  # several requirements
install $torch

say "Detectron2 from ${DETECTRON2:-sal-detectron2}"
pip uninstall -q -y detectron2 sal-detectron2 2>/dev/null
if [ -n "${DETECTRON2:-}" ]; then
    install --no-build-isolation "$DETECTRON2" # its setup.py imports torch
else
    install -r "$root/requirements/detectron2.txt"
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # The only wheel is for CPython 3.10: its extension loads nowhere else, and its top-level
    # package `tools` would shadow this project's folder.
    pip install -q --upgrade --no-deps --python-version 3.10 --only-binary=:all: \
        --target "$site" sal-detectron2==0.7.2
    rm -rf "$site"/detectron2/_C.*.so "$site"/tools
fi

say "samdetr"
install --no-build-isolation -e "$root[mini,draw,test,dev]"
# For the tests; without its requirement opencv-python, which overwrites opencv-python-headless.
install --no-deps lvis
"$venv/bin/python" -W ignore - <<'END'
import detectron2, samdetr, torch

print(f"samdetr {samdetr.__version__}, torch {torch.__version__},", end=" ")
print(f"Detectron2 {detectron2.__version__} in {detectron2.__path__[0]}")
END
