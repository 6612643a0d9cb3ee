#!/usr/bin/env bash
# Everything that needs a GPU, on a machine with one and with a CUDA build of torch: build, tests, memcheck, racecheck, benchmark.
#   PYTHON=python3 OUT=/tmp/gpu_check cuda_ext/gpu_check.sh
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${OUT:-gpu_check}
mkdir -p "$out"
failed=0

step() { # step NAME COMMAND...: runs it, keeps its output, goes on after a failure
  local name=$1
  shift
  if "$@" >"$out/$name.log" 2>&1; then echo "$name: passed"; else
    echo "$name: FAILED, see $out/$name.log"
    tail -n 25 "$out/$name.log"
    failed=1
  fi
}

nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader | tee "$out/gpu.txt"
target=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
export FUSION3D_CUDA=1 FUSION3D_CUDA_TARGETS="$target"
step build "$python" cuda_ext/build.py -j 8
step loaded "$python" -c \
  'import sys; from fusion3d.ops import native; print(*native.report(), sep="\n"); sys.exit(not native.NATIVE.cuda_targets)'
step tests "$python" -m pytest -q tests/cuda_ext tests/ops
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  # --target-processes: python may be a wrapper; torch's own kernels pass both tools
  some="cuda and not opcheck and (equals_the_reference or huge or hostile or layout)"
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # else a read past a tensor stays inside torch's pool and is not seen
  step memcheck "$sanitizer" --tool memcheck --target-processes all --error-exitcode 9 \
    "$python" -m pytest -q -x tests/cuda_ext -k "$some"
  step racecheck "$sanitizer" --tool racecheck --target-processes all --error-exitcode 9 \
    "$python" -m pytest -q -x tests/cuda_ext -k "$some and (32 or quantile)"
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  echo "memcheck, racecheck: not run, compute-sanitizer is not installed"
fi
step bench "$python" tools/bench_ops.py --device cuda --output "$out/bench.md"
cat "$out/bench.md" 2>/dev/null
exit $failed
