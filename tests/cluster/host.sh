#!/bin/bash
# The first process of a test host: give it a file system view of its own, then serve ssh until it is killed.
#     ip netns exec NETNS unshare --mount --uts --pid --fork --mount-proc --kill-child bash host.sh NAME FOLDER
# FOLDER holds home/ (root's home on this host), passwd (which says so) and sshd_config.
set -euo pipefail
name=$1 folder=$2

mount --make-rprivate /
hostname "$name"
ip link set lo up
mount --bind "$folder/passwd" /etc/passwd
mount -t tmpfs -o size=8g,mode=1777 tmpfs /dev/shm                     # Ray's object store
mkdir -p /tmp/ray && mount -t tmpfs -o size=1g,mode=1777 tmpfs /tmp/ray # Ray's session: a disk that can be filled
for place in /tmp/rdd-features-0 /tmp/_ray_lockfiles; do               # what the processes of one machine share
    mkdir -p "$place" "$folder$place"
    mount --bind "$folder$place" "$place"
done
mkdir -p /run/sshd

# bash stays process 1, since it also waits for those whose parent has ended; sshd would leave them as zombies
/usr/sbin/sshd -D -e -f "$folder/sshd_config" &
wait $!
