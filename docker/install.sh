#!/bin/sh
# Steps of the Dockerfile, in its own stages.
#   install.sh tools                   what makes the wheel and the bill of materials, in /build/env
#   install.sh packages EXTRA,EXTRA    the packages that these extras of setup.py need, in /opt/tandem; versions and hashes of the locks
#   install.sh tandem                  Tandem itself from its wheel, and the bill of materials of all that is there
set -eu
into=/opt/tandem/bin/python
cd "$(dirname "$0")"
work=$(mktemp -d)
# The certificates of the base: a company adds its own there.
export PATH="$PWD/uv/bin:$PATH" UV_LINK_MODE=hardlink UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 UV_SYSTEM_CERTS=1
locks="--constraints requirements-modern.lock --constraints tensorflow-cpu.lock"

# What ships with packages and nobody runs: headers, static libraries, symbols for debuggers, their own tests, the page of Feast's UI, Arrow's
# RPC, TensorFlow's reader of StableHLO and its client of other processes' profilers, colours for languages that no traceback is in, and what
# TensorFlow and Feast ask for and never import (setuptools: where Beam is not, which packs its jobs with it; TensorBoard reads logs without
# its data server, too). Libraries that auditwheel has moved (*.libs) do not stand being stripped.
trim() {
    uv pip uninstall --quiet --python $into mypy ast-serialize libclang tensorboard-data-server
    [ -d "$(echo /opt/tandem/lib/python3.*/site-packages/apache_beam)" ] || uv pip uninstall --quiet --python $into setuptools
    site=$(echo /opt/tandem/lib/python3.*/site-packages)
    rm -rf "$site"/tensorflow/include "$site"/pyarrow/include "$site"/numpy/_core/include "$site"/feast/ui/build/static "$site"/pyarrow/*flight*
    rm -rf "$site"/requirements # Feast's own, of its development
    rm -f "$site"/tensorflow/compiler/mlir/stablehlo/stablehlo_extension.so
    # 80 MB behind tf.profiler.experimental.client alone, which "import tensorflow" imports: what it would call says that it is not there.
    profiler="$site"/tensorflow/python/profiler/internal/_pywrap_profiler_plugin
    rm "$profiler.so"
    printf '%s\n' 'def monitor(*_, **__):' '    raise NotImplementedError("this image has no client of other profilers")' 'trace = monitor' \
        >"$profiler.py"
    find "$site"/pygments/lexers -type f ! -name '__init__.*' ! -name '_mapping.*' ! -name 'python.*' ! -name 'special.*' ! -name 'text.*' -delete
    find "$site" -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.pxd' -o -name '*.pyx' \) -delete
    find "$site" -depth -type d -name tests ! -path '*/tensorflow/*' -exec rm -rf {} +
    find "$site" -type f -name '*.so*' ! -path '*.libs/*' -size +100k \
        -exec env LD_LIBRARY_PATH="/tools/lib/$(uname -m)-linux-gnu" /tools/bin/strip --strip-unneeded {} + || true # what is no program stays
}

case $1 in
tools)
    uv venv --quiet --python python3 env
    printf '%s\n' setuptools wheel cyclonedx-bom >"$work/wanted"
    uv pip compile --quiet --python env/bin/python --constraints requirements-modern.lock "$work/wanted" -o "$work/packages.txt"
    uv pip install --quiet --python env/bin/python --no-deps --require-hashes --constraints requirements-modern.lock -r "$work/packages.txt"
    ;;
packages)
    uv venv --quiet --python python3 /opt/tandem
    cp -r setup.py README.md tandem "$work" # setuptools writes beside it
    # shellcheck disable=SC2046,SC2086 # several words each
    uv pip compile --quiet --python $into --build-constraints requirements-modern.lock --overrides requirements-modern.overrides $locks \
        $(printf -- '--extra %s ' $(echo "$2" | tr , ' ')) "$work/setup.py" -o "$work/packages.txt"
    # shellcheck disable=SC2086
    uv pip install --quiet --python $into --no-deps --compile-bytecode --require-hashes $locks -r "$work/packages.txt"
    trim
    ;;
tandem)
    uv pip install --quiet --python $into --offline --no-deps --compile-bytecode /dist/*.whl
    env/bin/cyclonedx-py environment --output-reproducible --output-format JSON --output-file /opt/tandem/sbom.json $into
    ;;
esac
rm -rf "$work"
