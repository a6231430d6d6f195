#!/bin/bash
# Install the watcher as a systemd unit for the user who calls this, and start it anew. Run again, it only updates.
#     install.sh PROJECT VENV          # the project's directory, and its environment
#     install.sh --print PROJECT VENV  # shows the unit alone
set -euo pipefail
print=false
if [ "${1:-}" = --print ]; then
    print=true
    shift
fi
project=$(realpath "$1") venv=$(realpath --no-symlinks "$2")
name=rdd-spot-watcher.service

unit() {
    sed -e "s|@USER@|$(id -un)|" -e "s|@HOME@|$HOME|" -e "s|@VENV@|$venv|" -e "s|@PROJECT@|$project|" \
        "$project/cluster/spot_watcher/$name"
}

if $print; then
    unit
    exit
fi
unit | sudo tee "/etc/systemd/system/$name" >/dev/null
sudo systemctl daemon-reload
sudo systemctl enable --quiet "$name"
sudo systemctl restart "$name"
