#!/usr/bin/env bash
# Make a virtual environment with PyTorch, Detectron2 and this project, editable.
#
#   tools/setup_env.sh [VENV]      VENV is .venv by default; one that is there is brought up to date
#
# Chosen by environment variables:
#   PYTHON      the interpreter, 3.10 to 3.12       (default: the first of these that is found)
#   TORCH       requirements of pip for PyTorch     (default: the versions tested)
#   DETECTRON2  what pip installs as Detectron2, such as
#               git+https://github.com/facebookresearch/detectron2 or a checkout; its extension
#               is compiled. (default: the Python part of sal-detectron2, a copy of Detectron2 of
#               April 2024; Detectron2's authors publish no package, and this project needs none of
#               the extension)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${1:-.venv}
torch=${TORCH:-torch==2.14.1 torchvision==0.29.1}

say() { echo "setup_env.sh: $*" >&2; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
version() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null || true; }

python=
for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.10}; do
    if fits "$candidate"; then python=$candidate && break; fi
done
if [ -z "$python" ]; then
    say "${PYTHON:-python3} is not Python 3.10, 3.11 or 3.12: name one by PYTHON="
    exit 1
fi
if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    say "$venv is there and is no virtual environment: name another folder"
    exit 1
fi

say "$("$python" --version) in $venv"
clear=
if [ "$(version "$venv/bin/python")" != "$(version "$python")" ]; then clear=--clear; fi
"$python" -m venv $clear "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { "$venv/bin/python" -m pip "$@"; }
# Bytecode is left to the first import: most of torch is never imported.
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
    # The only wheel is for CPython 3.10. Its extension fits no other, and its package `tools`
    # would hide this project's folder.
    pip install -q --upgrade --no-deps --python-version 3.10 --only-binary=:all: \
        --target "$site" sal-detectron2==0.7.2
    rm -rf "$site"/detectron2/_C.*.so "$site"/tools
fi

say "samdetr"
install --no-build-isolation -e "$root[mini,draw,test,dev]"
# For its tests. Its requirement opencv-python would overwrite opencv-python-headless.
install --no-deps lvis
"$venv/bin/python" -W ignore - <<'END'
import detectron2, samdetr, torch

print(f"samdetr {samdetr.__version__}, torch {torch.__version__},", end=" ")
print(f"Detectron2 {detectron2.__version__} in {detectron2.__path__[0]}")
END
