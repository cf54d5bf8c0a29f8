#!/bin/sh
# Boots Debian's riscv64 kernel to a shell in this terminal. Arguments are qemud's: ./boot -m 512
set -e
home=$(dirname "$0")
"$home/tools/environment"
exec "$home/.venv/bin/python" -m qemud.demo.debian "$@"
