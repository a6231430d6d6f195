#!/bin/bash
# Prepare a node: the project's environment in VENV, pinned as on every other machine. Run again, it only updates.
#     setup_node.sh PROJECT VENV
set -euo pipefail
project=$1 venv=$2

newest_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" > /dev/null && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$name"
            return
        fi
    done
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(newest_python)
    if [ -z "$python" ]; then # Ubuntu has Python without what makes environments
        sudo apt-get update -qq
        sudo apt-get install -y -qq python3 python3-venv
        python=$(newest_python)
    fi
    if [ -z "$python" ]; then
        echo "error: a node needs Python 3.11 or newer, $(hostname) has $(python3 --version); install one, or take a newer image" >&2
        exit 1
    fi
    "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --constraint "$project/constraints.txt" "$project"
chmod 600 ~/.ray/auth_token # who reads it may run anything on the cluster
