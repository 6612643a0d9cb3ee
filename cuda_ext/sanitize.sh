#!/usr/bin/env bash
# Runs the CPU operators under sanitizers, which name the line of a wild read or write, of undefined behaviour, of a data race:
#   cuda_ext/sanitize.sh [address|thread] [pytest arguments]     both, and all tests of the operators, unless said otherwise
# address also looks for undefined behaviour. PYTHON=.venv/bin/python by default.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
compiler=$(command -v "${CXX:-g++}") || { echo "sanitizers: skipped: ${CXX:-g++} is not found; install g++"; exit 0; }
kinds=(address thread)
case ${1:-} in address | thread) kinds=("$1") && shift ;; esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# opcheck and compile look at schemas, not at kernels; the replay has no threads
all=(tests/cuda_ext --ignore=tests/cuda_ext/test_large_sizes.py -k "not opcheck and not compile and not packag and not consistent")
plain() { # plain COMMAND...: as is, without random addresses where the kernel lets us: ThreadSanitizer knows few layouts
  if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi
}
planted() { # planted FUNCTION: the sanitizer must report it
  plain "$python" -c "import ctypes, sys, torch; getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(ctypes.c_int64(1))" \
    "$FUSION3D_LIBRARY" "$1" >"$scratch/report.planted" 2>&1 || true
  if ! grep -qE "Sanitizer: (heap-buffer-overflow|data race)|runtime error: signed integer overflow" "$scratch"/report*; then
    cat "$scratch"/report*
    echo "sanitizers: FAILED: $1 was not reported, so nothing would be" >&2
    exit 1
  fi
  rm -f "$scratch"/report*
}
failed=0
for kind in "${kinds[@]}"; do
  FUSION3D_CUDA=0 "$python" cuda_ext/build.py --sanitize "$kind" --output "$scratch/$kind.so"
  [ "$kind" = address ] || all[-1]+=" and not replay"
  export FUSION3D_SANITIZE=$kind FUSION3D_LIBRARY="$scratch/$kind.so" PYTHONMALLOC=malloc OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
  # Reports go to files, those of undefined behaviour to the terminal, which pytest must not capture. Python is not built with a
  # sanitizer, so its runtime is preloaded: leaks are Python's own; libstdc++ comes early so that exceptions are seen; races inside
  # torch are torch's.
  export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$scratch/report"
  export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$scratch/report"
  export TSAN_OPTIONS="ignore_noninstrumented_modules=1:exitcode=0:log_path=$scratch/report"
  if [ "$kind" = address ]; then runtimes="libasan.so libubsan.so libstdc++.so"; else runtimes="libtsan.so libstdc++.so"; fi
  LD_PRELOAD=""
  for runtime in $runtimes; do LD_PRELOAD+=" $("$compiler" -print-file-name="$runtime")"; done
  export LD_PRELOAD
  case $kind in
    address) planted fusion3d_planted_overrun && planted fusion3d_planted_overflow ;;
    thread) planted fusion3d_planted_race ;;
  esac
  status=0
  plain "$python" -m pytest -p no:cacheprovider --capture=sys -q -x "${@:-${all[@]}}" || status=$?
  export LD_PRELOAD=""
  cat "$scratch"/report* 2>/dev/null && status=1
  rm -f "$scratch"/report*
  if [ "$status" -eq 0 ]; then echo "$kind sanitizer: nothing found"; else echo "$kind sanitizer: FAILED" >&2 && failed=1; fi
done
exit "$failed"
