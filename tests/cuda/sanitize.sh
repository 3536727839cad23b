#!/usr/bin/env bash
# sanitize.sh PYTHON [KIND [OP...]]: the emulated CUDA library under AddressSanitizer + UBSan (asan, the default), or under
# ThreadSanitizer (tsan): every CUDA thread is a fiber to it, so it sees two of them, of one block or of two, that touch a number
# with nothing between.  One call of every op (or of those named) on small shapes, with its gradients; products and attention on
# tensor cores.  tsan must also see the race in a library without one of the barriers.  PYTHON has worldmodel and NumPy.
set -euo pipefail
python=$1 kind=${2:-asan} here=$(cd "$(dirname "$0")" && pwd)
gcc=${CC:-gcc} gcc=${gcc##* }
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
build() {
    "$python" -c "import sys; sys.path.insert(0, '$here/..'); import emulated as e
ok, why = e.possible()
print(e.library('$kind', tuple(sys.argv[1:])) if ok else 'skipped: ' + why)" "$@"
}
library=$(build)
case $library in skipped*) echo "emulated CUDA, $kind: $library"; exit 0 ;; esac
if [ "$kind" = asan ]; then
    preload="$("$gcc" -print-file-name=libasan.so) $("$gcc" -print-file-name=libubsan.so)"
else
    preload=$("$gcc" -print-file-name=libtsan.so)
fi
run() {
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="history_size=2 exitcode=66 halt_on_error=1" \
        PYTHONMALLOC=malloc WORLDMODEL_CUDA_LIBRARY=$1 LD_PRELOAD=$preload "$python" "$here/every_op.py" "${@:2}"
}
echo "emulated CUDA under $kind"
run "$library" "${@:3}"
if [ "$kind" = tsan ]; then
    planted=$(build WM_PLANT_NO_BARRIER)
    said=$(run "$planted" linear 2>&1) && { echo "tsan did not see the missing barrier"; exit 1; }
    grep -q "data race" <<< "$said" || { echo "$said"; exit 1; }
    echo "and the missing barrier is seen: $(grep -m 1 '#0' <<< "$said" | sed 's/^ *//')"
fi
