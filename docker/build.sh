#!/usr/bin/env bash
# build.sh: build and push the images in TARGETS, and print one line for each to stdout: `worker=repository@sha256:…`.
# Environment variables: REPOSITORY, KELPIE_SHA256, and optionally TARGETS ("worker", "dev" or both), MODEL_ID, TAG_SUFFIX,
# VSCODE_SHA256, VSCODE_VERSION, HF_TOKEN. Needs Docker with buildx, logged in to the registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

: "${REPOSITORY:?where to push to, such as docker.io/me/flux-trainer}"
read -ra targets <<<"${TARGETS:-worker}"
for target in "${targets[@]}"; do
    case $target in
    worker) : "${KELPIE_SHA256:?the SHA-256 of the worker binary; docker/README.md says where from}" ;;
    dev) : "${VSCODE_SHA256:?the SHA-256 of the VS Code CLI; docker/README.md says where from}" ;;
    *) echo "TARGETS: $target is neither worker nor dev" >&2 && exit 2 ;;
    esac
done

result=$(mktemp)
trap 'rm -f "$result"' EXIT
# Make builds reproducible: the image has no build time and no provenance record of the machine.
SOURCE_DATE_EPOCH=0 docker buildx bake --file docker-bake.hcl --push --provenance=false --metadata-file "$result" \
    "${targets[@]}" >&2
for target in "${targets[@]}"; do
    digest=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]]["containerimage.digest"])' \
        "$result" "$target")
    echo "$target=$REPOSITORY@$digest"
done
