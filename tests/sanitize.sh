#!/usr/bin/env bash
# sanitize.sh PYTHON FOLDER: build the engine with AddressSanitizer and UndefinedBehaviorSanitizer in FOLDER and run the op,
# tape and binding tests on it.  PYTHON has the test requirements.
set -euo pipefail
python=$1 folder=$2 root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$folder" && cp -r "$root"/{csrc,python,tests,setup.py,pyproject.toml,README.md,LICENSE} "$folder"
cd "$folder" && rm -f python/worldmodel/_core*.so
"$python" -m pip -q install setuptools
WORLDMODEL_CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
    "$python" setup.py -q build_ext --inplace
# Python itself leaks at exit, so leaks are the leak test's business; allocations come back NULL rather than abort.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export PYTHONPATH=python PYTHONMALLOC=malloc
"$python" -c "import worldmodel, pathlib; assert pathlib.Path(worldmodel.__file__).is_relative_to('$folder'), worldmodel.__file__"
"$python" -m pytest -x tests/core tests/ops tests/kernels -p no:cacheprovider -k "not twenty_thousand and not peak and not less_memory"
