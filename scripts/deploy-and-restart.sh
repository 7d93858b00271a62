#!/bin/sh
# Replaces services with their next version without losing a request. Takes the place of a script that stopped and started
# them. Arguments go to `compose-zd deploy`: services, flags, or none. The exit code is that of compose-zd.
set -eu

# The project of this script, whatever the current folder is.
cd "$(dirname "$0")/.."

exec "${COMPOSE_ZD:-compose-zd}" deploy "$@"
