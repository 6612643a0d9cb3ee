#!/usr/bin/env bash
# Runs the operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer: a wild read or write names its line.
#   cuda_ext/sanitize.sh [pytest arguments]        PYTHON=.venv/bin/python by default
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
FUSION3D_CUDA=0 "$python" cuda_ext/build.py --sanitize --output "$scratch/operators.so"
# Python is not built with ASan, so its runtime comes first; leaks are Python's own; libstdc++ so that ASan sees C++ exceptions.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
# To a file, for pytest would swallow the report of a process that dies.
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$scratch/report"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$scratch/report"
export FUSION3D_LIBRARY="$scratch/operators.so" OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} PYTHONMALLOC=malloc
# opcheck and compile look at schemas, not at kernels, and are slow here
all=(tests/cuda_ext tests/ops/test_column_pool.py -k "not opcheck and not compiles and not consistent")
status=0
"$python" -m pytest -p no:cacheprovider -q -x "${@:-${all[@]}}" || status=$?
unset LD_PRELOAD
cat "$scratch"/report* 2>/dev/null && status=1
[ "$status" -eq 0 ] && echo "sanitizers: nothing found" || echo "sanitizers: FAILED" >&2
exit "$status"
