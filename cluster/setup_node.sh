#!/bin/bash
# Prepare a node: the project's environment in VENV, pinned as on every other machine. Run again, it only updates.
#     setup_node.sh PROJECT VENV
set -euo pipefail
project=$1 venv=$2

newest_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

python=$(newest_python)
if [ -z "$python" ]; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq python3.11 python3.11-venv
    python=$(newest_python)
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --constraint "$project/constraints.txt" "$project"
