#!/bin/sh
# Run one of the Python scripts of this folder the way training wants it: one big jemalloc arena that keeps its pages
# (glibc hands large blocks back to the kernel and takes page faults for it), a fixed number of threads that hardly spin
# while they wait for one another, low priority.
# usage: tools/train/run.sh train.py [arguments]
set -e
folder=$(cd "$(dirname "$0")" && pwd)
jemalloc=$(find /usr/lib -name libjemalloc.so.2 | head -n 1)
export MALLOC_CONF=narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,tcache:false,background_thread:false
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-3000}"
script=$1
shift
exec nice -n 15 env LD_PRELOAD="$jemalloc" /usr/bin/python3 "$folder/$script" "$@"
