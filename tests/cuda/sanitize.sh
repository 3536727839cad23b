#!/usr/bin/env bash
# sanitize.sh PYTHON [KIND [OP...]]: the emulated CUDA library under AddressSanitizer + UBSan (asan, the default), or under
# ThreadSanitizer (tsan: races between CUDA threads; slow, a fiber costs half a millisecond there): one call of every op (or of those
# named) with its gradients, products and attention on tensor cores.  PYTHON has worldmodel and NumPy.
set -euo pipefail
python=$1 kind=${2:-asan} here=$(cd "$(dirname "$0")" && pwd)
gcc=${CC:-gcc} gcc=${gcc##* }
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
library=$("$python" -c "import sys; sys.path.insert(0, '$here/..'); import emulated as e
ok, why = e.possible()
print(e.library('$kind') if ok else 'skipped: ' + why)")
case $library in skipped*) echo "emulated CUDA, $kind: $library"; exit 0 ;; esac
if [ "$kind" = asan ]; then
    preload="$("$gcc" -print-file-name=libasan.so) $("$gcc" -print-file-name=libubsan.so)"
else
    preload=$("$gcc" -print-file-name=libtsan.so)
fi
echo "emulated CUDA under $kind"
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="history_size=2 exitcode=66 halt_on_error=1" \
    PYTHONMALLOC=malloc WORLDMODEL_CUDA_LIBRARY=$library LD_PRELOAD=$preload "$python" "$here/every_op.py" "${@:3}"
