#!/usr/bin/env bash
# sanitize.sh PYTHON: the emulated CUDA library under AddressSanitizer + UBSan, then ThreadSanitizer (races between CUDA threads):
# one call of every op with its gradients, products and attention on tensor cores.  PYTHON has worldmodel and NumPy.
set -euo pipefail
python=$1 here=$(cd "$(dirname "$0")" && pwd)
gcc=${CC:-gcc} gcc=${gcc##* }
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
for kind in asan tsan; do
    library=$("$python" -c "import sys; sys.path.insert(0, '$here/..'); import emulated as e
ok, why = e.possible()
print(e.library('$kind') if ok else 'skipped: ' + why)")
    case $library in skipped*) echo "emulated CUDA, $kind: $library"; continue ;; esac
    if [ "$kind" = asan ]; then
        preload="$("$gcc" -print-file-name=libasan.so) $("$gcc" -print-file-name=libubsan.so)"
    else
        preload=$("$gcc" -print-file-name=libtsan.so)
    fi
    echo "emulated CUDA under $kind"
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS="history_size=2 exitcode=66 halt_on_error=1" \
        PYTHONMALLOC=malloc WORLDMODEL_CUDA_LIBRARY=$library LD_PRELOAD=$preload "$python" "$here/every_op.py"
done
