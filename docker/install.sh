#!/bin/sh
# Steps of the Dockerfile, in its own stages.
#   install.sh packages EXTRA,EXTRA    the packages that these extras of setup.py need, in /opt/tandem; versions and hashes of the locks
#   install.sh tandem                  Tandem itself from its wheel, and the bill of materials of all that is there
set -eu
into=/opt/tandem/bin/python
cd "$(dirname "$0")"

# What ships with packages and nobody runs: headers, static libraries, their own tests, and what TensorFlow and Feast ask for and never import.
trim() {
    uv pip uninstall --quiet --python $into mypy libclang
    site=$(echo /opt/tandem/lib/python3.*/site-packages)
    rm -rf "$site"/tensorflow/include "$site"/pyarrow/include "$site"/numpy/_core/include
    find "$site" -name '*.a' -delete
    for package in numpy pandas pyarrow scipy sklearn; do
        [ ! -d "$site/$package" ] || find "$site/$package" -depth -type d -name tests -exec rm -rf {} +
    done
}

case $1 in
packages)
    locks="--constraints requirements-modern.lock --constraints tensorflow-cpu.lock"
    uv venv --quiet --python python3 /opt/tandem
    # shellcheck disable=SC2046,SC2086 # several words each
    uv pip compile --quiet --python $into --build-constraints requirements-modern.lock --overrides requirements-modern.overrides $locks \
        $(printf -- '--extra %s ' $(echo "$2" | tr , ' ')) setup.py -o packages.txt
    # shellcheck disable=SC2086
    uv pip install --quiet --python $into --no-deps --compile-bytecode --require-hashes $locks -r packages.txt
    trim
    ;;
tandem)
    uv pip install --quiet --python $into --offline --no-deps --compile-bytecode /dist/*.whl
    env/bin/cyclonedx-py environment --output-reproducible --output-format JSON --output-file /opt/tandem/sbom.json $into
    ;;
esac
