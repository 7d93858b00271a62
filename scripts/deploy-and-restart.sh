#!/bin/sh
# Stands where a script of this name stopped and started services: replaces them by their next version without losing a
# request. Arguments go to `compose-zd deploy`: services, flags, or none. Exits as compose-zd does.
set -eu

# The project that this script lies in, from wherever it is called.
cd "$(dirname "$0")/.."

exec "${COMPOSE_ZD:-compose-zd}" deploy "$@"
